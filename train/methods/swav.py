"""SwAV: Caron et al. 2020, "Unsupervised learning of visual features by contrasting cluster assignments",
https://arxiv.org/abs/2006.09882. Two whole views; its small crops (section 3.2) are left out."""

from dataclasses import dataclass

import tensorflow as tf
import tf_keras as keras

from train.methods import base

ITERATIONS = 3  # of Sinkhorn and Knopp, section 3.1


@dataclass(frozen=True)
class Options(base.Options):
    """Appendix A: 3000 prototypes, temperature 0.1, epsilon 0.05, a hidden layer of 2048; rate 0.6 and weight decay 1e-6 for batches
    of 256."""

    rate: float = 0.6
    weight_decay: float = 1e-6
    projection: int = 128
    hidden: int = 2048
    temperature: float = 0.1
    prototypes: int = 3000
    epsilon: float = 0.05


def sinkhorn(scores: tf.Tensor, epsilon: float, iterations: int = ITERATIONS) -> tf.Tensor:
    """Codes [N, K] of `scores` [N, K], the cosines of pictures and prototypes: equation 5 by alternate normalisation, which gives
    every prototype the same share of the batch (equation 4) and every picture the sum 1."""
    q = tf.exp((scores - tf.reduce_max(scores)) / epsilon)  # a common factor: no overflow, the same codes
    for _ in range(iterations):
        q = tf.math.divide_no_nan(q, tf.reduce_sum(q, axis=0))  # over the pictures
        q = tf.math.divide_no_nan(q, tf.reduce_sum(q, axis=1, keepdims=True))  # over the prototypes
    return q


def swapped(scores1: tf.Tensor, scores2: tf.Tensor, temperature: float, epsilon: float) -> tf.Tensor:
    """Equations 1 and 2: each view predicts the other's code. `scores` [N, K]: cosines with the prototypes; a scalar, the mean over
    both ways as in the authors' code."""
    codes = [tf.stop_gradient(sinkhorn(scores, epsilon)) for scores in (scores1, scores2)]
    ways = zip((scores2, scores1), codes, strict=True)
    return tf.add_n([tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(code, scores / temperature)) for scores, code in ways]) / 2


class SwAV(base.Method):
    takes = Options

    def __init__(self, encoder: keras.Model, options: Options):
        super().__init__(encoder, options)
        width = self.projector.output_shape[-1]
        inputs = keras.layers.Input((width,))
        self.prototypes = keras.Model(inputs, Prototypes(options.prototypes, dtype=tf.float32)(inputs), name="prototypes")

    def make_projector(self, inputs: int) -> keras.Model:
        return base.mlp("projector", inputs, self.options.hidden, self.options.projection)

    @property
    def heads(self) -> list[keras.Model]:
        return [self.projector, self.prototypes]

    def compare(self, view1: tf.Tensor, view2: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        z1, z2 = tf.split(self(tf.concat([view1, view2], axis=0), training=True), 2)  # [N, D]
        scores1, scores2 = (self.prototypes(base.gathered(z)) for z in (z1, z2))  # [N, K]
        return swapped(scores1, scores2, self.options.temperature, self.options.epsilon), z1, z2


class Prototypes(keras.layers.Layer):
    """Cosines [N, K] of rows [N, D] with K prototypes; both are normalised, section 3.1."""

    def __init__(self, count: int, **kwargs):
        super().__init__(**kwargs)
        self.count = count

    def build(self, shape: tuple[int, int]) -> None:
        self.kernel = self.add_weight("kernel", (shape[-1], self.count), initializer="random_normal")

    def call(self, z: tf.Tensor) -> tf.Tensor:
        return tf.matmul(tf.math.l2_normalize(z, axis=1), tf.math.l2_normalize(self.kernel, axis=0))
