"""The programs on real pictures: two photos, a teacher, an epoch of a few scenes."""

import json
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from device import faces
from device.camera import read_picture
from device.program import InputError
from train import encoders
from train.checkpoints import Checkpoints
from train.detector import distil, network, photos, scenes
from train.detector.distil import Composer, Settings
from train.detector.photos import Photo
from train.detector.scenes import Sources
from train.detector.teacher import Faces

ASTRONAUT = [178, 65, 90, 111, 203, 102, 247, 103, 225, 130, 203, 142, 245, 145, 0.9]  # her face as YuNet has it


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("detector")
    return Settings(photos=("photos",), teacher="yunet", cache=str(folder), height=64, width=96, scenes=4, batch=2, epochs=2)


@pytest.fixture(scope="module")
def material(astronaut):
    photo = Photo("her", read_picture(astronaut), Faces(np.array([ASTRONAUT], np.float32), np.array([True])))
    nobody = photos.empty({"grey": np.full((90, 120, 3), 80, np.uint8)})
    return distil.Material(Sources([photo], nobody), [photo], nobody)


def test_scenes_of_an_epoch_are_made_ahead_and_are_the_same(settings, material):
    composer = Composer(material.sources, settings)
    first = list(composer.batches(0))
    assert [tuple(array.shape) for array in first[0]] == [(2, 64, 96, 3), (2, scenes.MOST, 15), (2, scenes.MOST)]
    assert len(first) == len(composer.batches(1)) == 2
    again = Composer(material.sources, settings)
    for one, two in zip(composer.batches(1), again.batches(1), strict=True):
        for left, right in zip(one, two, strict=True):
            np.testing.assert_array_equal(left, right)


def test_photos_are_framed_with_their_faces(material):
    picture, seen = distil.framed(material.judged[0], 240, 320)
    assert picture.shape == (240, 320, 3)
    np.testing.assert_allclose(seen.rows[0, :14], np.array(ASTRONAUT[:14]) * 240 / 512, rtol=1e-4)
    assert seen.sure.all()
    assert not distil.framed(material.judged[0], 24, 32)[1].sure.any()  # five pixels there


@pytest.mark.slow
def test_a_run_is_written_and_goes_on(settings, material, tmp_path, monkeypatch):
    monkeypatch.setattr(distil, "material", lambda given: material)
    out = tmp_path / "run"

    class Stop(Exception):
        pass

    def after_one(self, epoch, step):
        save(self, epoch, step)
        if epoch == 1:
            raise Stop

    save = Checkpoints.save
    monkeypatch.setattr(Checkpoints, "save", after_one)
    with pytest.raises(Stop):
        distil.distil(settings, out)
    first = network.load(str(out / distil.KEPT)).get_weights()
    distil.distil(settings, out, resume=True)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    assert {"loss", "heat", "box", "landmarks", "recall", "false_empty"} <= set(lines[1])
    second = network.load(str(out / distil.KEPT)).get_weights()
    assert any(np.abs(a - b).max() > 0 for a, b in zip(first, second, strict=True))
    started = distil.build(replace(settings, init=str(out))).net.get_weights()
    assert all(np.array_equal(a, b) for a, b in zip(started, second, strict=True))
    with pytest.raises(InputError, match="is in use"):
        distil.distil(settings, out)


@pytest.mark.slow
def test_it_learns_a_face(settings, material):
    """One picture by heart: the heat is greatest where the face is, and the landmarks are where they are."""
    model = distil.build(replace(settings, height=96, width=128, rate=2e-3, epochs=75, warmup=0.1))
    picture, seen = distil.framed(material.judged[0], 96, 128)
    rows, kinds = np.zeros((1, scenes.MOST, 15), np.float32), np.zeros((1, scenes.MOST), np.int32)
    rows[:, 0], kinds[:, 0] = seen.rows[0], scenes.FACE
    batch = picture[None], rows, kinds
    model.fit(tf.data.Dataset.from_tensors(batch).repeat(150), verbose=0)
    maps = model.net(encoders.scale(batch[0]), training=True)  # the moving averages of BatchNorm lag behind
    heat, geometry = maps["heat8"].numpy()[0, ..., 0], maps["geometry8"].numpy()[0]
    found = faces.decode({8: (np.where(heat == heat.max(), 3.0, -9.0), geometry)}, 0.5)
    assert np.abs(found[0, :14] - seen.rows[0, :14]).mean() < 1


def test_bad_settings_are_told(settings, tmp_path, capsys):
    for wrong in ({"scenes": 0}, {"batch": 0}, {"rate": -1.0}, {"scenes": 1}, {"crops_every": 0}):
        with pytest.raises(InputError):
            replace(settings, **wrong)
    assert distil.main(["--out", str(tmp_path / "run")]) == 2
    assert "--photos and --teacher" in capsys.readouterr().err
    assert distil.main(["--resume", str(tmp_path / "none")]) == 2
    assert not (tmp_path / "run").exists()


def test_missing_photos_and_teachers_write_nothing(tmp_path, data, yunet, capsys):
    for given in (
        ["--photos", tmp_path / "none.zip", "--teacher", yunet],
        ["--photos", data / "wild.zip", "--teacher", tmp_path / "x.onnx"],
    ):
        assert distil.main([*map(str, given), "--out", str(tmp_path / "run")]) == 2
    assert not (tmp_path / "run").exists()
    assert len(capsys.readouterr().err.splitlines()) == 2
