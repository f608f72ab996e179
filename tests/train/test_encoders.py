import numpy as np
import pytest
import tf_keras as keras

from device.program import InputError
from train import encoders


def with_statistics(model: keras.Model) -> keras.Model:
    """`model`, its BatchNorm statistics no longer those of a new one."""
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            rng = np.random.default_rng(len(layer.name))
            gamma, beta, mean, variance = layer.get_weights()
            moved = rng.uniform(0.5, 1.5, gamma.shape), rng.normal(0, 0.2, beta.shape)
            layer.set_weights([*moved, rng.normal(0, 0.1, mean.shape), rng.uniform(0.2, 1, variance.shape)])
    return model


@pytest.fixture(scope="module")
def trained() -> keras.Model:
    keras.utils.set_random_seed(1)
    return with_statistics(encoders.build("fused", size=64, dimension=16, width=0.25))


@pytest.fixture(scope="module")
def crops() -> np.ndarray:
    """Smooth pictures, as faces are: noise enlarged."""
    rng = np.random.default_rng(0)
    return np.kron(rng.integers(0, 256, (12, 14, 14, 3)), np.ones((1, 8, 8, 1))).astype(np.uint8)


def test_scale_maps_bytes_to_the_quantised_range():
    assert encoders.scale(np.array([0, 255], np.uint8)).tolist() == [-1.0, 1.0]


@pytest.mark.parametrize(
    ("family", "parameters"),
    [("fused", 1.434e6), ("mobileface", 0.986e6), ("mobilenetv2", 2.435e6)],  # MobileFaceNet's paper says 0.99 M
)
def test_the_families_are_of_the_size_that_is_stated(family, parameters):
    model = encoders.build(family, norm=False)
    assert model.input_shape == (None, 112, 112, 3)
    assert model.output_shape == (None, 128)
    assert model.get_layer(encoders.HEAD).input_shape[1:3] == (7, 7)
    assert model.count_params() == pytest.approx(parameters, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "activation"), [("fused", "relu"), ("mobileface", "relu"), ("mobilenetv2", "swish")])
def test_every_family_folds_resizes_and_tells_its_settings(family, activation, crops, tmp_path):
    keras.utils.set_random_seed(2)
    settings = {"architecture": family, "size": 64, "dimension": 16, "width": 0.25, "activation": activation}
    model = with_statistics(encoders.build(**settings))
    assert encoders.settings_of(model) == settings
    assert encoders.settings_of(encoders.resized(model, 112)) == {**settings, "size": 112}
    folded = encoders.folded(model)
    assert not [layer for layer in folded.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert encoders.settings_of(folded) == settings
    expected = encoders.outputs(model, crops)
    np.testing.assert_allclose(encoders.outputs(folded, crops), expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    model.save(tmp_path / "encoder.keras", save_format="keras")
    assert encoders.settings_of(encoders.load(str(tmp_path / "encoder.keras"))) == settings


def test_the_shipped_encoder_is_of_its_family_still(bundle_path):
    """Layer names and weights of encoders that are out there stay loadable."""
    model = encoders.load(str(bundle_path / "encoder.keras"))
    same = encoders.build(**encoders.settings_of(model))
    assert [(layer.name, layer.output_shape) for layer in same.layers] == [(layer.name, layer.output_shape) for layer in model.layers]


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


def test_the_last_layer_is_fitted_to_what_is_wanted(trained, crops):
    """A linear map of the features, as regression finds it again; and not the features themselves, which stay."""
    rng = np.random.default_rng(4)
    many = rng.integers(0, 256, (300, 112, 112, 3)).astype(np.uint8)
    other = encoders.resized(trained, trained.input_shape[1])
    kernel, bias = other.get_layer(encoders.EMBEDDING).get_weights()
    other.get_layer(encoders.EMBEDDING).set_weights([rng.normal(size=kernel.shape), rng.normal(size=bias.shape)])
    wanted = encoders.outputs(other, many)
    fitted = encoders.fitted(trained, many, wanted, shrink=1e-9)
    np.testing.assert_allclose(encoders.outputs(fitted, many), wanted, atol=0.02 * wanted.std())
    np.testing.assert_array_equal(fitted.get_layer("stem").get_weights()[0], trained.get_layer("stem").get_weights()[0])


def test_embeddings_are_unit_rows_and_do_not_depend_on_the_batch(trained, crops):
    rows = encoders.embed(trained, crops)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(encoders.embed(trained, crops[:1]), rows[:1], atol=1e-4)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"architecture": "vgg"}, "no encoder is called vgg: choose one of fused, mobileface, mobilenetv2"),
        ({"architecture": "fused", "activation": "gelu"}, "no activation is called gelu: choose one of relu, swish"),
        ({"architecture": "fused", "width": 0}, "there is no encoder of width 0"),
        ({"architecture": "fused", "width": -1}, "there is no encoder of width -1"),
        ({"architecture": "fused", "width": 100}, "there is no encoder of width 100"),
    ],
)
def test_what_does_not_exist_is_told(settings, told):
    with pytest.raises(InputError, match=told):
        encoders.build(**settings)


def test_a_model_of_another_program_has_no_settings():
    inputs = keras.layers.Input((8, 8, 3))
    with pytest.raises(InputError, match="of no family"):
        encoders.settings_of(keras.Model(inputs, keras.layers.Flatten()(inputs), name="my-model-3"))


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
