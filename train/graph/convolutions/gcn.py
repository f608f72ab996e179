"""GCN, the first-order filter (Kipf and Welling 2017, arXiv:1609.02907, section 2.2).

y = D^-1/2 (A + I) D^-1/2 x W, where D counts each node's links and itself.
"""

import tensorflow as tf
import tf_keras as keras

from train.graph.convolutions.laplacian import normalised


class Gcn(keras.layers.Layer):
    def __init__(self, units: int, **settings):
        super().__init__(**settings)
        self.units = units

    def build(self, shapes):
        self.kernel = self.add_weight("kernel", (shapes[0][-1], self.units), initializer="glorot_uniform")
        self.bias = self.add_weight("bias", (self.units,), initializer="zeros")

    def call(self, inputs):
        x, a = inputs
        a = a + tf.eye(tf.shape(a)[-1], batch_shape=tf.shape(a)[:1])
        return tf.matmul(normalised(a), tf.matmul(x, self.kernel)) + self.bias
