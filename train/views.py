"""Random views of a crop, made in the graph: what SimSiam must see as the same face.

Colour is one multiplication: brightness, contrast, saturation, hue and grey are affine maps of a pixel's RGB, so each
picture gets one 3x3 matrix and one offset. That keeps the pipeline lean enough for two cores.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
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


# By name, for training without labels: the paper's, and one for aligned faces after USynthFace (arXiv:2211.07371), nearly whole and
# strongly turned, coloured and covered.
PRESETS = {
    "simsiam": Views(area=(0.2, 1.0)),
    "face": Views(area=(0.7, 1.0), ratio=(0.9, 1.1), rotation=15.0, shear=0.25, shift=0.1, strength=1.0, blur=0.2, coarse=0.3, erase=0.5),
}


@dataclass(frozen=True)
class Share:
    """One of `of` equal shares of every batch, counted from 0: what one of several machines works on."""

    number: int = 0
    of: int = 1

    def rows(self, batch: int) -> slice:
        if batch % self.of:
            raise InputError(f"a batch of {batch} does not divide by {self.of}", f"give --batch {batch + -batch % self.of}")
        size = batch // self.of
        return slice(self.number * size, (self.number + 1) * size)


WHOLE = Share()


@dataclass(frozen=True)
class Draws:
    """Random numbers for the pictures of a batch of `batch`, a row of `seeds` [k, 2] for each kind. Only those of `share` are given
    out, but all are drawn: so a batch that several machines share is drawn as if one had it."""

    seeds: tf.Tensor
    batch: int
    share: Share = WHOLE

    def __call__(self, kind: int, low: float = 0.0, high: float = 1.0, *shape: int) -> tf.Tensor:
        """[n, *shape] in low..high for the pictures of the share."""
        return tf.random.stateless_uniform((self.batch, *shape), self.seeds[kind], low, high)[self.share.rows(self.batch)]

    def __getitem__(self, kinds: slice) -> "Draws":
        return replace(self, seeds=self.seeds[kinds])

    def __len__(self) -> int:
        return self.batch // self.share.of


def boxes(draws: Draws, views: Views) -> tf.Tensor:
    """Random parts [n, 4] (y1, x1, y2, x2 in 0..1), x1 and x2 swapped where the view is flipped (Inception crops)."""
    area = draws(0, *views.area)
    ratio = tf.exp(draws(1, math.log(views.ratio[0]), math.log(views.ratio[1])))
    width = tf.minimum(tf.sqrt(area * ratio), 1.0)
    height = tf.minimum(tf.sqrt(area / ratio), 1.0)
    x = draws(2) * (1 - width)
    y = draws(3) * (1 - height)
    left, right = x, x + width
    flip = draws(4) < views.flip
    return tf.stack([y, tf.where(flip, right, left), y + height, tf.where(flip, left, right)], axis=1)


def placements(draws: Draws, size: int, views: Views) -> tf.Tensor:
    """Where the pixel (x, y) of a view lies in a square picture of `size` pixels: rows a, b, c, d, e, f [n, 6] mean
    (a x + b y + c, d x + e y + f).

    The part of the picture (`boxes`), turned, sheared and shifted about its centre.
    """
    y1, x1, y2, x2 = tf.unstack(boxes(draws[:5], views) * (size - 1.0), axis=1)
    turn = draws(5, -views.rotation, views.rotation) * math.pi / 180
    shear = draws(6, -views.shear, views.shear)
    cos, sin = tf.cos(turn), tf.sin(turn)
    # [[a, b], [c, d]]: rotation times shear along x.
    a, b, c, d = cos, cos * shear - sin, sin, sin * shear + cos
    centre_x, centre_y = (x1 + x2) / 2, (y1 + y2) / 2
    step_x, step_y = (x2 - x1) / (views.size - 1.0), (y2 - y1) / (views.size - 1.0)
    shift_x, shift_y = (draws(i, -views.shift, views.shift) * size for i in (7, 8))
    from_x, from_y = x1 - centre_x, y1 - centre_y
    x = [a * step_x, b * step_y, a * from_x + b * from_y + centre_x + shift_x]
    y = [c * step_x, d * step_y, c * from_x + d * from_y + centre_y + shift_y]
    return tf.stack([*x, *y], axis=1)


@tf.function(jit_compile=True)
def placed(images: tf.Tensor, transforms: tf.Tensor, size: int) -> tf.Tensor:
    """float32 [n, size, size, 3] in 0..1 of uint8 `images` [n, H, H, 3]: bilinear, the border replicated.

    Compiled by XLA, which makes one loop of it, this takes a sixth of the time of TensorFlow's ImageProjectiveTransformV3.
    """
    n, height = images.shape[:2]
    row = transforms[:, :, None, None]  # [n, 6, 1, 1]
    at = tf.cast(tf.range(size), tf.float32)
    across, down = at[None, None], at[None, :, None]
    x = tf.clip_by_value(row[:, 0] * across + row[:, 1] * down + row[:, 2], 0.0, height - 1.0)  # [n, size, size]
    y = tf.clip_by_value(row[:, 3] * across + row[:, 4] * down + row[:, 5], 0.0, height - 1.0)
    left, above = tf.minimum(tf.floor(x), height - 2.0), tf.minimum(tf.floor(y), height - 2.0)
    corner = (tf.range(n)[:, None, None] * height + tf.cast(above, tf.int32)) * height + tf.cast(left, tf.int32)
    pixels = tf.reshape(images, (-1, 3))
    x, y = (x - left)[..., None], (y - above)[..., None]

    def between(start: int) -> tf.Tensor:  # two neighbours in a row of the picture
        first, second = (tf.cast(tf.gather(pixels, corner + start + step), tf.float32) for step in (0, 1))
        return first + (second - first) * x

    upper, lower = between(0), between(height)
    return (upper + (lower - upper) * y) / 255.0


def colours(draws: Draws, images: tf.Tensor, views: Views) -> tf.Tensor:
    """`images` [n, H, W, 3] in 0..1 with random brightness, contrast, saturation, hue and grey; clipped to 0..1."""
    n = len(draws)
    on = draws(0) < views.jitter

    def factor(i: int, strength: float) -> tf.Tensor:
        return tf.where(on, draws(i, 1 - strength, 1 + strength), 1.0)[:, None, None]

    brightness, contrast, saturation = (factor(i, 0.8 * views.strength) for i in (1, 2, 3))
    saturation *= tf.cast(draws(5) >= views.grey, tf.float32)[:, None, None]  # grey: no saturation
    angle = tf.where(on, draws(4, -0.2, 0.2) * views.strength, 0.0) * 2 * math.pi  # a share of a turn
    cos, sin, zero, one = tf.cos(angle), tf.sin(angle), tf.zeros(n), tf.ones(n)
    turn = tf.reshape(tf.stack([one, zero, zero, zero, cos, -sin, zero, sin, cos], axis=1), (n, 3, 3))
    yiq = tf.constant(YIQ)
    hue = tf.linalg.inv(yiq) @ turn @ yiq  # [n, 3, 3]
    luma = tf.tile(tf.constant([LUMA]), (3, 1))  # every row gives the pixel's luma
    matrix = (saturation * tf.eye(3) + (1 - saturation) * luma) @ hue * brightness * contrast
    mean = tf.reduce_mean(images, axis=(1, 2)) @ tf.transpose(tf.constant([LUMA]))  # [n, 1] of each picture
    offset = (1 - contrast[:, 0]) * brightness[:, 0] * mean  # contrast turns about the picture's mean
    return _mixed(images, matrix, offset)


@tf.function(jit_compile=True)
def _mixed(images: tf.Tensor, matrix: tf.Tensor, offset: tf.Tensor) -> tf.Tensor:
    """`images` [n, H, W, 3] times `matrix` [n, 3, 3], plus `offset` [n, 1], clipped to 0..1. Written out: three channels are too
    few for a matrix product, and XLA makes one loop of the sum."""
    columns = tf.transpose(matrix, (2, 0, 1))[:, :, None, None]  # [3, n, 1, 1, 3]
    pixels = sum(images[..., k : k + 1] * columns[k] for k in range(3))
    return tf.clip_by_value(pixels + offset[:, None, None], 0.0, 1.0)


def softened(draws: Draws, images: tf.Tensor, views: Views) -> tf.Tensor:
    """`images` [n, H, W, 3], a share of them under a Gaussian of random width, a share at a low resolution.

    Both are linear along each axis, so together they are one [size, size] matrix a picture: two matrix products instead
    of convolutions with kernels of their own, and for the pictures concerned alone.
    """
    size = views.size
    sigma = draws(0, *views.sigma) * size / 224
    blurred = draws(1) < views.blur
    cells = tf.round(draws(2, *views.detail) * size)
    coarse = draws(3) < views.coarse
    chosen = tf.where(blurred | coarse)  # [m, 1]
    sigma, blurred, cells, coarse = (tf.gather_nd(each, chosen) for each in (sigma, blurred, cells, coarse))
    matrices = tf.where(blurred[:, None, None], _gaussians(sigma, size), tf.eye(size))
    if views.coarse:
        matrices = tf.where(coarse[:, None, None], _coarse(cells, size), tf.eye(size)) @ matrices
    part = tf.gather_nd(images, chosen)  # [m, H, W, 3]
    for _ in range(2):  # along one axis, then the other
        part = tf.transpose(tf.reshape(matrices @ tf.reshape(part, (-1, size, size * 3)), (-1, size, size, 3)), (0, 2, 1, 3))
    return tf.tensor_scatter_nd_update(images, chosen, part)


def _gaussians(sigma: tf.Tensor, size: int) -> tf.Tensor:
    """[m, size, size]: Gaussians of these widths [m] in pixels."""
    at = tf.cast(tf.range(size), tf.float32)
    gauss = tf.exp(-((at[:, None] - at[None]) ** 2) / (2 * tf.maximum(sigma, 0.05)[:, None, None] ** 2))
    return gauss / tf.reduce_sum(gauss, axis=2, keepdims=True)


def _coarse(cells: tf.Tensor, size: int) -> tf.Tensor:
    """[m, size, size]: averages over these numbers [m] of equal cells, drawn between by straight lines."""
    at = (tf.cast(tf.range(size), tf.float32) + 0.5) / size * cells[:, None]  # [m, size], in units of cells
    number = tf.cast(tf.range(size), tf.float32)  # as many cells as pixels at most
    member = tf.cast(tf.floor(at)[:, None] == number[:, None], tf.float32)  # [m, cells, size]
    average = member / tf.maximum(tf.reduce_sum(member, axis=2, keepdims=True), 1.0)
    where = tf.clip_by_value(at - 0.5, 0.0, cells[:, None] - 1)  # the cells' centres at whole numbers
    drawn = tf.maximum(1 - tf.abs(where[:, :, None] - number), 0.0)  # [m, size, cells]
    return drawn @ average


def erased(draws: Draws, images: tf.Tensor, views: Views) -> tf.Tensor:
    """`images` [n, H, W, 3] in 0..1, a share of them with a box of one random colour."""
    size = views.size
    on = draws(0) < views.erase
    area = draws(1, *views.erased)
    ratio = tf.exp(draws(2, math.log(0.5), math.log(2.0)))
    at = (tf.cast(tf.range(size), tf.float32) + 0.5) / size

    def inside(half: tf.Tensor, centre: tf.Tensor) -> tf.Tensor:
        return tf.abs(at - centre[:, None]) < half[:, None]  # [n, size]

    down, across = inside(tf.sqrt(area / ratio) / 2, draws(3)) & on[:, None], inside(tf.sqrt(area * ratio) / 2, draws(4))
    return _covered(images, down, across, draws(5, 0.0, 1.0, 3))


@tf.function(jit_compile=True)
def _covered(images: tf.Tensor, down: tf.Tensor, across: tf.Tensor, colour: tf.Tensor) -> tf.Tensor:
    """`images` [n, H, W, 3] with a box of `colour` [n, 3] where both `down` [n, H] and `across` [n, W] are true."""
    return tf.where((down[:, :, None] & across[:, None])[..., None], colour[:, None, None], images)


def view(images: tf.Tensor, seed: tf.Tensor, views: Views, share: Share = WHOLE) -> tf.Tensor:
    """One random view float32 [n, size, size, 3] in -1..1 of uint8 `images` [n, H, H, 3]. Same seed [2], same view.

    With `share`, `images` are that share of a batch, and are drawn as they would be in the whole.
    """
    draws = Draws(tf.random.experimental.stateless_split(seed, 25), share.of * images.shape[0], share)
    result = colours(draws[9:15], placed(images, placements(draws[:9], images.shape[1], views), views.size), views)
    if views.blur or views.coarse:
        result = softened(draws[15:19], result, views)
    if views.erase:
        result = erased(draws[19:25], result, views)
    return result * 2.0 - 1.0


@tf.function
def both(images: tf.Tensor, seed: tf.Tensor, views: Views, share: Share) -> tuple[tf.Tensor, tf.Tensor]:
    """Two views of uint8 `images` [n, H, H, 3], as `view` draws them. Traced once, however many epochs there are."""
    return view(images, seed, views, share), view(images, seed + tf.constant([0, 1]), views, share)


def pairs(images: tf.Tensor, views: Views, batch: int, seed: int, epoch: int, share: Share = WHOLE) -> tf.data.Dataset:
    """Batches (view, view) of all `images` uint8 [N, H, W, 3] in random order; the last, smaller batch is left out. With `share`,
    only that share of each batch of `batch`: the shares together are what one machine would see.

    No Python runs in the pipeline: an iterator that is dropped while a thread of its waits for the interpreter's lock
    waits for that thread for ever.
    """
    if len(images) < batch:
        raise InputError(f"{len(images)} crops do not fill a batch of {batch}", "lower --batch or add photos")
    rows = share.rows(batch)

    def two(index: tf.Tensor, number: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        crops = tf.ensure_shape(tf.gather(images, index[rows]), (batch // share.of, *images.shape[1:]))
        step = tf.stack([seed, epoch * 2**20 + 2 * tf.cast(number, tf.int32)])  # no two batches of a run draw alike
        return both(crops, step, views, share)

    order = tf.data.Dataset.range(len(images)).shuffle(len(images), seed=seed + 2**20 * epoch, reshuffle_each_iteration=False)
    numbered = tf.data.Dataset.zip((order.batch(batch, drop_remainder=True), tf.data.Dataset.range(len(images) // batch)))
    return numbered.map(two, num_parallel_calls=2).prefetch(2)


def sheet(images: np.ndarray, views: Views, seed: int, across: int = 12) -> np.ndarray:
    """A contact sheet, RGB uint8 [H, W, 3], of `images` uint8 [N, H, H, 3]: each with its two views below, as the first batch of a
    training might see them; `across` in a row, and what does not fill a row is left out."""
    across = min(across, len(images))
    images = images[: len(images) // across * across]
    originals = tf.image.resize(images, (views.size, views.size), antialias=True).numpy() / 127.5 - 1
    tiles = np.stack([originals, *(view.numpy() for view in both(tf.constant(images), tf.constant([seed, 0]), views, WHOLE))])
    tiles = np.pad(tiles, ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)), constant_values=1.0)  # [3, N, S, S, 3]
    size = views.size + 2
    grid = tiles.reshape(3, -1, across, size, size, 3).transpose(1, 0, 3, 2, 4, 5).reshape(-1, across * size, 3)
    return np.clip(np.round((grid + 1) * 127.5), 0, 255).astype(np.uint8)
