import math

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from train.methods.simsiam import SimSiam, negative_cosine, output_std, predictor, projector


def slow_negative_cosine(p: np.ndarray, z: np.ndarray) -> float:
    total = 0.0
    for row_p, row_z in zip(p, z, strict=True):
        total -= sum(a * b for a, b in zip(row_p, row_z, strict=True)) / (math.sqrt(sum(row_p**2)) * math.sqrt(sum(row_z**2)))
    return total / len(p)


def encoder(norm: bool = True) -> keras.Model:
    inputs = keras.layers.Input((8, 8, 3))
    x = keras.layers.Conv2D(6, 3, use_bias=False, name="conv")(inputs)
    x = keras.layers.BatchNormalization(name="norm")(x) if norm else x
    return keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))


def compiled(rate: float = 0.05, weight_decay: float = 1e-4) -> SimSiam:
    keras.utils.set_random_seed(0)
    model = SimSiam(encoder(), width=32, weight_decay=weight_decay)
    model.compile(keras.optimizers.SGD(rate, momentum=0.9), keras.optimizers.SGD(rate, momentum=0.9))
    return model


def views(seed: int = 0, n: int = 128) -> tuple[tf.Tensor, tf.Tensor]:
    rng = np.random.default_rng(seed)
    faces = rng.normal(size=(n, 1, 1, 3)) + 0.3 * rng.normal(size=(n, 8, 8, 3))
    return tuple(tf.constant(faces + 0.1 * rng.normal(size=faces.shape), tf.float32) for _ in range(2))


def test_the_loss_is_its_definition():
    rng = np.random.default_rng(0)
    p, z = rng.normal(size=(2, 5, 7)).astype(np.float32)
    assert float(negative_cosine(p, z)) == pytest.approx(slow_negative_cosine(p, z), rel=1e-5)
    assert float(negative_cosine(3 * p, 0.1 * z)) == pytest.approx(float(negative_cosine(p, z)), rel=1e-5)
    assert float(negative_cosine(p, p)) == pytest.approx(-1, abs=1e-6)


def test_no_gradient_reaches_the_target():
    p, z = tf.Variable(tf.random.normal((4, 3))), tf.Variable(tf.random.normal((4, 3)))
    with tf.GradientTape() as tape:
        loss = negative_cosine(p, z)
    to_p, to_z = tape.gradient(loss, [p, z])
    assert float(tf.norm(to_p)) > 0
    assert to_z is None


def test_the_gauge_tells_healthy_from_collapsed():
    rng = np.random.default_rng(0)
    healthy = tf.constant(rng.normal(size=(4096, 64)), tf.float32)
    assert float(output_std(healthy)) == pytest.approx(1 / 8, rel=0.05)
    assert float(output_std(tf.ones((4096, 64)))) == pytest.approx(0, abs=1e-6)


def test_heads_are_those_of_the_paper():
    layers = [type(layer).__name__ for layer in projector(10, 16).layers]
    assert layers == ["Dense", "BatchNormalization", "ReLU"] * 2 + ["Dense", "BatchNormalization"]
    assert not projector(10, 16).layers[-1].trainable_variables, "the last BatchNorm has neither scale nor shift"
    layers = predictor(16).layers
    assert [type(layer).__name__ for layer in layers] == ["Dense", "BatchNormalization", "ReLU", "Dense"]
    assert layers[0].units == 4, "a bottleneck"
    assert layers[-1].use_bias


def test_training_lowers_the_loss_and_moves_the_statistics():
    model = compiled(rate=0.3)
    before = model.encoder.get_layer("norm").moving_mean.numpy().copy()
    step = tf.function(model.train_step)
    first = float(step(views())["loss"])
    for seed in range(100):
        model.reset_metrics()
        last = float(step(views(seed))["loss"])
    assert last < first - 0.5
    assert np.abs(model.encoder.get_layer("norm").moving_mean.numpy() - before).max() > 0.01, "training=True reaches BatchNorm"


def test_weight_decay_decays():
    """Where the loss has no gradient, one step of SGD shrinks a weight by rate x decay."""
    model = compiled(rate=0.1, weight_decay=0.5)
    model(views()[0])
    kernel = model.encoder.get_layer("conv").kernel
    before = kernel.numpy().copy()
    with tf.GradientTape() as tape:
        loss = 0.0 * sum(tf.reduce_sum(v) for v in model.trainable_variables)
    model._descend(tape, loss)
    np.testing.assert_allclose(kernel.numpy(), before * (1 - 0.1 * 0.5), rtol=1e-5)


def test_each_part_follows_its_own_rate():
    model = compiled()
    model(views()[0])
    model.optimizer.learning_rate.assign(0.0)
    conv, head = model.encoder.get_layer("conv").kernel, model.predictor.layers[0].kernel
    before = conv.numpy().copy(), head.numpy().copy()
    model.train_step(views())
    np.testing.assert_array_equal(conv.numpy(), before[0])
    assert np.abs(head.numpy() - before[1]).max() > 0
