"""Random views of a crop, made in the graph: what SimSiam must see as the same face.

Colour is one multiplication: brightness, contrast, saturation, hue and grey are affine maps of a pixel's RGB, so each
picture gets one 3x3 matrix and one offset. That keeps the pipeline lean enough for two cores.
"""

import math
from dataclasses import dataclass

import tensorflow as tf

from device.program import InputError

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
# RGB to YIQ, in which hue is an angle.
YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))


@dataclass(frozen=True)
class Views:
    """How a view is drawn. Defaults: SimSiam, arXiv:2011.10566, appendix A, but for `area`: see there."""

    size: int = 112  # pixels
    area: tuple[float, float] = (0.5, 1.0)  # share of the picture; the paper's 0.2 leaves an aligned face without its parts
    ratio: tuple[float, float] = (3 / 4, 4 / 3)  # width / height of the part
    flip: float = 0.5  # probability
    jitter: float = 0.8  # probability of the next four
    strength: float = 0.5  # of the jitter: SimCLR's s (arXiv:2002.05709, appendix A), SimSiam's 0.4, 0.4, 0.4, 0.1 is 0.5
    grey: float = 0.2  # probability
    blur: float = 0.5  # probability
    sigma: tuple[float, float] = (0.1, 2.0)  # of the blur, pixels of a picture of 224

    def __post_init__(self) -> None:
        for name in ("flip", "jitter", "grey", "blur"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"the views' {name} is {getattr(self, name)}", "a probability lies between 0 and 1")
        if not 0 < self.area[0] <= self.area[1] <= 1:
            raise InputError(f"the views' area is {self.area}", "give two shares with 0 < low <= high <= 1")
        if not 0 <= self.strength <= 1.25:
            raise InputError(f"the views' strength is {self.strength}", "give a number from 0 to 1.25")


def _uniform(seed, n: int, low: float, high: float) -> tf.Tensor:
    return tf.random.stateless_uniform((n,), seed, low, high)


def boxes(seeds: tf.Tensor, n: int, views: Views) -> tf.Tensor:
    """Random parts [n, 4] (y1, x1, y2, x2 in 0..1), x1 and x2 swapped where the view is flipped (Inception crops)."""
    area = _uniform(seeds[0], n, *views.area)
    ratio = tf.exp(_uniform(seeds[1], n, math.log(views.ratio[0]), math.log(views.ratio[1])))
    width = tf.minimum(tf.sqrt(area * ratio), 1.0)
    height = tf.minimum(tf.sqrt(area / ratio), 1.0)
    x = _uniform(seeds[2], n, 0.0, 1.0) * (1 - width)
    y = _uniform(seeds[3], n, 0.0, 1.0) * (1 - height)
    left, right = x, x + width
    flip = _uniform(seeds[4], n, 0.0, 1.0) < views.flip
    return tf.stack([y, tf.where(flip, right, left), y + height, tf.where(flip, left, right)], axis=1)


def colours(seeds: tf.Tensor, images: tf.Tensor, views: Views) -> tf.Tensor:
    """`images` [n, H, W, 3] in 0..1 with random brightness, contrast, saturation, hue and grey; clipped to 0..1."""
    n = images.shape[0]
    on = _uniform(seeds[0], n, 0.0, 1.0) < views.jitter

    def factor(i: int, strength: float) -> tf.Tensor:
        return tf.where(on, _uniform(seeds[i], n, 1 - strength, 1 + strength), 1.0)[:, None, None]

    brightness, contrast, saturation = (factor(i, 0.8 * views.strength) for i in (1, 2, 3))
    saturation *= tf.cast(_uniform(seeds[5], n, 0.0, 1.0) >= views.grey, tf.float32)[:, None, None]  # grey: no saturation
    angle = tf.where(on, _uniform(seeds[4], n, -0.2, 0.2) * views.strength, 0.0) * 2 * math.pi  # a share of a turn
    cos, sin, zero, one = tf.cos(angle), tf.sin(angle), tf.zeros(n), tf.ones(n)
    turn = tf.reshape(tf.stack([one, zero, zero, zero, cos, -sin, zero, sin, cos], axis=1), (n, 3, 3))
    yiq = tf.constant(YIQ)
    hue = tf.linalg.inv(yiq) @ turn @ yiq  # [n, 3, 3]
    luma = tf.tile(tf.constant([LUMA]), (3, 1))  # every row gives the pixel's luma
    matrix = (saturation * tf.eye(3) + (1 - saturation) * luma) @ hue * brightness * contrast
    mean = tf.reduce_mean(images, axis=(1, 2)) @ tf.transpose(tf.constant([LUMA]))  # [n, 1] of each picture
    offset = (1 - contrast[:, 0]) * brightness[:, 0] * mean  # contrast turns about the picture's mean
    pixels = tf.reshape(images, (n, -1, 3)) @ tf.transpose(matrix, (0, 2, 1)) + offset[:, None]
    return tf.clip_by_value(tf.reshape(pixels, images.shape), 0.0, 1.0)


def blurred(seeds: tf.Tensor, images: tf.Tensor, views: Views) -> tf.Tensor:
    """`images` [n, H, W, 3], a share of them under a Gaussian of random width (separable, reflected borders)."""
    n, size = images.shape[0], views.size
    sigma = _uniform(seeds[0], n, *views.sigma) * size / 224
    on = _uniform(seeds[1], n, 0.0, 1.0) < views.blur
    at = tf.cast(tf.range(size), tf.float32)
    # A blur along one axis is a [size, size] matrix: two matrix products a picture, no convolution with its own kernel.
    gauss = tf.exp(-((at[:, None] - at[None]) ** 2) / (2 * tf.maximum(sigma, 0.05)[:, None, None] ** 2))  # [n, size, size]
    gauss /= tf.reduce_sum(gauss, axis=2, keepdims=True)
    gauss = tf.where(on[:, None, None], gauss, tf.eye(size))
    down = gauss @ tf.reshape(images, (n, size, -1))  # over rows
    across = gauss[:, None] @ tf.reshape(down, (n, size, size, 3))  # over columns, channels alongside
    return across


def view(images: tf.Tensor, seed: tf.Tensor, views: Views) -> tf.Tensor:
    """One random view float32 [n, size, size, 3] in -1..1 of uint8 `images` [n, H, W, 3]. Same seed [2], same view."""
    seeds = tf.random.experimental.stateless_split(seed, 13)
    n = images.shape[0]
    parts = tf.image.crop_and_resize(images, boxes(seeds[:5], n, views), tf.range(n), (views.size, views.size)) / 255.0
    parts = blurred(seeds[11:13], colours(seeds[5:11], parts, views), views)
    return parts * 2.0 - 1.0


def pairs(images: tf.Tensor, views: Views, batch: int, seed: int, epoch: int) -> tf.data.Dataset:
    """Batches (view, view) of all `images` uint8 [N, H, W, 3] in random order; the last, smaller batch is left out.

    No Python runs in the pipeline: an iterator that is dropped while a thread of its waits for the interpreter's lock
    waits for that thread for ever.
    """
    if len(images) < batch:
        raise InputError(f"{len(images)} crops do not fill a batch of {batch}", "lower --batch or add photos")

    def two(index: tf.Tensor, number: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        rows = tf.ensure_shape(tf.gather(images, index), (batch, *images.shape[1:]))
        step = tf.stack([seed, epoch * 2**20 + 2 * tf.cast(number, tf.int32)])  # no two batches of a run draw alike
        return view(rows, step, views), view(rows, step + tf.constant([0, 1]), views)

    order = tf.data.Dataset.range(len(images)).shuffle(len(images), seed=seed + 2**20 * epoch)
    numbered = tf.data.Dataset.zip((order.batch(batch, drop_remainder=True), tf.data.Dataset.range(len(images) // batch)))
    return numbered.map(two, num_parallel_calls=2).prefetch(2)
