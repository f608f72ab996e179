import numpy as np
import pytest
import tf_keras as keras

from device.program import InputError
from train import encoders


@pytest.fixture(scope="module")
def trained() -> keras.Model:
    """A narrow encoder whose BatchNorm statistics are no longer those of a new one."""
    keras.utils.set_random_seed(1)
    model = encoders.build("fused", size=64, dimension=16, width=0.25)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            rng = np.random.default_rng(len(layer.name))
            gamma, beta, mean, variance = layer.get_weights()
            moved = rng.uniform(0.5, 1.5, gamma.shape), rng.normal(0, 0.2, beta.shape)
            layer.set_weights([*moved, rng.normal(0, 0.1, mean.shape), rng.uniform(0.2, 1, variance.shape)])
    return model


@pytest.fixture(scope="module")
def crops() -> np.ndarray:
    """Smooth pictures, as faces are: noise enlarged."""
    rng = np.random.default_rng(0)
    return np.kron(rng.integers(0, 256, (12, 14, 14, 3)), np.ones((1, 8, 8, 1))).astype(np.uint8)


def test_scale_maps_bytes_to_the_quantised_range():
    assert encoders.scale(np.array([0, 255], np.uint8)).tolist() == [-1.0, 1.0]


def test_the_default_is_the_size_that_the_design_states():
    model = encoders.build("fused", norm=False)
    assert model.input_shape == (None, 112, 112, 3)
    assert model.output_shape == (None, 128)
    assert 1.40e6 < model.count_params() < 1.46e6


def test_folding_batchnorm_changes_nothing_but_the_layers(trained, crops):
    folded = encoders.folded(trained)
    assert not [layer for layer in folded.layers if isinstance(layer, keras.layers.BatchNormalization)]
    np.testing.assert_allclose(encoders.outputs(folded, crops), encoders.outputs(trained, crops), rtol=1e-3, atol=1e-4)


def test_resizing_keeps_the_architecture_and_nearly_the_embedding(trained, crops):
    larger = encoders.resized(trained, 112)
    assert encoders.settings_of(larger) == {**encoders.settings_of(trained), "size": 112}
    np.testing.assert_array_equal(larger.get_layer("stem").get_weights()[0], trained.get_layer("stem").get_weights()[0])
    kernels = [model.get_layer(encoders.HEAD).get_weights()[0] for model in (trained, larger)]
    np.testing.assert_allclose(kernels[1].sum((0, 1)), kernels[0].sum((0, 1)), rtol=0.35, atol=0.35)
    same = encoders.resized(trained, 64)
    np.testing.assert_allclose(encoders.outputs(same, crops), encoders.outputs(trained, crops), rtol=1e-5, atol=1e-6)


def test_whitening_equalises_every_direction(trained):
    rng = np.random.default_rng(3)
    many = np.kron(rng.integers(0, 256, (256, 7, 7, 3)), np.ones((1, 16, 16, 1))).astype(np.uint8)
    white = encoders.outputs(encoders.whitened(trained, many, shrink=0.0), many)
    np.testing.assert_allclose(white.mean(0), 0, atol=1e-2)
    np.testing.assert_allclose(np.cov(white.T), np.eye(16), atol=2e-2)


def test_embeddings_are_unit_rows_and_do_not_depend_on_the_batch(trained, crops):
    rows = encoders.embed(trained, crops)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(encoders.embed(trained, crops[:1]), rows[:1], atol=1e-4)


def test_an_unknown_family_names_those_that_exist():
    with pytest.raises(InputError, match="no encoder is called vgg: choose one of fused"):
        encoders.build("vgg")


@pytest.mark.parametrize("content", [b"", b"not a model"])
def test_a_file_that_is_no_encoder(tmp_path, content):
    path = tmp_path / "encoder.keras"
    path.write_bytes(content)
    with pytest.raises(InputError, match="is not a Keras encoder"):
        encoders.load(str(path))


def test_a_saved_encoder_is_the_same_encoder(trained, crops, tmp_path):
    trained.save(tmp_path / "encoder.keras", save_format="keras")
    loaded = encoders.load(str(tmp_path / "encoder.keras"))
    np.testing.assert_allclose(encoders.embed(loaded, crops), encoders.embed(trained, crops), atol=1e-5)
    assert encoders.settings_of(loaded) == encoders.settings_of(trained)
