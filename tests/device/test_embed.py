import json

import cv2
import numpy as np
import pytest

from device import bundle
from device.align import align
from device.camera import read_picture
from device.embed import Encoder, open_encoder
from device.program import InputError, MissingError, StoredError


@pytest.fixture(scope="module")
def encoder(bundle_path):
    return open_encoder(bundle.load(bundle_path), "cpu")


@pytest.fixture(scope="module")
def crops(mtcnn, astronaut, grace_hopper):
    """One of Eileen Collins, one of Grace Hopper: [2, 112, 112, 3]."""
    images = [read_picture(path) for path in (astronaut, grace_hopper)]
    return np.stack([align(image, mtcnn.detect(image)[0].landmarks) for image in images])


def test_embeddings_are_float32_unit_rows(encoder, crops):
    embeddings = encoder.embed(crops)
    assert embeddings.shape == (2, encoder.dimension) and embeddings.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, rtol=1e-6)


def test_an_embedding_is_what_the_runtime_says_dequantised(encoder, crops, bundle_path):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(bundle_path / "encoder.tflite"))
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], crops[1:])
    interpreter.invoke()
    stored = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])[0].astype(np.float64)
    output = json.loads((bundle_path / "manifest.json").read_text())["output"]
    real = (stored - output["zero_point"]) * output["scale"]
    np.testing.assert_allclose(encoder.embed(crops)[1], real / np.linalg.norm(real), atol=1e-6)
    assert (encoder.output.zero_point, encoder.output.scale) == (output["zero_point"], pytest.approx(output["scale"]))


def test_a_crop_has_one_embedding_whatever_came_before_it(encoder, crops):
    together = encoder.embed(crops)
    np.testing.assert_array_equal(encoder.embed(crops[::-1])[::-1], together)
    np.testing.assert_array_equal(encoder.embed(crops[:1]), together[:1])


def test_the_same_face_a_little_changed_is_more_alike_than_another(encoder, crops):
    changed = cv2.GaussianBlur(crops[0], (3, 3), 0)[None]
    same, other = encoder.embed(crops) @ encoder.embed(changed)[0]
    assert same > other + 0.05


def test_no_crops_have_no_embeddings(encoder):
    assert encoder.embed(np.zeros((0, 112, 112, 3), np.uint8)).shape == (0, encoder.dimension)


def test_what_are_no_crops_is_refused(encoder, crops):
    for wrong in (crops.astype(np.float32), crops[0], crops[:, :100], crops[..., :1]):
        with pytest.raises(ValueError, match="crops are uint8"):
            encoder.embed(wrong)


def test_other_models_are_told_what_was_found_and_wanted(data, astronaut, tmp_path):
    pairs = data / "edgetpu" / "pairs"
    for model, wrong in (
        (pairs / "gc_mobilenet_v1_0.25_128_quant" / "model.tflite", r"maps uint8 \[1, 128, 128, 3\] to .*, an encoder maps uint8 \[1, 112"),
        (pairs / "zye_face_landmark_192_full_integer_quant" / "model.tflite", "maps float32"),
        (pairs / "gc_mobilenet_v1_0.25_128_quant" / "model_edgetpu.tflite", r"does not run on the cpu \(.*edgetpu-custom-op"),
        (astronaut, "is not a TFLite model"),
        (tmp_path / "none.tflite", "cannot be read"),
    ):
        with pytest.raises(InputError, match=wrong):
            Encoder(model)


def test_a_damaged_model_is_told(bundle_path, tmp_path):
    whole = (bundle_path / "encoder.tflite").read_bytes()
    for content in (b"", whole[:4], whole[:2000], whole[:8] + bytes(100)):
        (tmp_path / "cut.tflite").write_bytes(content)
        with pytest.raises(InputError, match=r"cut\.tflite"):
            Encoder(tmp_path / "cut.tflite")


def with_compiled(path):
    """The bundle in `path` with a file that claims to be compiled for the Edge TPU."""
    compiled = path / "encoder_edgetpu.tflite"
    compiled.write_bytes((path / "encoder.tflite").read_bytes())
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"][compiled.name] = {"sha256": bundle.sha256(compiled), "bytes": compiled.stat().st_size}
    (path / "manifest.json").write_text(json.dumps(manifest))
    return bundle.load(path)


def test_without_an_accelerator_auto_is_the_cpu(copied_bundle, bundle_path, capfd, monkeypatch):
    monkeypatch.setattr("device.embed.LIBEDGETPU", "libno-such-edgetpu.so.1")
    plain = bundle.load(bundle_path)
    assert open_encoder(plain).backend == "cpu"
    with pytest.raises(MissingError, match=r"libno-such-edgetpu.so.1 is not installed: .*--backend cpu"):
        open_encoder(with_compiled(copied_bundle()), "edgetpu")
    assert open_encoder(with_compiled(copied_bundle("second")), "auto").backend == "cpu"
    assert capfd.readouterr().err == ""


def test_a_bundle_that_was_not_compiled_does_not_run_on_the_accelerator(copied_bundle):
    path = copied_bundle()
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"].pop("encoder_edgetpu.tflite", None)
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(MissingError, match=r"holds no encoder_edgetpu.tflite: .*convert/compile"):
        open_encoder(bundle.load(path), "edgetpu")


def test_bad_choices_are_told(bundle_path, copied_bundle):
    with pytest.raises(InputError, match="no backend gpu: choose one of auto, cpu, edgetpu"):
        open_encoder(bundle.load(bundle_path), "gpu")
    with pytest.raises(StoredError, match="wants crops of preprocessing 2, this program makes 1"):
        open_encoder(bundle.load(copied_bundle(preprocessing={"version": 2, "detector": "yunet"})))
