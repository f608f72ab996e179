"""SimSiam: Chen and He 2020, "Exploring simple Siamese representation learning", https://arxiv.org/abs/2011.10566."""

from dataclasses import dataclass
from typing import Any

import tensorflow as tf
import tf_keras as keras

from device.program import InputError
from train.methods import base
from train.runs import Cosine

L = keras.layers


@dataclass(frozen=True)
class Options(base.Options):
    """Section 4.1: rate 0.05 x batch / 256, weight decay 1e-4, SGD momentum 0.9; section 3: 2048 wide.

    `stop_gradient` and `predictor` off: what section 4.1 and 4.2 take away to show the collapse.
    """

    rate: float = 0.05
    weight_decay: float = 1e-4
    projection: int = 2048
    stop_gradient: bool = True
    predictor: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.projection < 4:
            raise InputError(f"--projection is {self.projection}", "SimSiam needs a projector: give 4 or more")


def negative_cosine(p: tf.Tensor, z: tf.Tensor) -> tf.Tensor:
    """D(p, z), equation 1: p and z [N, D]; a scalar, -1 where all agree."""
    p = tf.math.l2_normalize(p, axis=1)  # [N, D]
    z = tf.math.l2_normalize(z, axis=1)  # [N, D]
    return -tf.reduce_mean(tf.reduce_sum(p * z, axis=1))


def projector(inputs: int, width: int, depth: int = 3, affine: bool = False) -> keras.Model:
    """The projection MLP, section 3: BatchNorm after every layer, also the last, ReLU after all but the last.

    `affine`: the last BatchNorm too has scale and shift. In the authors' code it has not, and so an output that is the same for all
    pictures is no way out: within a batch of N the nearest to it is one picture against all others, with a std of 2/sqrt(N) of the
    healthy one.
    """
    model = keras.Sequential([L.Input((inputs,))], name="projector")
    for layer in range(1, depth + 1):
        last = layer == depth
        model.add(L.Dense(width, use_bias=False))
        model.add(L.BatchNormalization(center=affine or not last, scale=affine or not last))
        if not last:
            model.add(L.ReLU())
    return model


def predictor(width: int) -> keras.Model:
    """The prediction MLP, section 3: a bottleneck of a quarter; neither BatchNorm nor ReLU at its output."""
    layers = [L.Input((width,)), L.Dense(width // 4, use_bias=False), L.BatchNormalization(), L.ReLU(), L.Dense(width)]
    return keras.Sequential(layers, name="predictor")


class SimSiam(base.Method):
    """Two optimisers: the predictor's rate does not decay (section 4.2 and table 1), the rest's does."""

    takes = Options

    def __init__(self, encoder: keras.Model, options: Options):
        super().__init__(encoder, options)
        if options.predictor:
            self.predictor = predictor(options.projection)

    def make_projector(self, inputs: int) -> keras.Model:
        return projector(inputs, self.options.projection)

    @property
    def heads(self) -> list[keras.Model]:
        return [self.projector, self.predictor] if self.options.predictor else [self.projector]

    def rates(self, rate: float, falling: Cosine) -> dict[str, Any]:
        return {"optimizer": falling, "predictor_optimizer": rate} if self.options.predictor else {"optimizer": falling}

    def compile(self, optimizer: keras.optimizers.Optimizer, predictor_optimizer: keras.optimizers.Optimizer | None = None) -> None:
        super().compile(optimizer=optimizer)
        if predictor_optimizer is not None:
            self.predictor_optimizer = predictor_optimizer

    def groups(self) -> list[tuple[keras.optimizers.Optimizer, list[tf.Variable]]]:
        decaying = self.encoder.trainable_variables + self.projector.trainable_variables
        if not self.options.predictor:
            return [(self.optimizer, decaying)]
        return [(self.optimizer, decaying), (self.predictor_optimizer, self.predictor.trainable_variables)]

    def compare(self, view1: tf.Tensor, view2: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        z1, z2 = self(view1, training=True), self(view2, training=True)  # [N, D]; BatchNorm sees one view at a time, as the authors' does
        p1, p2 = self._predicted(z1), self._predicted(z2)  # [N, D]
        return negative_cosine(p1, self._target(z2)) / 2 + negative_cosine(p2, self._target(z1)) / 2, z1, z2  # equation 4

    def _predicted(self, z: tf.Tensor) -> tf.Tensor:
        return tf.cast(self.predictor(z, training=True), tf.float32) if self.options.predictor else z

    def _target(self, z: tf.Tensor) -> tf.Tensor:
        """stopgrad(z), equation 3."""
        return tf.stop_gradient(z) if self.options.stop_gradient else z
