import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from device.program import InputError
from train import encoders
from train.detector import network


@pytest.fixture(scope="module")
def net():
    """With statistics that are not those of a new network."""
    model = network.build(64, 96)
    rng = np.random.default_rng(0)
    model.set_weights([w + rng.uniform(0, 0.1, w.shape) for w in model.get_weights()])
    return model


@pytest.fixture(scope="module")
def pictures():
    return np.random.default_rng(1).integers(0, 256, (2, 64, 96, 3), np.uint8)


def test_it_gives_the_maps_that_the_device_reads(net, pictures):
    told = network.maps(net, pictures)
    assert {stride: (heat.shape, far.shape) for stride, (heat, far) in told.items()} == {
        8: ((2, 8, 12), (2, 8, 12, 14)),
        16: ((2, 4, 6), (2, 4, 6, 14)),
    }


def test_folding_changes_nothing(net, pictures):
    plain, folded = network.maps(net, pictures), network.maps(network.folded(net, 64, 96), pictures)
    for stride in plain:
        for one, two in zip(plain[stride], folded[stride], strict=True):
            np.testing.assert_allclose(one, two, atol=1e-3 * np.abs(one).max())


def test_another_size_is_the_same_network(net, pictures):
    """In the middle, which the edge does not reach."""
    large = np.zeros((1, 128, 160, 3), np.uint8)
    large[:, 32:96, 32:128] = pictures[:1]
    found = network.maps(network.sized(net, 128, 160), large)[8][0]
    shifted = np.roll(large, (16, 16), axis=(1, 2))
    again = network.maps(network.sized(net, 128, 160), shifted)[8][0]
    np.testing.assert_allclose(np.roll(found, (2, 2), axis=(1, 2))[:, 7:-7, 7:-7], again[:, 7:-7, 7:-7], atol=2e-2 * np.abs(found).max())


def test_what_surrounds_a_small_face_counts(pictures):
    """Farther than stride 8 sees by itself: 40 pixels to the right of what changes."""
    net, changed = network.build(64, 96), pictures.copy()
    changed[:, :, :8] = 255 - changed[:, :, :8]
    (plain, _), (other, _) = (network.maps(net, shown)[8] for shown in (pictures, changed))
    assert np.abs(plain - other)[:, :, 6:].max() > 1e-3


def test_before_training_faces_are_rare(pictures):
    fresh = network.build(64, 96)
    heat = network.maps(fresh, pictures)[8][0]
    assert 1 / (1 + np.exp(-heat)) == pytest.approx(network.RARE, abs=0.05)


def test_outputs_are_float32_in_a_mixed_training():
    with encoders.precision("mixed_bfloat16"):
        mixed = network.build(64, 96)
    assert {output.dtype for output in mixed.output.values()} == {tf.float32}


def test_it_comes_back_from_a_file(net, pictures, tmp_path):
    net.save(tmp_path / "detector.keras", save_format="keras")
    again = network.load(str(tmp_path / "detector.keras"))
    np.testing.assert_allclose(network.maps(again, pictures)[8][0], network.maps(net, pictures)[8][0], rtol=1e-5)


def test_bad_input_is_told(tmp_path):
    for height, width in ((120, 160), (0, 16), (16, -16)):
        with pytest.raises(InputError, match="no detector for"):
            network.build(height, width)
    (tmp_path / "x.keras").write_bytes(b"nothing")
    picture = keras.layers.Input((64, 96, 3))
    keras.Model(picture, keras.layers.Conv2D(1, 1)(picture)).save(tmp_path / "encoder.keras", save_format="keras")
    for name in ("none.keras", "x.keras", "encoder.keras"):
        with pytest.raises(InputError, match="is not a detector"):
            network.load(str(tmp_path / name))
