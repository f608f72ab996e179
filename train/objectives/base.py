"""What an objective is, and the distances that several of them share."""

import tensorflow as tf
import tf_keras as keras

from device.program import InputError

# Below float32's rounding of 2 - 2 cos: two embeddings this near are equal, and the slope of their distance is taken as 0.
LEAST_SQUARE = 1e-6

Figures = dict[str, tf.Tensor]


class Objective(keras.layers.Layer):
    """A loss over one batch. Its own weights (a head) train with the encoder and are dropped at export.

    It computes in float32 whatever the policy: margins and small distances do not survive 8 bits of mantissa.
    """

    needs = "labels"  # or "teacher": what `targets` is
    compares = False  # pictures of the batch with each other, so that it wants batches of people x pictures

    def __init__(self, name: str):
        super().__init__(name=name, dtype="float32")

    def call(self, embeddings: tf.Tensor, targets: tf.Tensor) -> tuple[tf.Tensor, Figures]:
        """The loss, a scalar, and figures to log, of one batch.

        `embeddings` float32 [B, D] as the encoder gives them, not normalised; `targets` int32 labels [B], or the
        teacher's embeddings float32 [B, T]. A batch without anything to compare has loss 0.
        """
        raise NotImplementedError


def positive_margin(margin: float, of: str) -> float:
    """The margin, if it is one. Raises InputError otherwise."""
    if not margin > 0:
        raise InputError(f"the {of} margin is {margin}", "give a number above 0")
    return margin


def unit(embeddings: tf.Tensor) -> tf.Tensor:
    """Rows [B, D] of length 1; a row of zeros stays zero, and so does its gradient."""
    return tf.math.l2_normalize(embeddings, axis=1)


def squared_distances(embeddings: tf.Tensor) -> tf.Tensor:
    """Squared Euclidean distances [B, B] of the unit rows of `embeddings` [B, D]: 2 - 2 cos, 0 to 4."""
    rows = unit(embeddings)
    return tf.maximum(2.0 - 2.0 * tf.matmul(rows, rows, transpose_b=True), 0.0)


def root(squares: tf.Tensor) -> tf.Tensor:
    """Square roots with a finite slope everywhere: 0 instead of infinity where a distance vanishes."""
    return tf.where(squares < LEAST_SQUARE, 0.0, tf.sqrt(tf.maximum(squares, LEAST_SQUARE)))


def pairs(labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Masks bool [B, B] of labels [B]: pairs of two pictures of one person, and of two people."""
    same = labels[:, None] == labels[None, :]
    return tf.linalg.set_diag(same, tf.zeros(tf.shape(labels), bool)), ~same


def mean(values: tf.Tensor, where: tf.Tensor) -> tf.Tensor:
    """The mean of `values` at the places of the mask `where`; 0 where there is none."""
    weights = tf.cast(where, values.dtype)
    return tf.math.divide_no_nan(tf.reduce_sum(values * weights), tf.reduce_sum(weights))
