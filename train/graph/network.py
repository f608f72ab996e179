"""The network that tells which neighbours of a pivot show the same person (Wang et al. 2019, arXiv:1903.11306, section 3.3)."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
import tf_keras as keras

from device.linker import Scale, Shape, features
from device.neighbours import nearest, subgraphs
from device.program import InputError
from train.graph.convolutions import CONVOLUTIONS

L = keras.layers
AT_ONCE = 256  # pivots that are predicted at once


def build(conv: str, dimension: int, units: int = 64, layers: int = 2) -> keras.Model:
    """From features float32 [B, M, dimension], adjacency [B, M, M] and the places of the neighbours int32 [B, K] to logits [B, K]:
    the log-odds that a neighbour shows the pivot's person. Raises InputError for a convolution that does not exist."""
    if conv not in CONVOLUTIONS:
        raise InputError(f"no convolution is called {conv}", f"choose one of {', '.join(CONVOLUTIONS)}")
    x = inputs = L.Input((None, dimension), name="features")
    a = L.Input((None, None), name="adjacency")
    hops = L.Input((None,), dtype=tf.int32, name="hops")
    for number in range(layers):
        x = L.ReLU(name=f"relu{number}")(CONVOLUTIONS[conv](units, name=f"conv{number}")([x, a]))
    x = L.Lambda(lambda both: tf.gather(both[0], both[1], batch_dims=1), name="neighbours")([x, hops])
    x = L.Dense(units, activation="relu", name="hidden")(x)
    return keras.Model([inputs, a, hops], L.Lambda(lambda logit: logit[..., 0], name="odds")(L.Dense(1, name="logit")(x)), name=conv)


@dataclass(frozen=True, eq=False)
class Graph:
    """Embeddings float32 unit [N, D] as a graph: the neighbours int32 [N, K] of each and their cosines float32 [N, K]."""

    embeddings: np.ndarray
    neighbours: np.ndarray
    cosines: np.ndarray

    @classmethod
    def of(cls, embeddings: np.ndarray, shape: Shape) -> "Graph":
        return cls(embeddings, *nearest(embeddings, shape.first))

    def inputs(self, pivots: np.ndarray, shape: Shape, scale: Scale) -> list[np.ndarray]:
        """What the network takes for these pivots, int [B]."""
        parts = subgraphs(self.neighbours, pivots, shape.second, shape.links)
        return [features(self.embeddings, parts, scale), parts.adjacency, parts.hops.astype(np.int32)]


def fit(
    model: keras.Model, graph: Graph, identities: np.ndarray, shape: Shape, scale: Scale, epochs: int, batch: int, rate: float, seed: int
) -> list[float]:
    """Train on every node of a graph of people `identities` int [N]; returns the mean loss of each epoch."""
    rng = np.random.default_rng(seed)
    steps = epochs * (len(identities) // batch)
    schedule = keras.optimizers.schedules.CosineDecay(rate, steps)
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=1e-4)

    @tf.function(reduce_retracing=True)
    def step(x, a, hops, same):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(same, model([x, a, hops], training=True)))
        optimizer.apply_gradients(zip(tape.gradient(loss, model.trainable_variables), model.trainable_variables, strict=True))
        return loss

    losses = []
    for _ in range(epochs):
        of_epoch = []
        for pivots in _batches(rng.permutation(len(identities)), batch):
            inputs = graph.inputs(pivots, shape, scale)
            same = (identities[graph.neighbours[pivots]] == identities[pivots, None]).astype(np.float32)
            of_epoch.append(float(step(*map(tf.constant, (*inputs, same)))))
        losses.append(float(np.mean(of_epoch)))
    return losses


def _batches(rows: np.ndarray, batch: int) -> Iterator[np.ndarray]:
    for start in range(0, len(rows) - batch + 1, batch):
        yield rows[start : start + batch]


def predict(model: keras.Model, graph: Graph, shape: Shape, scale: Scale) -> np.ndarray:
    """The probability that each neighbour shows the same person: float32 [N, K]."""
    found = []
    for start in range(0, len(graph.embeddings), AT_ONCE):
        inputs = graph.inputs(np.arange(start, min(start + AT_ONCE, len(graph.embeddings))), shape, scale)
        found.append(tf.sigmoid(model(inputs, training=False)).numpy())
    return np.concatenate(found)
