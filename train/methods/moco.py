"""MoCo: He et al. 2019, "Momentum contrast for unsupervised visual representation learning", https://arxiv.org/abs/1911.05722, with
the head, the temperature and the cosine of its second version (Chen et al. 2020, https://arxiv.org/abs/2003.04297).

Its shuffling of BatchNorm (section 3.3) is left out: it deals pictures to several GPUs, each with statistics of its own, in
another order for the keys. On one device, and where statistics are synchronised, it would change nothing.
"""

from dataclasses import dataclass

import tensorflow as tf
import tf_keras as keras

from device.program import InputError
from train.methods import base, target


@dataclass(frozen=True)
class Options(base.Options):
    """Section 3.3 of the first paper: rate 0.03, weight decay 1e-4, target momentum 0.999; section 3 of the second: a hidden layer of
    2048, temperature 0.2.

    `queue`: how many negatives. The paper's 65,536 are a twentieth of ImageNet; of tens of thousands of faces they would be all, and
    each face its own negative.
    """

    rate: float = 0.03
    weight_decay: float = 1e-4
    projection: int = 128
    hidden: int = 2048
    temperature: float = 0.2
    target_momentum: float = 0.999
    queue: int = 4096


def info_nce(q: tf.Tensor, k: tf.Tensor, negatives: tf.Tensor, temperature: float) -> tf.Tensor:
    """Equation 1: each query of q [N, D] has to find its key of k [N, D] among `negatives` [K, D]; all unit rows; a scalar."""
    positive = tf.reduce_sum(q * k, axis=1, keepdims=True)  # [N, 1]
    logits = tf.concat([positive, tf.matmul(q, negatives, transpose_b=True)], axis=1) / temperature  # [N, 1 + K]
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(tf.zeros(tf.shape(q)[0], tf.int32), logits))


class MoCo(target.Followed):
    """The first view asks, the second is the key; the keys of the last steps, oldest replaced first, are the negatives."""

    takes = Options

    def __init__(self, encoder: keras.Model, options: Options):
        super().__init__(encoder, options)
        shape, once = (options.queue, self.projector.output_shape[-1]), tf.VariableAggregation.ONLY_FIRST_REPLICA
        start = tf.math.l2_normalize(tf.random.normal(shape), axis=1)  # random, as in the authors' code
        self.queue = tf.Variable(start, trainable=False, name="queue", aggregation=once)
        self.oldest = tf.Variable(0, trainable=False, name="oldest", aggregation=once)

    def ready(self, batch: int, steps: int, warmup: int = 0, accumulate: int = 1) -> None:
        if self.options.queue < batch:
            raise InputError(f"--queue {self.options.queue} holds less than a batch of {batch}", "give a longer --queue")
        super().ready(batch, steps, warmup, accumulate)

    def make_projector(self, inputs: int) -> keras.Model:
        return base.mlp("projector", inputs, self.options.hidden, self.options.projection, norm=False)

    def compare(self, view1: tf.Tensor, view2: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        query, key = self(view1, training=True), self.aim(view2)  # [N, D]
        q, k = (base.gathered(tf.math.l2_normalize(z, axis=1)) for z in (query, key))
        loss = info_nce(q, k, self.queue, self.options.temperature)
        self._enqueue(k)
        return loss, query, key

    def _enqueue(self, keys: tf.Tensor) -> None:
        """Algorithm 1: the newest keys [N, D] take the places of the oldest."""
        rows = (self.oldest + tf.range(tf.shape(keys)[0])) % self.options.queue
        self.queue.assign(tf.tensor_scatter_nd_update(self.queue, rows[:, None], keys))
        self.oldest.assign((self.oldest + tf.shape(keys)[0]) % self.options.queue)
