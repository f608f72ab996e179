import numpy as np
import pytest

from device.bundle import Quantisation
from device.detect import OmokageDetector
from device.embed import Encoder
from device.program import InputError
from device.runtime import Model, Tensor


def test_a_model_says_what_it_maps_and_answers_each_input_by_itself(own_detector):
    model = Model(own_detector.model)
    assert str(model.signature) == (
        "uint8 [1, 96, 128, 3] to uint8 [1, 12, 16, 1], uint8 [1, 12, 16, 14], uint8 [1, 6, 8, 1], uint8 [1, 6, 8, 14]"
    )
    pictures = np.random.default_rng(0).integers(0, 256, (3, 96, 128, 3), np.uint8)
    together, alone = model.run(pictures), [model.run(picture[None]) for picture in pictures]
    for number, tensor in enumerate(model.signature.outputs):
        assert together[number].dtype == np.uint8 and together[number].shape == (3, *tensor.shape[1:])
        np.testing.assert_array_equal(together[number], np.concatenate([each[number] for each in alone]))
        assert model.run(pictures[:0])[number].shape == (0, *tensor.shape[1:])
    assert model.backend == "cpu"


def test_bytes_mean_what_the_quantisation_says():
    tensor = Tensor("uint8", (1, 3), Quantisation(0.5, 200))
    real = tensor.real(np.array([[0, 200, 255]], np.uint8))
    assert real.dtype == np.float32 and real.tolist() == [[-100.0, 0.0, 27.5]]


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


def test_a_model_of_two_inputs_is_refused(own_detector, tmp_path):
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(own_detector.model.read_bytes(), 0)
    model.subgraphs[0].inputs = [0, 1]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    (tmp_path / "two.tflite").write_bytes(bytes(builder.Output()))
    for opened in (Model, Encoder, OmokageDetector):
        with pytest.raises(InputError, match=r"two.tflite has 2 inputs"):
            opened(tmp_path / "two.tflite")
