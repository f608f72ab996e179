import math

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from tiny import encoder, views

from train.methods.base import output_std
from train.methods.simsiam import Options, SimSiam, negative_cosine, predictor, projector


def slow_negative_cosine(p: np.ndarray, z: np.ndarray) -> float:
    total = 0.0
    for row_p, row_z in zip(p, z, strict=True):
        total -= sum(a * b for a, b in zip(row_p, row_z, strict=True)) / (math.sqrt(sum(row_p**2)) * math.sqrt(sum(row_z**2)))
    return total / len(p)


def compiled(steps: int = 10**9, **options) -> SimSiam:
    """On so many steps that the rate hardly falls."""
    keras.utils.set_random_seed(0)
    model = SimSiam(encoder(), Options(**{"projection": 32, **options}))
    model.ready(batch=256, steps=steps)
    return model


def test_the_loss_is_its_definition():
    rng = np.random.default_rng(0)
    p, z = rng.normal(size=(2, 5, 7)).astype(np.float32)
    assert float(negative_cosine(p, z)) == pytest.approx(slow_negative_cosine(p, z), rel=1e-5)
    assert float(negative_cosine(3 * p, 0.1 * z)) == pytest.approx(float(negative_cosine(p, z)), rel=1e-5)
    assert float(negative_cosine(p, p)) == pytest.approx(-1, abs=1e-6)


def through_the_target(**options) -> float:
    """How much gradient D(p2, z1) sends to the encoder through view 1."""
    model = compiled(**options)
    view1, view2 = views()
    with tf.GradientTape() as tape:
        z1, z2 = model(view1, training=True), tf.stop_gradient(model(view2, training=True))
        loss = negative_cosine(model._predicted(z2), model._target(z1))
    found = tape.gradient(loss, model.encoder.trainable_variables)
    return sum(0.0 if gradient is None else float(tf.norm(gradient)) for gradient in found)


def test_no_gradient_reaches_the_target():
    assert through_the_target() == 0.0
    assert through_the_target(predictor=False) == 0.0
    assert through_the_target(stop_gradient=False) > 0.0


def test_the_loss_of_a_step_is_equation_4():
    model = compiled()
    loss, z1, z2 = model.compare(*views())
    p1, p2 = (model.predictor(z, training=True).numpy() for z in (z1, z2))
    expected = slow_negative_cosine(p1, z2.numpy()) / 2 + slow_negative_cosine(p2, z1.numpy()) / 2
    assert float(loss) == pytest.approx(expected, abs=1e-5)


def test_without_predictor_there_is_none_and_the_projections_are_compared():
    model = compiled(predictor=False)
    loss, z1, z2 = model.compare(*views())
    assert float(loss) == pytest.approx(slow_negative_cosine(z1.numpy(), z2.numpy()), abs=1e-5)
    assert model.heads == [model.projector]
    assert not hasattr(model, "predictor") and list(model.optimizers) == ["optimizer"]


def test_the_rates_are_those_of_the_paper():
    model = compiled(steps=100)
    assert float(model.optimizer.learning_rate) == pytest.approx(0.05)
    for optimizer in model.optimizers.values():
        optimizer.iterations.assign(50)
        optimizer._compute_current_learning_rate()
    assert float(model.optimizer.learning_rate) == pytest.approx(0.025), "along a cosine"
    assert float(model.predictor_optimizer.learning_rate) == pytest.approx(0.05), "does not decay"
    assert [optimizer.momentum for optimizer in model.optimizers.values()] == [0.9, 0.9]
    assert (model.options.weight_decay, Options().projection) == (1e-4, 2048)


def test_the_gauge_tells_healthy_from_collapsed():
    rng = np.random.default_rng(0)
    healthy = tf.constant(rng.normal(size=(4096, 64)), tf.float32)
    assert float(output_std(healthy)) == pytest.approx(1 / 8, rel=0.05)
    assert float(output_std(tf.ones((4096, 64)))) == pytest.approx(0, abs=1e-6)


def test_without_scale_and_shift_no_batch_comes_near_a_constant():
    """One picture against all others, the nearest to it, keeps 2/sqrt(N) of the healthy std."""
    last = projector(4, 32).layers[-1]
    z = last(tf.constant(np.repeat([[1.0], [0.0]], [1, 255], axis=0) * np.ones(32), tf.float32), training=True)
    assert float(output_std(z)) * 32**0.5 == pytest.approx(2 / 256**0.5, rel=0.01)


def test_heads_are_those_of_the_paper():
    layers = [type(layer).__name__ for layer in projector(10, 16).layers]
    assert layers == ["Dense", "BatchNormalization", "ReLU"] * 2 + ["Dense", "BatchNormalization"]
    assert not projector(10, 16).layers[-1].trainable_variables, "the last BatchNorm has neither scale nor shift"
    assert len(projector(10, 16, affine=True).layers[-1].trainable_variables) == 2
    layers = predictor(16).layers
    assert [type(layer).__name__ for layer in layers] == ["Dense", "BatchNormalization", "ReLU", "Dense"]
    assert layers[0].units == 4, "a bottleneck"
    assert layers[-1].use_bias


def test_at_the_end_of_the_cosine_only_the_predictor_moves():
    model = compiled(steps=100)
    for optimizer in model.optimizers.values():
        optimizer.iterations.assign(100)
    conv, head = model.encoder.get_layer("conv").kernel, model.predictor.layers[0].kernel
    before = conv.numpy().copy(), head.numpy().copy()
    model.train_step(views())
    np.testing.assert_array_equal(conv.numpy(), before[0])
    assert np.abs(head.numpy() - before[1]).max() > 0
