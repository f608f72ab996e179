"""GWNN: a filter over wavelets of the graph (Xu et al. 2019, arXiv:1904.07785, section 3).

y = psi F psi^-1 (x W) with psi = U exp(-s lambda) U^T, a heat kernel that stays near its node, and a diagonal F; as in the paper's
section 3.3 W turns the features and F filters the graph. The paper learns one number in F for each node of its one graph. Our
graphs are many and their nodes have no numbers, so F is a spline of how much of a node's wavelet stays at the node, psi[i, i].
The scale s is learnt too.
"""

import tensorflow as tf
import tf_keras as keras

from train.graph.convolutions.laplacian import hats, spectrum


class GraphWavelet(keras.layers.Layer):
    def __init__(self, units: int, splines: int = 5, **settings):
        super().__init__(**settings)
        self.units, self.splines = units, splines

    def build(self, shapes):
        self.kernel = self.add_weight("kernel", (shapes[0][-1], self.units), initializer="glorot_uniform")
        self.filter = self.add_weight("filter", (self.splines,), initializer=keras.initializers.RandomUniform(0.5, 1.5))
        self.scale = self.add_weight("scale", (), initializer="ones", constraint=keras.constraints.NonNeg())
        self.bias = self.add_weight("bias", (self.units,), initializer="zeros")

    def call(self, inputs):
        x, a = inputs
        values, u = spectrum(a)
        heat = tf.exp(-self.scale * values)  # [B, M]
        stays = tf.einsum("bmi,bi->bm", u**2, heat)  # psi's diagonal, 0 to 1
        f = tf.linalg.matvec(hats(stays, 0.0, 1.0, self.splines), self.filter)  # [B, M]
        y = tf.matmul(u, tf.matmul(u, tf.matmul(x, self.kernel), transpose_a=True) / heat[:, :, None])  # psi^-1 x W
        y = tf.matmul(u, heat[:, :, None] * tf.matmul(u, f[:, :, None] * y, transpose_a=True))
        return y + self.bias
