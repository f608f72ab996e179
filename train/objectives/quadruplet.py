"""Quadruplet: Chen, Chen, Zhang and Huang 2017, "Beyond triplet loss", https://arxiv.org/abs/1704.01719."""

import tensorflow as tf

from train.objectives.base import Figures, pairs, positive_margin, squared_distances
from train.objectives.mining import Mined, hinge
from train.objectives.triplet import Triplet


def quadruplets(squares: tf.Tensor, labels: tf.Tensor) -> Mined:
    """Gaps [positive pairs, negative pairs] d(i, j)^2 - d(l, k)^2, where i and j show one person, l and k two others."""
    once = tf.linalg.band_part(tf.ones_like(squares, bool), 0, -1)  # (i, j) and (j, i) are one pair
    positive, negative = (tf.where(mask & once) for mask in pairs(labels))  # [M, 2] and [N, 2], rows of the batch
    person = tf.gather(labels, positive[:, 0])[:, None, None]  # [M, 1, 1]
    others = tf.reduce_all(person != tf.gather(labels, negative), axis=2)  # [M, N]
    return tf.gather_nd(squares, positive)[:, None] - tf.gather_nd(squares, negative), others


class Quadruplet(Triplet):
    """The triplet term, plus max(|i - j|^2 - |l - k|^2 + second, 0) over all quadruplets of the batch.

    The triplet orders distances around one anchor; the second term asks the same of pairs that share nobody, so that
    every distance within a person falls below every distance between people: one threshold for all. Its margin is the
    smaller one, it must not rule (the paper's ratio is a half). The paper learns its metric; here it is the squared
    Euclidean distance of l2-normalised embeddings, as in the triplet.
    """

    def __init__(self, margin: float = 0.2, second: float = 0.1, mining: str = "semi-hard"):
        super().__init__(margin, mining, name="quadruplet")
        self.second = positive_margin(second, "second")

    def call(self, embeddings: tf.Tensor, targets: tf.Tensor) -> tuple[tf.Tensor, Figures]:
        loss, figures = super().call(embeddings, targets)
        second, active = hinge(*quadruplets(squared_distances(embeddings), targets), self.second, only_active=True)
        return loss + second, {**figures, "quadruplet_second_active": active}
