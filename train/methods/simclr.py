"""SimCLR: Chen et al. 2020, "A simple framework for contrastive learning of visual representations", https://arxiv.org/abs/2002.05709."""

from dataclasses import dataclass

import tensorflow as tf
import tf_keras as keras

from train.methods import base


@dataclass(frozen=True)
class Options(base.Options):
    """Section 2.1 (head: a hidden layer and 128 numbers) and 2.2: rate 0.3 x batch / 256, weight decay 1e-6; temperature 0.1,
    section 5.1. The paper's LARS is for batches of thousands; here SGD."""

    rate: float = 0.3
    weight_decay: float = 1e-6
    projection: int = 128
    hidden: int = 2048
    temperature: float = 0.1


def nt_xent(z1: tf.Tensor, z2: tf.Tensor, temperature: float) -> tf.Tensor:
    """Equation 1 over both views of all pictures: z1, z2 [N, D], of any length; a scalar. Each of the 2N views has to find the
    other of its picture among the 2N - 1 others."""
    z = tf.math.l2_normalize(tf.concat([z1, z2], axis=0), axis=1)  # [2N, D]
    n = tf.shape(z1)[0]
    similarities = tf.matmul(z, z, transpose_b=True) / temperature  # [2N, 2N]
    similarities -= 1e9 * tf.eye(2 * n)  # nobody is compared with itself
    positives = tf.roll(tf.range(2 * n), n, axis=0)  # [2N]: the row of the other view
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(positives, similarities))


class SimCLR(base.Method):
    takes = Options

    def make_projector(self, inputs: int) -> keras.Model:
        return base.mlp("projector", inputs, self.options.hidden, self.options.projection)

    def compare(self, view1: tf.Tensor, view2: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        # [N, D] each; one pass: BatchNorm sees both views at once, as the authors' does.
        z1, z2 = tf.split(self(tf.concat([view1, view2], axis=0), training=True), 2)
        return nt_xent(base.gathered(z1), base.gathered(z2), self.options.temperature), z1, z2

    def _decay(self, variable: tf.Variable) -> tf.Tensor:
        return base.decay_of_kernels(variable, self.options.weight_decay)
