"""GAT: a mean of the neighbours that attends to some more than to others (Velickovic et al. 2018, arXiv:1710.10903, section 2.1).

e_ij = LeakyReLU(l . W x_i + r . W x_j) for j among the links of i and i itself, alpha = softmax_j(e), y_i = sum_j alpha_ij W x_j;
several heads side by side.
"""

import tensorflow as tf
import tf_keras as keras


class Gat(keras.layers.Layer):
    def __init__(self, units: int, heads: int = 4, **settings):
        super().__init__(**settings)
        if units % heads:
            raise ValueError(f"{units} units do not go into {heads} heads")
        self.units, self.heads = units, heads

    def build(self, shapes):
        each = self.units // self.heads
        self.kernel = self.add_weight("kernel", (shapes[0][-1], self.heads, each), initializer="glorot_uniform")
        self.left = self.add_weight("left", (self.heads, each), initializer="glorot_uniform")
        self.right = self.add_weight("right", (self.heads, each), initializer="glorot_uniform")
        self.bias = self.add_weight("bias", (self.units,), initializer="zeros")

    def call(self, inputs):
        x, a = inputs
        z = tf.einsum("bmf,fhe->bhme", x, self.kernel)
        left, right = (tf.einsum("bhme,he->bhm", z, vector) for vector in (self.left, self.right))
        e = tf.nn.leaky_relu(left[..., :, None] + right[..., None, :], 0.2)  # [B, H, M, M]
        linked = a + tf.eye(tf.shape(a)[-1], batch_shape=tf.shape(a)[:1]) > 0
        alpha = tf.nn.softmax(tf.where(linked[:, None], e, -1e9))
        y = tf.transpose(tf.matmul(alpha, z), (0, 2, 1, 3))  # [B, M, H, E]
        return tf.reshape(y, (-1, tf.shape(x)[1], self.units)) + self.bias
