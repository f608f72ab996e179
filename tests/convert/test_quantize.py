"""Quantisation end to end on a narrow encoder and parts of the two photos."""

import json

import cv2
import numpy as np
import pytest

from convert import check, quantize
from device import bundle
from device.embed import Encoder
from device.program import InputError
from train import encoders
from train.data import read_crops


@pytest.fixture(scope="module")
def made(tmp_path_factory, astronaut, grace_hopper):
    """A folder with faces/, cohort.txt, encoder.keras and the bundle `small` made of them by the program."""
    folder = tmp_path_factory.mktemp("quantize")
    rng = np.random.default_rng(0)
    (folder / "faces").mkdir()
    for number in range(90):
        photo = cv2.imread(str((astronaut, grace_hopper)[number % 2]))
        y, x = (int(rng.integers(0, limit - 112)) for limit in photo.shape[:2])
        cv2.imwrite(str(folder / "faces" / f"{number:02d}.png"), photo[y : y + 112, x : x + 112])
    (folder / "cohort.txt").write_text("\n".join(f"faces/{number:02d}" for number in range(50)) + "\n")
    encoders.keras.utils.set_random_seed(0)
    images = read_crops([folder / "faces"]).images
    encoders.whitened(encoders.build("fused", dimension=16, width=0.25), images).save(folder / "encoder.keras", save_format="keras")
    status = quantize.main(arguments(folder, folder / "small", "--epochs", "1", "--batch", "8", "--licence", "test only"))
    (folder / "status").write_text(str(status))
    return folder


def arguments(folder, out, *more):
    common = ["--encoder", str(folder / "encoder.keras"), "--crops", str(folder / "faces"), "--cohort", str(folder / "cohort.txt")]
    return [*common, "--out", str(out), *more]


@pytest.mark.slow
def test_the_bundle_is_whole_and_follows_the_contract(made, validate):
    loaded = bundle.load(made / "small")
    validate(loaded.manifest, "manifest")
    assert set(loaded.manifest["files"]) == {"encoder.tflite", "encoder.keras", "cohort.npz", "report.json", "CARD.md"}
    cosines = [entry["threshold"] for entry in loaded.manifest["thresholds"]]
    assert cosines == sorted(cosines), "a lower rate asks for more likeness"
    cohort = np.load(made / "small" / "cohort.npz")["embeddings"]
    assert (cohort.dtype, cohort.shape) == (np.int8, (50, 16))
    card = (made / "small" / "CARD.md").read_text()
    assert loaded.encoder in card and "test only" in card


@pytest.mark.slow
def test_the_model_is_full_int8_and_takes_bytes_as_the_design_says(made):
    encoder = Encoder(made / "small" / "encoder.tflite")
    assert encoder.input.scale == pytest.approx(1 / 127.5, rel=1e-3)
    assert encoder.input.zero_point in (127, 128)
    assert check.check(made / "small" / "encoder.tflite")["maps"] == "all"


@pytest.mark.slow
def test_int8_gives_what_float_gives(made):
    images = read_crops([made / "faces"]).images
    float_ = encoders.embed(encoders.load(str(made / "small" / "encoder.keras")), images)
    int8 = Encoder(made / "small" / "encoder.tflite").embed(images)
    assert (float_ * int8).sum(1).mean() > 0.9
    report = json.loads((made / "small" / "report.json").read_text())
    assert report["parity"]["mean"] == pytest.approx((float_ * int8).sum(1)[:50].mean(), abs=0.02), "measured on the cohort's crops"


@pytest.mark.slow
def test_the_status_says_whether_parity_holds(made, monkeypatch, tmp_path, capsys):
    parity = json.loads((made / "small" / "report.json").read_text())["parity"]
    holds = parity["mean"] >= 0.98 and parity["first_percentile"] >= 0.95
    assert (made / "status").read_text() == ("0" if holds else "1")
    small = bundle.load(made / "small")
    monkeypatch.setattr(quantize, "make_bundle", lambda *args: small)
    for least, status in ((0.0, 0), (1.01, 1)):
        monkeypatch.setattr(quantize, "LEAST_MEAN", least)
        monkeypatch.setattr(quantize, "LEAST_FIRST_PERCENTILE", 0.0)
        assert quantize.main(arguments(made, tmp_path / "x")) == status
    assert "raise --epochs or add crops" in capsys.readouterr().err


@pytest.mark.slow
def test_calibrated_ranges_are_those_that_the_crops_reach(made):
    """Without training, the fake-quantised encoder is already near the float one."""
    teacher = encoders.folded(encoders.load(str(made / "encoder.keras")))
    images = read_crops([made / "faces"]).images[:32]
    student = quantize.fake_quantised(teacher, images)
    outputs = student(encoders.scale(images), training=False).numpy()
    expected = encoders.outputs(teacher, images)
    assert np.corrcoef(outputs.ravel(), expected.ravel())[0, 1] > 0.95


def test_thresholds_are_quantiles_of_stranger_pairs():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(300, 8))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = [rows[i] @ rows[j] for i in range(300) for j in range(i)]
    assert [entry["far"] for entry in quantize.thresholds(rows, (0.1, 1e-4, 1e-5))] == [0.1, 1e-4], "44850 pairs do not carry 1e-5"
    for entry in quantize.thresholds(rows, (0.1, 0.01)):
        assert np.mean(np.array(cosines) > entry["threshold"]) == pytest.approx(entry["far"], abs=2e-4)
        assert "44850 pairs of 300" in entry["measured_on"]


@pytest.mark.slow
def test_a_bundle_is_never_changed_in_place(made, capsys):
    before = (made / "small" / "manifest.json").read_bytes()
    assert quantize.main(arguments(made, made / "small")) == 2
    assert "never changed in place" in capsys.readouterr().err
    assert (made / "small" / "manifest.json").read_bytes() == before


@pytest.mark.slow
def test_bad_input_writes_nothing(made, tmp_path, capsys):
    (tmp_path / "x.keras").write_bytes(b"nothing")
    wrong = arguments(made, tmp_path / "new")
    wrong[1] = str(tmp_path / "x.keras")
    assert quantize.main(wrong) == 2
    assert "is not a Keras encoder" in capsys.readouterr().err
    (tmp_path / "cohort.txt").write_text("faces/none\n")
    wrong = [*arguments(made, tmp_path / "new"), "--cohort", str(tmp_path / "cohort.txt")]
    assert quantize.main(wrong) == 2
    assert "no crops in" in capsys.readouterr().err
    (tmp_path / "cohort.txt").write_text("faces/01\nfaces/02\n")
    assert quantize.main(wrong) == 2
    assert "2 crops of strangers are too few" in capsys.readouterr().err
    assert quantize.main(arguments(made, tmp_path / "new", "--batch", "64")) == 2
    assert "40 crops do not fill a batch of 64: lower --batch or add photos" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_an_encoder_of_another_size_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(encoders, "load", lambda path: encoders.build("fused", size=64, dimension=16, width=0.25))
    settings = quantize.Settings(tmp_path / "e.keras", (tmp_path,), tmp_path / "cohort.txt")
    with pytest.raises(InputError, match=r"takes 64x64, not 112x112: train it with --size 112"):
        quantize.quantise(settings)
