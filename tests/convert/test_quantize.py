"""Quantisation end to end on a narrow encoder and parts of the two photos."""

import json

import cv2
import numpy as np
import pytest
import tensorflow as tf

from convert import calibration, check, quantize
from device import bundle
from device.embed import Encoder
from device.program import InputError
from train import encoders
from train.data import read_crops


@pytest.fixture(scope="module")
def folder(tmp_path_factory, astronaut, grace_hopper):
    """A folder with faces/, cohort.txt and encoder.keras."""
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
    return folder


@pytest.fixture(scope="module")
def made(folder):
    """The folder, with the bundle `small` made by the program."""
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
    assert set(loaded.manifest["files"]) == {"encoder.tflite", "encoder.keras", "cohort.npz", "report.json", "training.json", "CARD.md"}
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
def test_the_report_tells_every_layer(made):
    report = json.loads((made / "small" / "report.json").read_text())
    assert report["method"] == "distill"
    assert [entry["epoch"] for entry in report["epochs"]] == [0, 1]
    layers = {layer["name"]: layer for layer in report["layers"]}
    assert {"stem_relu", "stage1_block1_project", "stage3_block3_add", "spatial", "embedding"} <= set(layers)
    assert len(layers) == 26, "one for each operation but the first and the last, which only make other bytes"
    for layer in layers.values():
        for side in ("fake_quant", "int8"):
            assert layer[side]["first_percentile"] <= layer[side]["mean"] + 1e-6
            assert 0.8 < layer[side]["mean"] <= 1 + 1e-6
        assert layer["int8"]["mean"] == pytest.approx(layer["fake_quant"]["mean"], abs=0.02), "fake quantisation tells what int8 does"
    assert report["worst_layer"] == max(layers, key=lambda name: layers[name]["lost"])
    ends = layers["stage2_block2_add"]
    before = min(layers[name]["int8"]["mean"] for name in ("stage2_block1_project", "stage2_block2_project"))
    assert ends["lost"] == pytest.approx(before - ends["int8"]["mean"], abs=1e-6)


@pytest.mark.slow
def test_training_starts_from_the_best_calibration_of_the_sweep(made):
    report = json.loads((made / "small" / "report.json").read_text())
    assert [(entry["crops"], entry["ranges"]) for entry in report["sweep"]] == [
        (size, way) for size in (16, 32) for way in calibration.METHODS
    ], "the sizes that 32 crops reach, and all of them"
    best = max(report["sweep"], key=lambda entry: entry["mean"])
    assert report["calibration"] == {key: best[key] for key in ("crops", "ranges")}
    assert report["epochs"][0]["mean"] == pytest.approx(best["mean"], abs=1e-6)


@pytest.mark.slow
def test_the_page_lies_beside_the_encoder_and_not_in_the_bundle(made, tmp_path, capsys):
    text = (made / "report.html").read_text()
    assert text.count("<figure>") == 24
    assert json.loads((made / "small" / "report.json").read_text())["worst_layer"] in text
    assert not (made / "small" / "report.html").exists()
    for html in (made / "small" / "report.html", tmp_path / "new" / "report.html"):
        assert quantize.main(arguments(made, tmp_path / "new", "--report", str(html))) == 2
        assert "shows pictures of people: name another place with --report" in capsys.readouterr().err


@pytest.mark.slow
def test_the_status_says_whether_parity_holds(made, monkeypatch, tmp_path, capsys):
    parity = json.loads((made / "small" / "report.json").read_text())["parity_centred"]
    holds = parity["mean"] >= 0.98 and parity["first_percentile"] >= 0.95
    assert (made / "status").read_text() == ("0" if holds else "1")
    small = bundle.load(made / "small")
    monkeypatch.setattr(quantize, "make_bundle", lambda *args: small)
    for least, status in ((0.0, 0), (1.01, 1)):
        monkeypatch.setattr(quantize, "LEAST_MEAN", least)
        monkeypatch.setattr(quantize, "LEAST_FIRST_PERCENTILE", 0.0)
        assert quantize.main(arguments(made, tmp_path / "x")) == status
    assert "1.01 and 0.0 are wanted): add crops" in capsys.readouterr().err


@pytest.fixture(scope="module")
def parts(folder):
    """The float encoder without BatchNorm, a fake-quantised one with the weights that it starts from, and crops."""
    teacher = encoders.folded(encoders.load(str(folder / "encoder.keras")))
    student = quantize.fake_quantised(teacher)
    return teacher, (student, student.get_weights()), read_crops([folder / "faces"]).images


def calibrated(parts, method="min-max", crops=32):
    teacher, (student, weights), images = parts
    student.set_weights(weights)
    found = quantize.reached(teacher, images[:crops])
    quantize.calibrate(student, {name: calibration.bounds(values, method) for name, values in found.items()})
    return student


def ranges_of(student, layer):
    """The least and the greatest value that a layer's activation can take."""
    weights = next(found for found in student.layers if found.name.startswith(layer)).weights  # tfmot may add a number
    variables = [v for v in weights if v.name.endswith(("_min:0", "_max:0")) and "kernel" not in v.name]
    return sorted(float(variable) for variable in variables)


@pytest.mark.slow
def test_calibrated_ranges_are_those_that_crops_and_mirror_images_reach(parts):
    """Without training, the fake-quantised encoder is already near the float one."""
    teacher, _, images = parts
    student = calibrated(parts)
    both = np.concatenate([images[:32], images[:32, :, ::-1]])
    wanted = encoders.outputs(teacher, both)
    assert ranges_of(student, "quant_embedding") == pytest.approx([wanted.min(), wanted.max()], rel=1e-3)
    assert ranges_of(student, "quantize_layer") == [-1, 1], "the bytes as they are"
    assert np.corrcoef(encoders.outputs(student, both).ravel(), wanted.ravel())[0, 1] > 0.95


@pytest.mark.slow
@pytest.mark.parametrize(
    ("named", "sizes", "ways"),
    [({}, (4, 40), [*calibration.METHODS]), ({"calibration": 8}, (8,), [*calibration.METHODS]), ({"ranges": "mse"}, (4, 40), ["mse"])],
)
def test_a_sweep_tries_every_size_and_way_that_nobody_named(parts, monkeypatch, tmp_path, named, sizes, ways):
    teacher, (student, _), images = parts
    monkeypatch.setattr(quantize, "SWEEP", (4, 256, 1024))
    settings = quantize.Settings(tmp_path, (tmp_path,), tmp_path, **named)
    tried = quantize.sweep(student, teacher, images[:40], images[40:60], settings)
    assert [(entry["crops"], entry["ranges"]) for entry in tried] == [(size, way) for size in sizes for way in ways]
    for entry in tried[::3]:
        again = quantize.alike(teacher, calibrated(parts, entry["ranges"], entry["crops"]), images[40:60])
        assert again == pytest.approx({key: entry[key] for key in ("mean", "first_percentile")}, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "kept"), [("qat", 1), ("distill", 0)])
def test_distillation_keeps_its_best_epoch_and_qat_its_last(parts, tmp_path, method, kept):
    teacher, _, images = parts
    student = calibrated(parts)
    settings = quantize.Settings(tmp_path, (tmp_path,), tmp_path, method=method, epochs=1, batch=8, rate=1.0)
    epochs = quantize.learn(student, teacher, images[:16], images[40:60], settings)
    assert epochs[1]["mean"] < epochs[0]["mean"], "a rate of 1 destroys it"
    assert quantize.alike(teacher, student, images[40:60])["mean"] == pytest.approx(epochs[kept]["mean"], abs=1e-3)
    assert ranges_of(student, "quantize_layer") == [-1, 1]


@pytest.mark.slow
def test_distillation_mends_ranges_that_are_too_narrow(parts, tmp_path):
    teacher, _, images = parts
    student = calibrated(parts, "percentile-99.9", crops=1)
    settings = quantize.Settings(tmp_path, (tmp_path,), tmp_path, epochs=3, batch=16, rate=1e-3)
    epochs = quantize.learn(student, teacher, images, images[40:60], settings)
    assert epochs[-1]["loss"] < epochs[1]["loss"]
    assert quantize.alike(teacher, student, images[40:60])["mean"] == pytest.approx(max(e["mean"] for e in epochs), abs=1e-4)


def test_qat_shows_every_crop_twice_and_distill_once(tmp_path):
    images = tf.constant(np.random.default_rng(0).integers(0, 256, (12, 112, 112, 3)), tf.uint8)
    for method, steps in (("qat", 3), ("distill", 1)):
        settings = quantize.Settings(tmp_path, (tmp_path,), tmp_path, method=method, batch=8)
        assert [batch.shape for batch in quantize.batches(images, settings, 0)] == [(8, 112, 112, 3)] * steps
    first, again, later = (next(iter(quantize.batches(images, settings, epoch))).numpy() for epoch in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != later).any()


def test_unexplained_is_the_share_of_the_variance_that_is_missed():
    """On encoders that are a table of embeddings: the common mean counts for nothing."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(64, 8)) + 100
    off = rows + rng.normal(0, 0.1, rows.shape)

    def encoder(table):
        def model(views, training):
            return tf.constant(table[: len(views)], tf.float32)

        model.input_shape = (None, 112, 112, 3)
        return model

    images = np.zeros((64, 112, 112, 3), np.uint8)
    loss = quantize.unexplained(encoder(rows), images)(encoder(off), tf.zeros((64, 1)))
    assert float(loss) == pytest.approx(((off - rows) ** 2).mean() / rows.var(axis=0).mean(), rel=1e-3)


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
    assert "32 crops do not fill a batch of 64: lower --batch or add photos" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"method": "qat", "batch": 7}, "--batch is 7: give an even number"),
        ({"epochs": 0}, "--epochs is 0: give a number above 0"),
        ({"rate": float("nan")}, "--rate is nan: give a number above 0"),
        ({"calibration": -1}, "--calibration is -1: give a number above 0"),
        ({"method": "magic"}, "--method is magic: choose one of ptq, qat, distill"),
        ({"ranges": "all"}, "--ranges is all: choose one of min-max"),
    ],
)
def test_settings_that_cannot_be_are_told(tmp_path, wrong, told):
    with pytest.raises(InputError, match=told):
        quantize.Settings(tmp_path, (tmp_path,), tmp_path, **wrong)


def test_an_encoder_of_another_size_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(encoders, "load", lambda path: encoders.build("fused", size=64, dimension=16, width=0.25))
    settings = quantize.Settings(tmp_path / "e.keras", (tmp_path,), tmp_path / "cohort.txt")
    with pytest.raises(InputError, match=r"takes 64x64, not 112x112: train it with --size 112"):
        quantize.read(settings)
