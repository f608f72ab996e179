"""GIN: a sum over the neighbours, which tells how many they are, and a small network (Xu et al. 2019, arXiv:1810.00826, section 4).

y = MLP((1 + eps) x + A x), with a learnt eps.
"""

import tensorflow as tf
import tf_keras as keras


class Gin(keras.layers.Layer):
    def __init__(self, units: int, **settings):
        super().__init__(**settings)
        self.units = units

    def build(self, shapes):
        self.eps = self.add_weight("eps", (), initializer="zeros")
        self.first = self.add_weight("first", (shapes[0][-1], self.units), initializer="he_uniform")
        self.first_bias = self.add_weight("first_bias", (self.units,), initializer="zeros")
        self.second = self.add_weight("second", (self.units, self.units), initializer="glorot_uniform")
        self.bias = self.add_weight("bias", (self.units,), initializer="zeros")

    def call(self, inputs):
        x, a = inputs
        summed = (1 + self.eps) * x + tf.matmul(a, x)
        hidden = tf.nn.relu(tf.matmul(summed, self.first) + self.first_bias)
        return tf.matmul(hidden, self.second) + self.bias
