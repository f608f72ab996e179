"""Meta-learning on episodes: how to start, so that a few gradient steps on a few pictures are enough.

An episode asks who of N people a picture shows, of whom K pictures each are given. Three algorithms improve the start theta, all on
the same inner loop, plain gradient descent on the support. They know nothing of the model: `Learner` is all they ask of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import tensorflow as tf

from device.program import InputError

Parameters = list[tf.Tensor]


@dataclass(frozen=True, eq=False)
class Batch:
    """Pictures and whose they are: `x` float [N, D], `truth` float [N, P], 1 where a row is a person's."""

    x: tf.Tensor
    truth: tf.Tensor


class Learner(Protocol):
    def start(self, theta: Parameters, support: Batch) -> Parameters:
        """What is descended from for this support; the first of them are theta itself."""
        ...

    def loss(self, parameters: Parameters, batch: Batch) -> tf.Tensor: ...


@dataclass(frozen=True)
class Inner:
    """The inner loop: `steps` of gradient descent, `rates` for theta and for what `start` adds to it."""

    steps: int
    rates: tuple[float, float]

    def descend(self, learner: Learner, theta: Parameters, support: Batch, second_order: bool) -> Parameters:
        """The parameters adapted to the support. With `second_order` gradients go through the steps, else the steps are constants."""
        parameters = learner.start(theta, support)
        for _ in range(self.steps):
            with tf.GradientTape() as tape:
                tape.watch(parameters)
                loss = learner.loss(parameters, support)
            steps = tape.gradient(loss, parameters)
            rates = [self.rates[0] if number < len(theta) else self.rates[1] for number in range(len(parameters))]
            steps = steps if second_order else [tf.stop_gradient(step) for step in steps]
            parameters = [value - rate * step for value, rate, step in zip(parameters, rates, steps, strict=True)]
        return parameters


def maml(learner: Learner, inner: Inner, theta: Parameters, support: Batch, query: Batch) -> tuple[Parameters, tf.Tensor]:
    """The gradient by theta of the query's loss after adaptation, through all inner steps (Finn et al. 2017, arXiv:1703.03400,
    algorithm 1); and that loss."""
    return _through(learner, inner, theta, support, query, second_order=True)


def fomaml(learner: Learner, inner: Inner, theta: Parameters, support: Batch, query: Batch) -> tuple[Parameters, tf.Tensor]:
    """The same with the inner steps taken for constants: first-order MAML (section 5.2 there)."""
    return _through(learner, inner, theta, support, query, second_order=False)


def reptile(learner: Learner, inner: Inner, theta: Parameters, support: Batch, query: Batch) -> tuple[Parameters, tf.Tensor]:
    """Away from where the inner loop leads to on all pictures, theta - phi: no gradient goes through it (Nichol et al. 2018,
    arXiv:1803.02999, algorithm 1); and the loss there."""
    both = Batch(tf.concat([support.x, query.x], 0), tf.concat([support.truth, query.truth], 0))
    found = [tf.stop_gradient(value) for value in inner.descend(learner, theta, both, second_order=False)]
    return [start - end for start, end in zip(theta, found, strict=False)], learner.loss(found, both)


ALGORITHMS = {"maml": maml, "fomaml": fomaml, "reptile": reptile}


def _through(
    learner: Learner, inner: Inner, theta: Parameters, support: Batch, query: Batch, second_order: bool
) -> tuple[Parameters, tf.Tensor]:
    with tf.GradientTape() as tape:
        tape.watch(theta)
        loss = learner.loss(inner.descend(learner, theta, support, second_order), query)
    return tape.gradient(loss, theta), loss


class Cosines:
    """The device's head (device/adapt.py): theta is the matrix, each person starts at the mean of the turned templates
    (as in Proto-MAML: Triantafillou et al. 2020, arXiv:1903.03096, section 3.3)."""

    def __init__(self, sharpness: float):
        self.sharpness = sharpness

    def start(self, theta: Parameters, support: Batch) -> Parameters:
        turned = tf.math.l2_normalize(tf.matmul(support.x, theta[0]), axis=1)
        sums = tf.matmul(support.truth, turned, transpose_a=True)
        return [*theta, sums / tf.reduce_sum(support.truth, axis=0)[:, None]]

    def loss(self, parameters: Parameters, batch: Batch) -> tf.Tensor:
        matrix, people = parameters
        turned = tf.math.l2_normalize(tf.matmul(batch.x, matrix), axis=1)
        logits = self.sharpness * tf.matmul(turned, tf.math.l2_normalize(people, axis=1), transpose_b=True)
        return tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(batch.truth, logits))


def draw(identities: np.ndarray, ways: int, shots: int, queries: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Rows of an episode of `ways` people: the support int [ways, shots] and the query int [ways, queries], all different pictures.

    Raises InputError where too few people have so many pictures.
    """
    order = np.argsort(identities, kind="stable")
    groups: Sequence[np.ndarray] = np.split(order, np.flatnonzero(np.diff(identities[order])) + 1)
    enough = [rows for rows in groups if len(rows) >= shots + queries]
    if len(enough) < ways:
        wrong = f"{len(enough)} people have {shots + queries} pictures, an episode wants {ways}"
        raise InputError(wrong, "lower the ways, the shots or the queries, or add pictures")
    rows = np.stack([rng.permutation(enough[person])[: shots + queries] for person in rng.permutation(len(enough))[:ways]])
    return rows[:, :shots], rows[:, shots:]
