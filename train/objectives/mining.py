"""Which triplets of a batch count: all, the hardest, or the semi-hard ones; and what a batch looks like.

A triplet is an anchor, a positive (another picture of the same person) and a negative (a picture of somebody else). A
mining function takes squared distances float32 [B, B] and labels int32 [B], and gives

    gaps    float32, d(anchor, positive)^2 - d(anchor, negative)^2: the loss of a triplet is max(gap + margin, 0)
    valid   bool of the same shape: where there is such a triplet
"""

from collections.abc import Callable, Mapping

import tensorflow as tf

from device.program import InputError
from train.objectives.base import Figures, mean, pairs, root

FARTHEST = 5.0  # beyond any squared distance of unit rows (4)
EQUAL = 0.1  # mean distance between people below which all embeddings are as good as equal (a cosine of 0.995)

Mined = tuple[tf.Tensor, tf.Tensor]


def batch_all(squares: tf.Tensor, labels: tf.Tensor) -> Mined:
    """Every triplet [anchor, positive, negative] (Hermans et al. 2017, arXiv:1703.07737, section 2)."""
    positive, negative = pairs(labels)
    return squares[:, :, None] - squares[:, None, :], positive[:, :, None] & negative[:, None, :]


def batch_hard(squares: tf.Tensor, labels: tf.Tensor) -> Mined:
    """Of each anchor [B] the farthest positive and the nearest negative (Hermans et al. 2017, section 2)."""
    positive, negative = pairs(labels)
    far = tf.reduce_max(tf.where(positive, squares, 0.0), axis=1)
    near = tf.reduce_min(tf.where(negative, squares, FARTHEST), axis=1)
    return far - near, tf.reduce_any(positive, axis=1) & tf.reduce_any(negative, axis=1)


def semi_hard(squares: tf.Tensor, labels: tf.Tensor) -> Mined:
    """Of each anchor and positive [B, B] the nearest negative that is farther than the positive (Schroff et al. 2015,
    arXiv:1503.03832, section 3.2); the farthest of all where every negative is nearer. The hardest negatives alone can
    make all embeddings equal early in training."""
    positive, negative = pairs(labels)
    farther = negative[:, None, :] & (squares[:, None, :] > squares[:, :, None])  # [anchor, positive, negative]
    nearest = tf.reduce_min(tf.where(farther, squares[:, None, :], FARTHEST), axis=2)
    farthest = tf.reduce_max(tf.where(negative, squares, 0.0), axis=1, keepdims=True)
    chosen = tf.where(tf.reduce_any(farther, axis=2), nearest, farthest)
    return squares - chosen, positive & tf.reduce_any(negative, axis=1, keepdims=True)


MINING: dict[str, Callable[[tf.Tensor, tf.Tensor], Mined]] = {
    "batch-all": batch_all,
    "batch-hard": batch_hard,
    "semi-hard": semi_hard,
}


def chosen(name: str) -> Callable[[tf.Tensor, tf.Tensor], Mined]:
    """The mining function `name`. Raises InputError with the choices if there is none."""
    if name not in MINING:
        raise InputError(f"no mining is called {name}", f"choose one of {', '.join(MINING)}")
    return MINING[name]


def hinge(gaps: tf.Tensor, valid: tf.Tensor, margin: float, only_active: bool = False) -> tuple[tf.Tensor, tf.Tensor]:
    """Mean of max(gap + margin, 0) over the valid gaps, or over the active of them (above 0), and the active share."""
    losses = tf.nn.relu(gaps + margin)
    active = valid & (losses > 0)
    return mean(losses, active if only_active else valid), mean(tf.cast(active, tf.float32), valid)


def batch_figures(squares: tf.Tensor, labels: tf.Tensor) -> Figures:
    """Mean Euclidean distances (0 to 2) between pictures of one person and of two; 0 where the batch has no such pair."""
    positive, negative = pairs(labels)
    distances = root(squares)
    return {"distance_positive": mean(distances, positive), "distance_negative": mean(distances, negative)}


def stuck(figures: Mapping[str, float]) -> str | None:
    """One line if the figures of an epoch show that all embeddings are equal, the point at which a loss sits at its margin."""
    between = figures.get("distance_negative")
    if between is None or not between < EQUAL:
        return None
    return (
        f"STUCK: all embeddings are equal (mean distance between people {between:.4f}), so the loss sits at its margin; "
        "lower --rate, start from a pretrained encoder, or mine batch-all or semi-hard"
    )
