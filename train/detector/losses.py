"""What the detector is trained to say, and how far it is from that.

Heat: the penalty-reduced focal loss of CornerNet and CenterNet (Law and Deng 2018, arXiv:1808.01244, eq. 1; Zhou et al. 2019,
arXiv:1904.07850, eq. 1), a Gaussian round every centre. Box: generalised IoU (Rezatofighi et al. 2019, arXiv:1902.09630).
Landmarks: Huber's loss (Girshick 2015, arXiv:1504.08083, eq. 3) of their errors in units of the face, so that a small face
counts as much as a large one. Both are learnt round the centre, weighted by the Gaussian.
"""

from collections.abc import Mapping

import tensorflow as tf

from device.faces import STRIDES
from train.detector.scenes import DOUBT, FACE

# Pixels (square root of the box's area) of the faces that a stride tells, and of those that it may tell or not.
TOLD = {8: (0.0, 44.0), 16: (40.0, 1e4)}
EITHER = {8: (44.0, 64.0), 16: (28.0, 40.0)}
SPREAD = 0.1  # of the Gaussian, in sizes of the face
LEAST_SPREAD = 0.4  # in cells
LEAST_NEAR = 0.7  # in cells: the least spread of the Gaussian by which box and landmarks are learnt, so that five cells learn a small face
NEAR = 0.3  # of that Gaussian, from where they are learnt
FAR = 1e6  # squared cells, of a face that this stride does not tell: its Gaussian is 0
ALPHA, BETA = 2.0, 4.0  # the papers' exponents
LINEAR = 0.03  # error in sizes of the face from which Huber's loss is linear
BOX, LANDMARKS = 2.0, 20.0  # weights against heat


def targets(rows: tf.Tensor, kinds: tf.Tensor, stride: int, height: int, width: int) -> dict[str, tf.Tensor]:
    """For a map of [height, width] cells, from rows float32 [B, M, 15] and kinds int32 [B, M]:

    heat float32 [B, H, W] in 0..1, 1 at centres alone; counted bool [B, H, W], where heat is learnt; row int32 [B, H, W], the
    face that a cell tells of; near float32 [B, H, W], its weight.
    """
    across, down = tf.range(width, dtype=tf.float32), tf.range(height, dtype=tf.float32)
    size = tf.sqrt(tf.maximum(rows[..., 2] * rows[..., 3], 1e-6))  # [B, M]
    centre = (rows[..., :2] + rows[..., 2:4] / 2) / stride  # [B, M, 2] in cells
    cell = tf.floor(centre)
    inside = tf.reduce_all((cell >= 0) & (cell < tf.constant([width, height], tf.float32)), axis=-1)
    told = (kinds == FACE) & (size >= TOLD[stride][0]) & (size < TOLD[stride][1]) & inside
    doubted = (kinds == DOUBT) | ((kinds == FACE) & (size >= EITHER[stride][0]) & (size < EITHER[stride][1]))
    x = across[None, None, None, :] - cell[..., 0][..., None, None]  # [B, M, 1, W]
    y = down[None, None, :, None] - cell[..., 1][..., None, None]  # [B, M, H, 1]
    apart = tf.where(told[..., None, None], x**2 + y**2, FAR)  # [B, M, H, W]

    def bumps(least: float) -> tf.Tensor:
        spread = tf.maximum(SPREAD * size / stride, least)
        return tf.exp(-apart / (2 * spread**2)[..., None, None])

    heat, wide = tf.reduce_max(bumps(LEAST_SPREAD), axis=1), bumps(LEAST_NEAR)
    row, near = tf.argmax(wide, axis=1, output_type=tf.int32), tf.reduce_max(wide, axis=1)
    # Where a doubted face may have its centre: the inner half of its box.
    reach = tf.maximum(rows[..., 2:4] / stride / 4, 0.5)[..., None, None, :]  # [B, M, 1, 1, 2]
    far_x = tf.abs(across[None, None, None, :] + 0.5 - centre[..., 0][..., None, None]) <= reach[..., 0]
    far_y = tf.abs(down[None, None, :, None] + 0.5 - centre[..., 1][..., None, None]) <= reach[..., 1]
    skipped = tf.reduce_any(far_x & far_y & doubted[..., None, None], axis=1)
    return {"heat": heat, "counted": ~skipped | (heat == 1), "row": row, "near": near * tf.cast(near > NEAR, tf.float32)}


def focal(logits: tf.Tensor, heat: tf.Tensor, counted: tf.Tensor) -> tf.Tensor:
    """The sum over all cells [B, H, W]."""
    likely = tf.sigmoid(logits)
    at_centre = -((1 - likely) ** ALPHA) * tf.math.log_sigmoid(logits)
    elsewhere = -((1 - heat) ** BETA) * likely**ALPHA * tf.math.log_sigmoid(-logits)
    return tf.reduce_sum(tf.where(heat == 1, at_centre, elsewhere) * tf.cast(counted, tf.float32))


def giou(found: tf.Tensor, wanted: tf.Tensor) -> tf.Tensor:
    """1 - GIoU of boxes given as distances of their left, upper, right and lower edge from the same point, [..., 4] in any unit."""
    found_area = tf.maximum(found[..., 0] + found[..., 2], 0) * tf.maximum(found[..., 1] + found[..., 3], 0)
    wanted_area = (wanted[..., 0] + wanted[..., 2]) * (wanted[..., 1] + wanted[..., 3])
    least, most = tf.minimum(found, wanted), tf.maximum(found, wanted)
    inner = tf.maximum(least[..., 0] + least[..., 2], 0) * tf.maximum(least[..., 1] + least[..., 3], 0)
    outer = tf.maximum((most[..., 0] + most[..., 2]) * (most[..., 1] + most[..., 3]), 1e-6)
    union = found_area + wanted_area - inner
    return 1 - inner / tf.maximum(union, 1e-6) + (outer - union) / outer


def huber(error: tf.Tensor) -> tf.Tensor:
    size = tf.abs(error)
    return tf.where(size < LINEAR, 0.5 * size**2 / LINEAR, size - 0.5 * LINEAR)


def total(maps: Mapping[str, tf.Tensor], rows: tf.Tensor, kinds: tf.Tensor) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    """The loss of the network's `maps` (heat8 [B, H, W, 1], geometry8 [B, H, W, 14], ...), and its three parts."""
    heat = box = landmarks = weight = count = tf.constant(0.0)
    for stride in STRIDES:
        logits, geometry = (tf.cast(maps[f"{name}{stride}"], tf.float32) for name in ("heat", "geometry"))
        height, width = logits.shape[1:3]
        wanted = targets(rows, kinds, stride, height, width)
        heat += focal(logits[..., 0], wanted["heat"], wanted["counted"])
        count += tf.reduce_sum(tf.cast(wanted["heat"] == 1, tf.float32))
        face = tf.gather(rows, wanted["row"], batch_dims=1)  # [B, H, W, 15]
        x, y = stride * (tf.range(width, dtype=tf.float32) + 0.5), stride * (tf.range(height, dtype=tf.float32)[:, None] + 0.5)
        centres = tf.stack([tf.broadcast_to(x, (height, width)), tf.broadcast_to(y, (height, width))], axis=-1)  # [H, W, 2]
        size = tf.sqrt(tf.maximum(face[..., 2:3] * face[..., 3:4], 1.0))
        far = stride * tf.sinh(tf.clip_by_value(geometry, -5.0, 5.0)) / size
        corner, end = (face[..., :2] - centres) / size, (face[..., :2] + face[..., 2:4] - centres) / size
        points = (face[..., 4:14] - tf.tile(centres, (1, 1, 5))) / size
        edges = tf.concat([-corner, end], axis=-1)
        distance = tf.reduce_mean(huber(far[..., :4] - edges), axis=-1)  # where boxes have no area, GIoU has no gradient
        box += tf.reduce_sum(wanted["near"] * (giou(far[..., :4], edges) + distance))
        landmarks += tf.reduce_sum(wanted["near"] * tf.reduce_mean(huber(far[..., 4:] - points), axis=-1))
        weight += tf.reduce_sum(wanted["near"])
    parts = {"heat": heat / tf.maximum(count, 1.0), "box": box / tf.maximum(weight, 1.0), "landmarks": landmarks / tf.maximum(weight, 1.0)}
    return parts["heat"] + BOX * parts["box"] + LANDMARKS * parts["landmarks"], parts
