"""Softmax: a dense head over the training's identities, as in Taigman et al. 2014, "DeepFace"."""

import tensorflow as tf
import tf_keras as keras

from device.program import InputError
from train.objectives.base import Figures, Objective


def several(people: int) -> int:
    """The number of identities of a head. Raises InputError if there is nobody to tell apart."""
    if people < 2:
        raise InputError(f"there is {people} person to tell apart", "give crops of two people or more")
    return people


def cross_entropy(logits: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Mean of -log softmax(logits)[label], and the share of rows whose highest logit is the label's; logits [B, C], labels [B]."""
    loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
    return loss, tf.reduce_mean(tf.cast(tf.argmax(logits, axis=1, output_type=labels.dtype) == labels, tf.float32))


class Softmax(Objective):
    """Cross-entropy of a dense layer over `people` identities. Labels are 0 to people - 1.

    The embeddings are taken as they are: their length is the head's confidence, and the head is dropped afterwards.
    """

    def __init__(self, people: int):
        super().__init__("softmax")
        self.head = keras.layers.Dense(several(people), dtype="float32", name="identities")

    def call(self, embeddings: tf.Tensor, targets: tf.Tensor) -> tuple[tf.Tensor, Figures]:
        loss, accuracy = cross_entropy(self.head(embeddings), targets)
        return loss, {"softmax_accuracy": accuracy}
