"""ArcFace: Deng, Guo, Xue and Zafeiriou 2019, https://arxiv.org/abs/1801.07698, section 3.1."""

import math

import tensorflow as tf

from train.objectives.base import Figures, Objective, positive_margin, root, unit
from train.objectives.softmax import cross_entropy, several


def margined(cosines: tf.Tensor, margin: float) -> tf.Tensor:
    """cos(theta + margin) of cosines cos(theta), finite and with a finite slope everywhere.

    No arccos: cos cos - sin sin, whose slope stays bounded at theta = 0. Beyond theta = pi - margin the cosine would
    rise again and reward a greater angle; from there on it goes down by a constant, as in the authors' code.
    """
    sines = root(1.0 - cosines**2)
    return tf.where(
        cosines > math.cos(math.pi - margin),
        cosines * math.cos(margin) - sines * math.sin(margin),
        cosines - margin * math.sin(margin),
    )


class ArcFace(Objective):
    """Cross-entropy of scale x cos(theta), theta the angle of an embedding and an identity's centre; the true identity's
    angle is widened by `margin` (radians) first. Labels are 0 to people - 1.

    Embeddings and centres are l2-normalised, as in the paper: the loss acts on the angle alone, which is what the
    device compares; `scale` stands for the length that is lost.
    """

    def __init__(self, people: int, margin: float = 0.5, scale: float = 64.0):
        super().__init__("arcface")
        self.people = several(people)
        self.margin = positive_margin(margin, self.name)
        self.scale = scale

    def build(self, shape: tf.TensorShape) -> None:
        self.centres = self.add_weight("centres", (self.people, shape[-1]), initializer="glorot_uniform")
        super().build(shape)

    def call(self, embeddings: tf.Tensor, targets: tf.Tensor) -> tuple[tf.Tensor, Figures]:
        cosines = tf.matmul(unit(embeddings), unit(self.centres), transpose_b=True)  # [B, people]
        own = tf.one_hot(targets, self.people, on_value=True, off_value=False)
        loss, _ = cross_entropy(self.scale * tf.where(own, margined(cosines, self.margin), cosines), targets)
        _, accuracy = cross_entropy(cosines, targets)
        return loss, {"arcface_accuracy": accuracy}
