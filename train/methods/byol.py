"""BYOL: Grill et al. 2020, "Bootstrap your own latent", https://arxiv.org/abs/2006.07733."""

import math
from dataclasses import dataclass

import tensorflow as tf
import tf_keras as keras

from train.methods import base, target


@dataclass(frozen=True)
class Options(base.Options):
    """Section 3.2 and 3.3: heads of 4096 and 256, rate 0.2 x batch / 256, weight decay 1.5e-6, target momentum from 0.996.
    The paper's LARS is for batches of thousands; here SGD."""

    rate: float = 0.2
    weight_decay: float = 1.5e-6
    projection: int = 256
    hidden: int = 4096
    target_momentum: float = 0.996


def regression(p: tf.Tensor, z: tf.Tensor) -> tf.Tensor:
    """Equation 2: mean squared distance of the normalised prediction p and target z, [N, D] each; a scalar, 0..4."""
    p = tf.math.l2_normalize(p, axis=1)  # [N, D]
    z = tf.math.l2_normalize(z, axis=1)  # [N, D]
    return tf.reduce_mean(2 - 2 * tf.reduce_sum(p * z, axis=1))


class BYOL(target.Followed):
    takes = Options

    def __init__(self, encoder: keras.Model, options: Options):
        super().__init__(encoder, options)
        width = self.projector.output_shape[-1]
        self.predictor = base.mlp("predictor", width, options.hidden, width)

    def make_projector(self, inputs: int) -> keras.Model:
        return base.mlp("projector", inputs, self.options.hidden, self.options.projection)

    @property
    def heads(self) -> list[keras.Model]:
        return [self.projector, self.predictor]

    def compare(self, view1: tf.Tensor, view2: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        z1, z2 = self(view1, training=True), self(view2, training=True)  # [N, D]
        p1, p2 = (tf.cast(self.predictor(z, training=True), tf.float32) for z in (z1, z2))
        return regression(p1, self.aim(view2)) + regression(p2, self.aim(view1)), z1, z2  # both ways, section 3.1

    def kept(self) -> tf.Tensor:
        """tau = 1 - (1 - tau_base) (cos(pi k / K) + 1) / 2, section 3.2: from tau_base to 1."""
        done = tf.cast(self.optimizer.iterations, tf.float32) / self.steps  # k / K
        return 1 - (1 - self.options.target_momentum) * (tf.cos(math.pi * tf.minimum(done, 1.0)) + 1) / 2

    def _decay(self, variable: tf.Variable) -> tf.Tensor:
        return base.decay_of_kernels(variable, self.options.weight_decay)
