"""ChebNet: a filter that is a polynomial of the Laplacian, in Chebyshev's basis (Defferrard et al. 2016, arXiv:1606.09375, section 2.1).

y = sum_k T_k(L - I) x W_k for k below `order`, with T_k(s) = 2 s T_{k-1}(s) - T_{k-2}(s); L - I is the Laplacian scaled as if its
largest eigenvalue were 2, the most that it can be. A node hears of those at most `order` - 1 links away.
"""

import tensorflow as tf
import tf_keras as keras

from train.graph.convolutions.laplacian import normalised


class ChebNet(keras.layers.Layer):
    def __init__(self, units: int, order: int = 3, **settings):
        super().__init__(**settings)
        self.units, self.order = units, order

    def build(self, shapes):
        self.kernel = self.add_weight("kernel", (self.order, shapes[0][-1], self.units), initializer="glorot_uniform")
        self.bias = self.add_weight("bias", (self.units,), initializer="zeros")

    def call(self, inputs):
        x, a = inputs
        scaled = -normalised(a)  # L - I
        terms = [x, tf.matmul(scaled, x)]
        while len(terms) < self.order:
            terms.append(2 * tf.matmul(scaled, terms[-1]) - terms[-2])
        return tf.add_n([tf.matmul(term, kernel) for term, kernel in zip(terms, tf.unstack(self.kernel), strict=False)]) + self.bias
