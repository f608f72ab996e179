"""Contrastive: Hadsell, Chopra and LeCun 2006, "Dimensionality Reduction by Learning an Invariant Mapping", section 2.1."""

import tensorflow as tf

from train.objectives.base import Figures, Objective, mean, pairs, positive_margin, root, squared_distances
from train.objectives.mining import batch_figures


def contrastive(distances: tf.Tensor, same: tf.Tensor, margin: float) -> tf.Tensor:
    """y D^2/2 + (1 - y) max(m - D, 0)^2/2 of distances float32 and y = same bool, of one shape."""
    return tf.where(same, distances**2, tf.nn.relu(margin - distances) ** 2) / 2


class Contrastive(Objective):
    """The mean over all pairs of the batch, D the Euclidean distance of l2-normalised embeddings.

    Normalised, because the device compares by the cosine: D = sqrt(2 - 2 cos), 0 to 2, so that a margin of 1 asks for a
    cosine below 0.5 between people, and no length can be grown to satisfy it.
    """

    compares = True

    def __init__(self, margin: float = 1.0):
        super().__init__("contrastive")
        self.margin = positive_margin(margin, self.name)

    def call(self, embeddings: tf.Tensor, targets: tf.Tensor) -> tuple[tf.Tensor, Figures]:
        squares = squared_distances(embeddings)
        positive, negative = pairs(targets)
        distances = root(squares)  # [B, B]
        loss = mean(contrastive(distances, positive, self.margin), positive | negative)
        active = mean(tf.cast(distances < self.margin, tf.float32), negative)
        return loss, {"contrastive_active": active, **batch_figures(squares, targets)}
