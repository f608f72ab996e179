"""What the spectral layers share: the normalised Laplacian of small graphs, and its eigenvectors."""

import tensorflow as tf


def normalised(a: tf.Tensor) -> tf.Tensor:
    """D^-1/2 A D^-1/2 of adjacencies float32 [B, M, M]; 0 for nodes without links."""
    degree = tf.reduce_sum(a, axis=-1)  # [B, M]
    root = tf.where(degree > 0, tf.math.rsqrt(tf.maximum(degree, 1e-12)), 0.0)
    return root[:, :, None] * a * root[:, None, :]


def laplacian(a: tf.Tensor) -> tf.Tensor:
    """I - D^-1/2 A D^-1/2, with eigenvalues from 0 to 2; 1 on the diagonal of nodes without links, too."""
    return tf.eye(tf.shape(a)[-1], batch_shape=tf.shape(a)[:1]) - normalised(a)


def spectrum(a: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Eigenvalues [B, M], ascending, and eigenvectors [B, M, M], one a column, of the Laplacian. No gradient goes through them."""
    values, vectors = tf.linalg.eigh(tf.stop_gradient(laplacian(a)))
    return values, vectors


def hats(values: tf.Tensor, low: float, high: float, count: int) -> tf.Tensor:
    """`values` [...] on `count` linear splines that are spread evenly from `low` to `high` and add up to 1: [..., count]."""
    places = tf.clip_by_value((values - low) / (high - low), 0.0, 1.0) * (count - 1)
    return tf.nn.relu(1.0 - tf.abs(places[..., None] - tf.range(count, dtype=tf.float32)))
