"""Spectral convolution, a filter over the Laplacian's eigenvectors (Bruna et al. 2014, arXiv:1312.6203, section 3).

y = sum_k U diag(h_k(lambda)) U^T x W_k: the filter from feature i to unit j is the spline sum_k W_k[i, j] h_k of the eigenvalue.
Smooth in the eigenvalue, as the paper's section 3.2 asks for the sake of locality; and a function of the eigenvalue, not of the
eigenvector's number, so that it means the same in graphs of any size and does not depend on the eigenvectors' signs.
"""

import tensorflow as tf
import tf_keras as keras

from train.graph.convolutions.laplacian import hats, spectrum


class Spectral(keras.layers.Layer):
    def __init__(self, units: int, splines: int = 5, **settings):
        super().__init__(**settings)
        self.units, self.splines = units, splines

    def build(self, shapes):
        self.kernel = self.add_weight("kernel", (self.splines, shapes[0][-1], self.units), initializer="glorot_uniform")
        self.bias = self.add_weight("bias", (self.units,), initializer="zeros")

    def call(self, inputs):
        x, a = inputs
        values, u = spectrum(a)
        h = hats(values, 0.0, 2.0, self.splines)  # [B, M, K]
        waves = tf.matmul(u, x, transpose_a=True)  # [B, M, F]
        filtered = tf.einsum("bmk,bmf,kfu->bmu", h, waves, self.kernel)
        return tf.matmul(u, filtered) + self.bias
