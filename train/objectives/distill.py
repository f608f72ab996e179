"""Distillation without labels: the student gives the embeddings of a teacher (Hinton et al. 2015, arXiv:1503.02531)."""

import numpy as np
import tensorflow as tf
import tf_keras as keras

from train import encoders
from train.objectives.base import Figures, Objective, unit

# The share of the teacher's mean that the student's embeddings keep. All of it leaves the cosine of strangers at 0.84 and
# few steps of an int8 scale for the rest; none makes the cosine blind to how far a face is from the common one. On LFW's
# development pairs (pairsDevTrain, pairsDevTest) half keeps the accuracy and raises TAR at FAR 1e-2 and 1e-3.
KEPT = 0.5


def statistics(targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation [T] of the teacher's unit embeddings float32 [N, T]."""
    return targets.mean(axis=0), np.maximum(targets.std(axis=0), 1e-6)


class Distill(Objective):
    """The squared error of the standardised embeddings plus `relation` times that of the batch's similarity matrices
    (Tung and Mori 2019, "Similarity-preserving knowledge distillation", arXiv:1907.09682, eq. 4).

    Most of the length of a teacher's embeddings can be common to all faces (dlib's: a cosine of 0.84 between strangers),
    so the student learns what is left, (e - mean) / deviation, and `calibrated` puts the deviation and a part of the mean
    back into the last layer. The embedding has as many numbers as the teacher's.
    """

    needs = "teacher"

    def __init__(self, mean: np.ndarray, deviation: np.ndarray, relation: float = 2.0):
        super().__init__("distill")
        self.mean, self.deviation, self.relation = tf.constant(mean, tf.float32), tf.constant(deviation, tf.float32), relation

    def call(self, embeddings: tf.Tensor, targets: tf.Tensor) -> tuple[tf.Tensor, Figures]:
        wanted = (targets - self.mean) / self.deviation  # [B, T]
        regression = tf.reduce_mean(tf.square(embeddings - wanted))
        mine, theirs = unit(embeddings), unit(wanted)
        off = tf.square(tf.matmul(mine, mine, transpose_b=True) - tf.matmul(theirs, theirs, transpose_b=True))  # [B, B]
        cosine = tf.reduce_mean(tf.reduce_sum(mine * theirs, axis=1))
        loss = regression + self.relation * tf.reduce_mean(off)
        return loss, {"distill_cosine": cosine}

    def calibrated(self, encoder: keras.Model) -> keras.Model:
        """The same encoder, its embeddings in the teacher's own size and near its place instead of standardised."""
        target = encoders.resized(encoder, encoder.input_shape[1])
        kernel, bias = target.get_layer(encoders.EMBEDDING).get_weights()
        deviation, mean = self.deviation.numpy(), self.mean.numpy()
        target.get_layer(encoders.EMBEDDING).set_weights([kernel * deviation, bias * deviation + KEPT * mean])
        return target
