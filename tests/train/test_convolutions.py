"""Graph convolutions: against slow loops, the order of the nodes does not matter, and padding stays without effect."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from train.graph import network
from train.graph.convolutions import CONVOLUTIONS

UNITS, FEATURES, NODES = 4, 3, 7


def graphs(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two graphs: one with links at random, and a node without any."""
    rng = np.random.default_rng(seed)
    a = np.triu(rng.random((2, NODES, NODES)) < 0.4, 1).astype(np.float32)
    a[:, -1] = a[:, :, -1] = 0
    a[0, 0, 1] = 1
    return rng.standard_normal((2, NODES, FEATURES)).astype(np.float32), a + a.transpose(0, 2, 1)


def layer(conv: str) -> keras.layers.Layer:
    keras.utils.set_random_seed(1)
    made = CONVOLUTIONS[conv](UNITS)
    made(list(map(tf.constant, graphs())))
    for weight in made.weights:  # biases and eps too, which start at 0
        weight.assign(weight + np.random.default_rng(2).normal(0.1, 0.2, weight.shape).astype(np.float32))
    return made


def weights(made: keras.layers.Layer) -> dict[str, np.ndarray]:
    return {weight.name.partition(":")[0].rpartition("/")[2]: weight.numpy().astype(np.float64) for weight in made.weights}


def links(a: np.ndarray, node: int) -> list[int]:
    return [other for other in range(len(a)) if a[node, other]]


def laplacian(a: np.ndarray) -> np.ndarray:
    degree = [len(links(a, node)) for node in range(len(a))]
    found = np.eye(len(a))
    for i in range(len(a)):
        for j in links(a, i):
            found[i, j] -= 1 / np.sqrt(degree[i] * degree[j])
    return found


def function_of(matrix: np.ndarray, f) -> np.ndarray:
    """f of a symmetric matrix, by its eigenvectors one by one."""
    values, vectors = np.linalg.eigh(matrix)
    return sum(f(value) * np.outer(u, u) for value, u in zip(values, vectors.T, strict=True))


def hat(value: float, k: int, count: int, high: float) -> float:
    return max(0.0, 1 - abs(min(max(value / high, 0), 1) * (count - 1) - k))


def slow_gcn(x, a, w):
    out = []
    for i in range(len(x)):
        near = [*links(a, i), i]
        degree = {j: len(links(a, j)) + 1 for j in near}
        out.append(sum(x[j] @ w["kernel"] / np.sqrt(degree[i] * degree[j]) for j in near) + w["bias"])
    return out


def slow_graphsage(x, a, w):
    means = [np.mean([x[j] for j in links(a, i)], axis=0) if links(a, i) else np.zeros(FEATURES) for i in range(len(x))]
    return [np.concatenate([x[i], means[i]]) @ w["kernel"] + w["bias"] for i in range(len(x))]


def slow_gin(x, a, w):
    sums = [(1 + w["eps"]) * x[i] + sum((x[j] for j in links(a, i)), np.zeros(FEATURES)) for i in range(len(x))]
    return [np.maximum(s @ w["first"] + w["first_bias"], 0) @ w["second"] + w["bias"] for s in sums]


def slow_chebnet(x, a, w):
    scaled = laplacian(a) - np.eye(len(a))
    polynomials = [lambda s: 1.0, lambda s: s, lambda s: 2 * s * s - 1]
    return sum(function_of(scaled, t) @ x @ kernel for t, kernel in zip(polynomials, w["kernel"], strict=True)) + w["bias"]


def slow_gat(x, a, w):
    out = []
    for i in range(len(x)):
        row = []
        for head in range(w["left"].shape[0]):
            z = {j: x[j] @ w["kernel"][:, head] for j in [*links(a, i), i]}
            e = {j: w["left"][head] @ z[i] + w["right"][head] @ z[j] for j in z}
            e = {j: np.exp(value if value > 0 else 0.2 * value) for j, value in e.items()}
            row.append(sum(e[j] * z[j] for j in z) / sum(e.values()))
        out.append(np.concatenate(row) + w["bias"])
    return out


def slow_spectral(x, a, w):
    count, matrix = len(w["kernel"]), laplacian(a)
    terms = [function_of(matrix, lambda v, k=k: hat(v, k, count, 2.0)) @ x @ w["kernel"][k] for k in range(count)]
    return sum(terms) + w["bias"]


def slow_graphwavelet(x, a, w):
    psi = function_of(laplacian(a), lambda v: np.exp(-w["scale"] * v))
    count = len(w["filter"])
    f = [sum(w["filter"][k] * hat(psi[i, i], k, count, 1.0) for k in range(count)) for i in range(len(x))]
    return psi @ np.diag(f) @ np.linalg.inv(psi) @ x @ w["kernel"] + w["bias"]


SLOW = {name.removeprefix("slow_"): function for name, function in list(globals().items()) if name.startswith("slow_")}


def test_every_convolution_has_a_reference():
    assert SLOW.keys() == CONVOLUTIONS.keys()


@pytest.mark.parametrize("conv", sorted(CONVOLUTIONS))
def test_it_is_what_its_paper_says(conv):
    made, (x, a) = layer(conv), graphs()
    expected = [SLOW[conv](one.astype(np.float64), links_, weights(made)) for one, links_ in zip(x, a, strict=True)]
    np.testing.assert_allclose(made([tf.constant(x), tf.constant(a)]).numpy(), np.array(expected), atol=2e-5)


@pytest.mark.parametrize("conv", sorted(CONVOLUTIONS))
def test_nodes_in_another_order_give_the_same_in_that_order(conv):
    made, (x, a), order = layer(conv), graphs(), np.random.default_rng(3).permutation(NODES)
    moved = made([tf.constant(x[:, order]), tf.constant(a[:, order][:, :, order])]).numpy()
    np.testing.assert_allclose(moved, made([tf.constant(x), tf.constant(a)]).numpy()[:, order], atol=2e-5)


@pytest.mark.parametrize("conv", sorted(CONVOLUTIONS))
def test_padding_changes_nothing(conv):
    made, (x, a) = layer(conv), graphs()
    wider = made([tf.constant(np.pad(x, ((0, 0), (0, 3), (0, 0)))), tf.constant(np.pad(a, ((0, 0), (0, 3), (0, 3))))]).numpy()
    np.testing.assert_allclose(wider[:, :NODES], made([tf.constant(x), tf.constant(a)]).numpy(), atol=2e-5)


@pytest.mark.parametrize("conv", sorted(CONVOLUTIONS))
def test_every_weight_learns(conv):
    made, (x, a) = layer(conv), graphs()
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(made([tf.constant(x), tf.constant(a)]) ** 2)
    for weight, gradient in zip(made.trainable_weights, tape.gradient(loss, made.trainable_weights), strict=True):
        assert gradient is not None, weight.name
        assert np.abs(gradient.numpy()).max() > 0, weight.name


def test_an_unknown_convolution_is_refused():
    with pytest.raises(network.InputError, match="no convolution is called conv3d: choose one of"):
        network.build("conv3d", 5)


def test_heads_divide_the_units():
    with pytest.raises(ValueError, match="5 units"):
        CONVOLUTIONS["gat"](5)
