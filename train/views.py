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
    # What faces like beyond the paper (USynthFace, arXiv:2211.07371, draws such views); 0 draws none.
    rotation: float = 0.0  # degrees to either side, about the part's centre
    shear: float = 0.0  # to either side
    shift: float = 0.0  # share of the picture, to either side; what lies outside is the border's pixel
    coarse: float = 0.0  # probability of a low resolution
    detail: tuple[float, float] = (0.15, 0.5)  # of the low resolution: its share of the view's
    erase: float = 0.0  # probability of a box of one colour (Zhong et al. 2017, arXiv:1708.04896)
    erased: tuple[float, float] = (0.02, 0.25)  # share of the view under the box

    def __post_init__(self) -> None:
        for name in ("flip", "jitter", "grey", "blur", "coarse", "erase"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"the views' {name} is {getattr(self, name)}", "a probability lies between 0 and 1")
        if not 0 < self.area[0] <= self.area[1] <= 1:
            raise InputError(f"the views' area is {self.area}", "give two shares with 0 < low <= high <= 1")
        for name, most in (("strength", 1.25), ("rotation", 180), ("shear", 1), ("shift", 1)):
            if not 0 <= getattr(self, name) <= most:
                raise InputError(f"the views' {name} is {getattr(self, name)}", f"give a number from 0 to {most}")


# Views of a face that keep who it is, as strong as they may be for a student whose teacher saw the clean crop.
FACE = Views(
    area=(0.7, 1.0), ratio=(0.9, 1.1), rotation=12.0, shear=0.08, shift=0.05, strength=0.5, blur=0.2, grey=0.1, coarse=0.15, erase=0.2
)


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


def placements(seeds: tf.Tensor, n: int, size: int, views: Views) -> tf.Tensor:
    """Where each pixel of a view lies in a square picture of `size` pixels: rows of `ImageProjectiveTransformV3` [n, 8].

    The part of the picture (`boxes`), turned, sheared and shifted about its centre.
    """
    y1, x1, y2, x2 = tf.unstack(boxes(seeds[:5], n, views) * (size - 1.0), axis=1)
    turn = _uniform(seeds[5], n, -views.rotation, views.rotation) * math.pi / 180
    shear = _uniform(seeds[6], n, -views.shear, views.shear)
    cos, sin = tf.cos(turn), tf.sin(turn)
    # [[a, b], [c, d]]: rotation times shear along x.
    a, b, c, d = cos, cos * shear - sin, sin, sin * shear + cos
    centre_x, centre_y = (x1 + x2) / 2, (y1 + y2) / 2
    step_x, step_y = (x2 - x1) / (views.size - 1.0), (y2 - y1) / (views.size - 1.0)
    shift_x, shift_y = (_uniform(seeds[i], n, -views.shift, views.shift) * size for i in (7, 8))
    from_x, from_y = x1 - centre_x, y1 - centre_y
    x = [a * step_x, b * step_y, a * from_x + b * from_y + centre_x + shift_x]
    y = [c * step_x, d * step_y, c * from_x + d * from_y + centre_y + shift_y]
    return tf.stack([*x, *y, tf.zeros(n), tf.zeros(n)], axis=1)


def placed(images: tf.Tensor, transforms: tf.Tensor, views: Views) -> tf.Tensor:
    """float32 [n, size, size, 3] in 0..1 of uint8 `images` [n, H, W, 3]: bilinear, the border replicated."""
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=tf.cast(images, tf.float32) / 255.0,
        transforms=transforms,
        output_shape=(views.size, views.size),
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="NEAREST",
    )


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


def softened(seeds: tf.Tensor, images: tf.Tensor, views: Views) -> tf.Tensor:
    """`images` [n, H, W, 3], a share of them under a Gaussian of random width, a share at a low resolution.

    Both are linear along each axis, so together they are one [size, size] matrix a picture: two matrix products instead
    of convolutions with kernels of their own.
    """
    n, size = images.shape[0], views.size
    matrices = _gaussians(seeds[:2], n, views)
    if views.coarse:
        matrices = _coarse(seeds[2:4], n, views) @ matrices
    elif not views.blur:
        return images
    down = matrices @ tf.reshape(images, (n, size, -1))  # over rows
    return matrices[:, None] @ tf.reshape(down, (n, size, size, 3))  # over columns, channels alongside


def _gaussians(seeds: tf.Tensor, n: int, views: Views) -> tf.Tensor:
    """[n, size, size]: Gaussians of random width, the identity where there is no blur."""
    sigma = _uniform(seeds[0], n, *views.sigma) * views.size / 224
    on = _uniform(seeds[1], n, 0.0, 1.0) < views.blur
    at = tf.cast(tf.range(views.size), tf.float32)
    gauss = tf.exp(-((at[:, None] - at[None]) ** 2) / (2 * tf.maximum(sigma, 0.05)[:, None, None] ** 2))
    gauss /= tf.reduce_sum(gauss, axis=2, keepdims=True)
    return tf.where(on[:, None, None], gauss, tf.eye(views.size))


def _coarse(seeds: tf.Tensor, n: int, views: Views) -> tf.Tensor:
    """[n, size, size]: averages over random numbers of equal cells, drawn between by straight lines; else the identity."""
    size = views.size
    cells = tf.round(_uniform(seeds[0], n, *views.detail) * size)[:, None]  # [n, 1]
    on = _uniform(seeds[1], n, 0.0, 1.0) < views.coarse
    at = (tf.cast(tf.range(size), tf.float32) + 0.5) / size  # [size], 0..1
    cell = tf.floor(at * cells)  # [n, size]: which cell a pixel lies in
    number = tf.cast(tf.range(size), tf.float32)  # as many cells as pixels at most
    member = tf.cast(cell[:, None] == number[:, None], tf.float32)  # [n, cells, size]
    average = member / tf.maximum(tf.reduce_sum(member, axis=2, keepdims=True), 1.0)
    where = tf.clip_by_value(at * cells - 0.5, 0.0, cells - 1)  # in units of cells, their centres at whole numbers
    drawn = tf.maximum(1 - tf.abs(where[:, :, None] - number), 0.0)  # [n, size, cells]
    return tf.where(on[:, None, None], drawn @ average, tf.eye(size))


def erased(seeds: tf.Tensor, images: tf.Tensor, views: Views) -> tf.Tensor:
    """`images` [n, H, W, 3] in 0..1, a share of them with a box of one random colour."""
    n, size = images.shape[0], views.size
    on = _uniform(seeds[0], n, 0.0, 1.0) < views.erase
    area = _uniform(seeds[1], n, *views.erased)
    ratio = tf.exp(_uniform(seeds[2], n, math.log(0.5), math.log(2.0)))
    at = (tf.cast(tf.range(size), tf.float32) + 0.5) / size

    def inside(half: tf.Tensor, seed) -> tf.Tensor:
        return tf.abs(at - _uniform(seed, n, 0.0, 1.0)[:, None]) < half[:, None]  # [n, size]

    box = inside(tf.sqrt(area / ratio) / 2, seeds[3])[:, :, None] & inside(tf.sqrt(area * ratio) / 2, seeds[4])[:, None]
    colour = tf.random.stateless_uniform((n, 1, 1, 3), seeds[5])
    return tf.where((box & on[:, None, None])[..., None], colour, images)


def view(images: tf.Tensor, seed: tf.Tensor, views: Views) -> tf.Tensor:
    """One random view float32 [n, size, size, 3] in -1..1 of uint8 `images` [n, H, H, 3]. Same seed [2], same view."""
    seeds = tf.random.experimental.stateless_split(seed, 25)
    n = images.shape[0]
    result = colours(seeds[9:15], placed(images, placements(seeds[:9], n, images.shape[1], views), views), views)
    result = softened(seeds[15:19], result, views)
    if views.erase:
        result = erased(seeds[19:25], result, views)
    return result * 2.0 - 1.0


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
