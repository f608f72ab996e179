import runpy
import sys

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from device import align
from device.program import InputError, StoredError
from train import dlib, encoders, teachers


@pytest.fixture(scope="module")
def crops(astronaut, grace_hopper):
    """Parts of two photos: two of each."""
    found = []
    for path, y, x in ((astronaut, 60, 160), (astronaut, 64, 166), (grace_hopper, 60, 200), (grace_hopper, 66, 204)):
        image = cv2.imread(str(path))
        found.append(cv2.cvtColor(cv2.resize(image[y : y + 160, x : x + 160], (112, 112)), cv2.COLOR_BGR2RGB))
    return np.stack(found)


def tiny(path, size=112, first="n", channels_last=True):
    """An ONNX teacher: the mean of each channel, then the mean of each of the picture's halves."""
    shape = [first, size, size, 3] if channels_last else [first, 3, size, size]
    axes = [1, 2] if channels_last else [2, 3]
    node = helper.make_node("ReduceMean", ["image"], ["embedding"], axes=axes, keepdims=0)
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)
    rows = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [first, 3])
    model = helper.make_model(helper.make_graph([node], "tiny", [image], [rows]), opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, str(path))
    return str(path)


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.slow
def test_dlib_knows_who_is_who(crops):
    teacher = teachers.open_teacher("dlib")
    rows = teacher.embed(crops)
    assert rows.shape == (4, 128)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    cosines = rows @ rows.T
    assert min(cosines[0, 1], cosines[2, 3]) > cosines[:2, 2:].max() + 0.03
    np.testing.assert_allclose(teacher.targets(crops), teacher.targets(crops[:, :, ::-1]), atol=1e-5, err_msg="both sides alike")


@pytest.mark.slow
def test_dlib_is_read_as_the_shared_script_reads_it(data, crops, tmp_path, monkeypatch):
    """Outside reference: the script that was compared with dlib itself (equal to 4e-7)."""
    pytest.importorskip("pkg_resources", reason="the reference imports a package that asks for it")
    import onnxruntime

    monkeypatch.setattr(sys, "argv", ["dlib_to_onnx.py", str(tmp_path / "dlib.onnx")])
    runpy.run_path(str(data / "dlib_to_onnx.py"), run_name="__main__")
    chips = teachers.DLIB_CHIP.cut(crops)
    expected, found = (
        onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"image": chips})[0]
        for model in ((tmp_path / "dlib.onnx").read_bytes(), dlib.model().SerializeToString())
    )
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_damaged_dlib_file():
    with pytest.raises(StoredError, match="holds 0 tensors, not 59"):
        dlib.tensors(bytes(10_000))


def test_a_chip_is_where_it_says(crops):
    """Slow reference: every pixel of the chip looked up in the crop (bilinear is near enough on a smooth picture)."""
    smooth = np.stack([cv2.GaussianBlur(crop, (0, 0), 4) for crop in crops])
    chip = teachers.Chip(size=60, scale=0.5, origin=(56, 50), target=(30, 28), mean=(10, 20, 30), deviation=(2, 4, 8), colour="BGR")
    found = chip.cut(smooth)
    for y, x in ((5, 7), (30, 30), (50, 12)):
        source_x, source_y = (x - 30) / 0.5 + 56, (y - 28) / 0.5 + 50
        pixel = smooth[:, round(source_y), round(source_x)].astype(float)
        np.testing.assert_allclose(found[:, y, x], ((pixel - (10, 20, 30)) / (2, 4, 8))[:, ::-1], atol=1.0)


def test_an_onnx_file_of_ones_own(tmp_path, crops):
    means = crops.astype(np.float32).mean((1, 2))
    for channels_last in (True, False):
        teacher = teachers.open_teacher(tiny(tmp_path / f"{channels_last}.onnx", channels_last=channels_last))
        np.testing.assert_allclose(teacher.embed(crops), unit(means), atol=1e-4)
    (tmp_path / "True.toml").write_text("mean = [100, 90, 80]\ndeviation = [1, 2, 3]\n")
    teacher = teachers.open_teacher(str(tmp_path / "True.onnx"))
    np.testing.assert_allclose(teacher.embed(crops), unit((means - (100, 90, 80)) / (1, 2, 3)), atol=1e-4)


def test_an_encoder_of_ours_teaches(bundle_path, crops):
    path = bundle_path / "encoder.keras"
    teacher = teachers.open_teacher(str(path))
    np.testing.assert_allclose(teacher.embed(crops), encoders.embed(encoders.load(str(path)), crops), atol=1e-5)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder: str(folder / "none.onnx"), "does not exist: name dlib"),
        (lambda folder: tiny(folder / "large.onnx", size=150), "not batches of 112x112 pictures to rows: say the size of its chip"),
        (lambda folder: tiny(folder / "one.onnx", first=1), "export it with a free batch size"),
    ],
)
def test_a_teacher_that_does_not_fit(tmp_path, make, said):
    with pytest.raises(InputError, match=said):
        teachers.open_teacher(make(tmp_path))


@pytest.mark.parametrize(
    "text", ["size = 'large'", "mean = [1, 2]", "colour = 'CMYK'", "siez = 3", "size = ", "deviation = [0, 1, 1]", "scale = 'x'"]
)
def test_a_sidecar_that_says_nothing_of_use(tmp_path, text):
    name = tiny(tmp_path / "t.onnx")
    (tmp_path / "t.toml").write_text(text)
    with pytest.raises(InputError, match="does not describe a teacher's chip"):
        teachers.open_teacher(name)


def test_a_file_that_is_no_model(tmp_path):
    (tmp_path / "t.onnx").write_text("not a model")
    with pytest.raises(InputError, match="not an ONNX model"):
        teachers.open_teacher(str(tmp_path / "t.onnx"))


def test_targets_are_computed_once_and_an_interrupted_caching_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(teachers, "BATCH", 4)
    monkeypatch.setattr(teachers, "SAVED_EVERY", 2)
    crops = np.random.default_rng(0).integers(0, 256, (20, align.SIZE, align.SIZE, 3), np.uint8)
    whole = teachers.open_teacher(tiny(tmp_path / "t.onnx"))
    seen = []

    def breaking(images):
        if len(seen) >= 4:
            raise KeyboardInterrupt
        seen.append(len(images))
        return whole.embed(images)

    broken = teachers.Teacher(whole.name, whole.identity, breaking)
    with pytest.raises(KeyboardInterrupt):
        teachers.cached_targets(broken, crops, tmp_path / "cache")
    assert sum(seen) == 2 * 16, "picture and mirror image of two parts of eight"
    seen.clear()
    counting = teachers.Teacher(whole.name, whole.identity, lambda images: seen.append(len(images)) or whole.embed(images))
    found = teachers.cached_targets(counting, crops, tmp_path / "cache")
    assert sum(seen) == 2 * 4
    np.testing.assert_allclose(found, whole.targets(crops), atol=1e-6)
    np.testing.assert_array_equal(teachers.cached_targets(broken, crops, tmp_path / "cache"), found)
    assert len(list((tmp_path / "cache").iterdir())) == 1
