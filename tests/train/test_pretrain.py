"""The program on real pictures: parts of the two photos stand for faces, the encoder is narrow, an epoch takes a moment."""

import json

import cv2
import numpy as np
import pytest

from train import encoders, pretrain
from train.checkpoints import Keeper
from train.data import read_crops
from train.runs import Cosine, Run


@pytest.fixture(scope="module")
def crops(tmp_path_factory, astronaut, grace_hopper):
    folder = tmp_path_factory.mktemp("pretrain") / "faces"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(48):
        photo = cv2.imread(str((astronaut, grace_hopper)[number % 2]))
        y, x = (int(rng.integers(0, limit - 112)) for limit in photo.shape[:2])
        cv2.imwrite(str(folder / f"{number:02d}.png"), photo[y : y + 112, x : x + 112])
    return folder


def arguments(crops, out, *more):
    small = ["--width", "0.25", "--size", "32", "--batch", "16", "--projection", "32", "--dimension", "16", "--rate", "0.3"]
    return ["--crops", str(crops), "--out", str(out), *small, *more]


def figures(run_folder):
    return [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_a_run_trains_reports_and_leaves_an_encoder(crops, tmp_path, capsys):
    out = tmp_path / "run"
    assert pretrain.main(arguments(crops, out, "--epochs", "2", "--precision", "mixed_bfloat16")) == 0
    printed = capsys.readouterr()
    assert printed.out.strip() == str(out / "encoder.keras")
    assert "std_healthy" in printed.err and "images_per_second" in printed.err
    first, second = figures(out)
    assert first["std_healthy"] == pytest.approx(32**-0.5)
    assert {"loss", "std", "effective_rank", "images_per_second"} <= second.keys()
    model = encoders.load(str(out / "encoder.keras"))
    assert model.input_shape == (None, 32, 32, 3)
    assert {layer.compute_dtype for layer in model.layers} == {"float32"}
    images = read_crops([crops]).images
    assert np.isfinite(encoders.embed(model, images)).all()
    np.testing.assert_allclose(encoders.outputs(model, images).mean(0), 0, atol=0.05, err_msg="the embedding is whitened")


@pytest.mark.slow
def test_resuming_gives_what_an_unbroken_run_gives(crops, tmp_path, monkeypatch):
    pretrain.main(arguments(crops, tmp_path / "whole", "--epochs", "3"))
    step = Keeper.on_train_batch_end

    def interrupted(self, batch, logs):
        step(self, batch, logs)
        if self.model.optimizer.iterations == 4:  # of nine: in the second epoch
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Keeper, "on_train_batch_end", interrupted)
        assert pretrain.main(arguments(crops, tmp_path / "broken", "--epochs", "3", "--save-every", "0")) == 130
    assert pretrain.main(["--resume", str(tmp_path / "broken")]) == 0
    whole, broken = figures(tmp_path / "whole"), figures(tmp_path / "broken")
    assert [row["epoch"] for row in broken] == [1, 2, 3]
    assert [row["loss"] for row in broken] == pytest.approx([row["loss"] for row in whole], rel=1e-6)


@pytest.mark.slow
def test_a_run_can_start_from_another_at_another_size(crops, tmp_path):
    pretrain.main(arguments(crops, tmp_path / "small", "--epochs", "1"))
    more = ["--size", "48", "--init", str(tmp_path / "small"), "--dimension", "99", "--projection", "99"]
    assert pretrain.main(arguments(crops, tmp_path / "large", "--epochs", "1", *more)) == 0
    model = encoders.load(str(tmp_path / "large" / "encoder.keras"))
    assert (model.input_shape, model.output_shape) == ((None, 48, 48, 3), (None, 16)), "a model keeps its shape"
    assert pretrain.restored(Run.open(tmp_path / "large")).encoder.output_shape == (None, 16)


@pytest.mark.slow
def test_a_loss_that_is_no_number_stops_the_run(crops, tmp_path, capsys):
    assert pretrain.main(arguments(crops, tmp_path / "run", "--epochs", "1", "--rate", "1e30")) == 2
    assert "lower --rate" in capsys.readouterr().err
    assert not (tmp_path / "run" / "encoder.keras").exists()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["--batch", "1"], "a batch of one has no spread"),
        (["--rate", "0"], "--rate is 0.0: give a number above 0"),
        (["--batch", "500"], "48 crops do not fill a batch of 500: lower --batch or add photos"),
        (["--init", "nowhere"], "nowhere is not a run"),
        (["--without", "nowhere.txt"], "cannot read the list"),
    ],
)
def test_bad_input_is_one_line_and_status_2(crops, tmp_path, capsys, wrong, said):
    status = pretrain.main(arguments(crops, tmp_path / "run", *wrong))
    printed = capsys.readouterr()
    assert status == 2
    assert said in printed.err.splitlines()[-1]
    assert not printed.out
    assert not (tmp_path / "run").exists(), "nothing half-written"


@pytest.mark.parametrize(
    ("picture", "said"),
    [
        (b"not a picture", "faces/bad is not a readable picture"),
        (cv2.imencode(".png", np.zeros((3, 5, 3), np.uint8))[1].tobytes(), "faces/bad is 5x3, a crop is 112x112"),
    ],
    ids=["unreadable", "tiny"],
)
def test_a_bad_picture_is_named_before_anything_is_written(crops, tmp_path, capsys, picture, said):
    (tmp_path / "faces").mkdir()
    (tmp_path / "faces" / "bad.png").write_bytes(picture)
    assert pretrain.main(arguments(crops, tmp_path / "run", "--crops", str(crops), str(tmp_path / "faces"))) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert not (tmp_path / "run").exists()


def test_a_preview_shows_crops_above_their_views(crops, tmp_path, capsys):
    plain = ["--area", "1", "--strength", "0", "--blur", "0", "--grey", "0", "--flip", "0", "--size", "112", "--views", "face"]
    still = ["--rotation", "0", "--shear", "0", "--shift", "0", "--coarse", "0", "--erase", "0"]
    out = tmp_path / "sheet.png"
    assert pretrain.main(["--crops", str(crops), "--preview", str(out), *plain, *still]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    drawn = cv2.imread(str(out))
    assert drawn.shape == (2 * 3 * 114, 12 * 114, 3)  # every second of 48 crops
    first, second = drawn[114:342].reshape(2, 114, -1, 3).astype(int)
    assert np.abs(first - second).mean() < 12, "nothing is changed but the ratio of width and height"
    assert pretrain.main(["--crops", str(crops), "--preview", str(tmp_path)]) == 2
    assert "it is a folder" in capsys.readouterr().err


def test_a_folder_in_use_is_left_alone(crops, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("mine")
    assert pretrain.main(arguments(crops, tmp_path / "run")) == 2
    assert "is in use: choose another --out, or go on with --resume" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.txt"]


def test_resuming_what_is_no_run(tmp_path, capsys):
    assert pretrain.main(["--resume", str(tmp_path)]) == 2
    assert "is not a run" in capsys.readouterr().err
    (tmp_path / "config.toml").write_text("{")
    assert pretrain.main(["--resume", str(tmp_path)]) == 4
    (tmp_path / "config.toml").write_text('crops = []\ncolour = "blue"')
    assert pretrain.main(["--resume", str(tmp_path)]) == 4


def test_no_crops_named(tmp_path, capsys):
    assert pretrain.main(["--out", str(tmp_path / "run")]) == 2
    assert "no crops are named" in capsys.readouterr().err


def test_the_rate_rises_and_falls():
    schedule = Cosine(0.4, steps=100, warmup=10)
    rates = [float(schedule(step)) for step in (0, 5, 10, 55, 100)]
    assert rates == pytest.approx([0.0, 0.2, 0.4, 0.2, 0.0], abs=1e-6)


def test_a_run_folder_keeps_its_settings(tmp_path):
    settings = pretrain.Settings(crops=("a.zip",), seed=3)
    Run.create(tmp_path / "run", settings)
    assert Run.open(tmp_path / "run").settings(pretrain.Settings) == settings
