import numpy as np
import pytest
import tensorflow as tf

from device.faces import STRIDES, decode
from train.detector import losses
from train.detector.scenes import DOUBT, FACE

HEIGHT, WIDTH = 96, 128
NONE = 0


def row(x, y, width, height):
    points = [(x + a * width, y + b * height) for a, b in ((0.3, 0.4), (0.7, 0.4), (0.5, 0.6), (0.35, 0.8), (0.65, 0.8))]
    return np.array([x, y, width, height, *np.ravel(points), 1.0], np.float32)


def wanted(rows, kinds, stride):
    given = tf.constant(np.stack(rows)[None]), tf.constant([kinds])
    found = losses.targets(*given, stride, HEIGHT // stride, WIDTH // stride)
    return {name: value.numpy()[0] for name, value in found.items()}


def test_the_heat_is_a_bump_at_the_centre():
    found = wanted([row(40, 30, 24, 28)], [FACE], 8)
    down, across = np.unravel_index(found["heat"].argmax(), found["heat"].shape)
    assert (down, across) == (44 // 8, 52 // 8)
    assert found["heat"][down, across] == 1 and (found["heat"] == 1).sum() == 1
    spread = max(losses.SPREAD * np.sqrt(24 * 28) / 8, losses.LEAST_SPREAD)
    assert found["heat"][down, across + 1] == pytest.approx(np.exp(-1 / (2 * spread**2)))
    assert found["counted"].all()


def test_cells_beside_the_centre_learn_a_small_face_too():
    rows = [row(42, 26, 14, 16), row(80, 40, 14, 16)]
    found = wanted(rows, [FACE, FACE], 8)
    cells = {(down, across): found["row"][down, across] for down, across in zip(*np.nonzero(found["near"]), strict=True)}
    assert cells == {(y, x): n for n, (down, across) in enumerate([(4, 6), (6, 10)]) for y, x in cross(down, across)}
    assert found["near"][4, 6] == 1 > found["near"][4, 7] > losses.NEAR


def cross(down, across):
    return [(down, across), (down - 1, across), (down + 1, across), (down, across - 1), (down, across + 1)]


@pytest.mark.parametrize(("side", "told"), [(20, {8}), (43, {8, 16}), (42, {8, 16}), (90, {16})])
def test_every_size_is_told_by_a_stride(side, told):
    """Near the border both strides tell, so that none has to know it to the pixel."""
    found = {stride for stride in STRIDES if wanted([row(10, 2, side, side)], [FACE], stride)["heat"].max() == 1}
    assert found == told


def test_doubts_and_faces_of_another_stride_are_not_learnt_from():
    found = wanted([row(40, 30, 40, 40)], [DOUBT], 8)
    assert found["heat"].max() == 0
    assert not found["counted"][50 // 8, 60 // 8] and found["counted"][0, 0]
    found = wanted([row(40, 30, 50, 50)], [FACE], 8)  # stride 16 tells it, and 8 may
    assert found["heat"].max() == 0 and not found["counted"][55 // 8, 65 // 8]
    found = wanted([row(40, 30, 50, 50)], [NONE], 8)
    assert found["heat"].max() == 0 and found["counted"].all()


def test_focal_loss_is_the_papers():
    rng = np.random.default_rng(0)
    logits, heat = rng.normal(0, 2, (2, 5, 6)), rng.uniform(0, 0.95, (2, 5, 6))
    heat[0, 2, 3] = heat[1, 0, 0] = 1.0
    counted = rng.random(heat.shape) < 0.8
    total = 0.0
    for logit, y, counts in zip(logits.ravel(), heat.ravel(), counted.ravel(), strict=True):
        p = 1 / (1 + np.exp(-logit))
        each = -((1 - p) ** 2) * np.log(p) if y == 1 else -((1 - y) ** 4) * p**2 * np.log(1 - p)
        total += each * counts
    assert float(losses.focal(*map(tf.constant, (logits.astype("f4"), heat.astype("f4"), counted)))) == pytest.approx(total, rel=1e-4)


def test_giou_is_the_papers():
    rng = np.random.default_rng(0)
    found, other = rng.uniform(-0.2, 2, (300, 4)), rng.uniform(0.1, 2, (300, 4))
    told = losses.giou(tf.constant(found, tf.float32), tf.constant(other, tf.float32)).numpy()
    for a, b, value in zip(found, other, told, strict=True):
        if a[0] + a[2] <= 0 or a[1] + a[3] <= 0:
            continue
        areas = [(c[0] + c[2]) * (c[1] + c[3]) for c in (a, b, np.minimum(a, b), np.maximum(a, b))]
        inner = areas[2] if min(np.minimum(a, b)[0] + np.minimum(a, b)[2], np.minimum(a, b)[1] + np.minimum(a, b)[3]) > 0 else 0.0
        union = areas[0] + areas[1] - inner
        assert value == pytest.approx(1 - inner / union + (areas[3] - union) / areas[3], abs=1e-4)
    assert (told >= -1e-6).all() and (told <= 2 + 1e-6).all()


def maps_of(rows, kinds, logit=8.0):
    """What a perfect network says."""
    maps = {}
    for stride in STRIDES:
        found = wanted(rows, kinds, stride)
        heat = np.where(found["heat"] == 1, logit, -logit)
        face = np.stack(rows)[found["row"]]
        y, x = (stride * (np.indices(heat.shape) + 0.5)).astype(np.float32)
        edges = np.stack([x - face[..., 0], y - face[..., 1], face[..., 0] + face[..., 2] - x, face[..., 1] + face[..., 3] - y], -1)
        points = face[..., 4:14] - np.tile(np.stack([x, y], -1), 5)
        maps[f"heat{stride}"] = tf.constant(heat[None, ..., None], tf.float32)
        maps[f"geometry{stride}"] = tf.constant(np.arcsinh(np.concatenate([edges, points], -1) / stride)[None], tf.float32)
    return maps


def test_the_loss_is_least_where_decoding_gives_the_faces_back():
    """Training and the device read the same maps in the same way."""
    rows, kinds = [row(20, 20, 30, 36), row(60, 10, 60, 70)], [FACE, FACE]
    maps = maps_of(rows, kinds)
    loss, parts = losses.total(maps, tf.constant(np.stack(rows)[None]), tf.constant([kinds]))
    assert float(parts["box"]) < 1e-4 and float(parts["landmarks"]) < 1e-5 and float(parts["heat"]) < 0.1
    found = decode({s: (maps[f"heat{s}"].numpy()[0, ..., 0], maps[f"geometry{s}"].numpy()[0]) for s in STRIDES}, 0.5)
    np.testing.assert_allclose(found[np.argsort(found[:, 0])][:, :14], np.stack(rows)[:, :14], atol=1e-2)
    worse = {name: value + 0.3 for name, value in maps.items()}
    assert float(losses.total(worse, tf.constant(np.stack(rows)[None]), tf.constant([kinds]))[0]) > float(loss) + 0.5


def test_scenes_without_faces_have_a_loss():
    nobody = tf.zeros((1, 4, 15)), tf.zeros((1, 4), tf.int32)
    maps = {f"{name}{s}": tf.zeros((1, HEIGHT // s, WIDTH // s, n)) for s in STRIDES for name, n in (("heat", 1), ("geometry", 14))}
    loss, parts = losses.total(maps, *nobody)
    assert np.isfinite(float(loss)) and float(parts["box"]) == 0 and float(parts["landmarks"]) == 0
