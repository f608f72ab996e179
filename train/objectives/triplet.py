"""Triplet: Schroff, Kalenichenko and Philbin 2015, "FaceNet", https://arxiv.org/abs/1503.03832, section 3.1."""

import tensorflow as tf

from train.objectives.base import Figures, Objective, positive_margin, squared_distances
from train.objectives.mining import batch_figures, chosen, hinge


class Triplet(Objective):
    """max(|a - p|^2 - |a - n|^2 + margin, 0), averaged over the triplets that `mining` chooses (train/objectives/mining.py).

    The embeddings are l2-normalised first, as in the paper: they live on the sphere on which the device compares them,
    and a margin means the same at every length.
    """

    compares = True

    def __init__(self, margin: float = 0.2, mining: str = "semi-hard", name: str = "triplet"):
        super().__init__(name)
        self.margin = positive_margin(margin, name)
        self.mine = chosen(mining)
        self.only_active = mining == "batch-all"  # of all triplets soon most are inactive, and thin out what is left to learn

    def call(self, embeddings: tf.Tensor, targets: tf.Tensor) -> tuple[tf.Tensor, Figures]:
        squares = squared_distances(embeddings)
        loss, active = hinge(*self.mine(squares, targets), self.margin, self.only_active)
        return loss, {f"{self.name}_active": active, **batch_figures(squares, targets)}
