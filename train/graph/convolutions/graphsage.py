"""GraphSAGE with the mean of the neighbours (Hamilton et al. 2017, arXiv:1706.02216, section 3.3); also the layer of Wang et al. 2019,
arXiv:1903.11306, section 3.3.

y = [x, D^-1 A x] W: a node beside the mean of those that it is linked to.
"""

import tensorflow as tf
import tf_keras as keras


class GraphSage(keras.layers.Layer):
    def __init__(self, units: int, **settings):
        super().__init__(**settings)
        self.units = units

    def build(self, shapes):
        self.kernel = self.add_weight("kernel", (2 * shapes[0][-1], self.units), initializer="glorot_uniform")
        self.bias = self.add_weight("bias", (self.units,), initializer="zeros")

    def call(self, inputs):
        x, a = inputs
        mean = tf.math.divide_no_nan(tf.matmul(a, x), tf.reduce_sum(a, axis=-1, keepdims=True))
        return tf.matmul(tf.concat([x, mean], axis=-1), self.kernel) + self.bias
