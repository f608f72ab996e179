import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device import boxes


def row(x, y, width, height, score, mark=0.0):
    return np.array([x, y, width, height, *[mark] * 10, score], np.float32)


sides = st.integers(1, 40)
places = st.tuples(st.integers(-20, 20), st.integers(-20, 20), sides, sides)


@settings(deadline=None)
@given(places, places)
def test_overlap_is_that_of_the_pixels(a, b):
    canvas = np.zeros((2, 200, 200), bool)
    for picture, (x, y, width, height) in zip(canvas, (a, b), strict=True):
        picture[y + 50 : y + 50 + height, x + 50 : x + 50 + width] = True
    wanted = (canvas[0] & canvas[1]).sum() / (canvas[0] | canvas[1]).sum()
    assert boxes.iou(np.array([a], float), np.array([b], float)) == pytest.approx(wanted)


def test_one_face_seen_twice_is_one_row():
    rows = np.stack([row(0, 0, 10, 10, 0.6, mark=2.0), row(1, 0, 10, 10, 0.9, mark=4.0), row(50, 0, 10, 10, 0.7)])
    found = boxes.merged(rows, 0.4)
    assert found[:, -1].tolist() == pytest.approx([0.9, 0.7])
    assert found[0, 0] == pytest.approx((0.6 * 0 + 0.9 * 1) / 1.5)
    assert found[0, 4] == pytest.approx((0.6 * 2 + 0.9 * 4) / 1.5)


def test_every_row_is_in_one_group_best_first():
    rng = np.random.default_rng(0)
    rows = np.concatenate([rng.uniform(0, 50, (60, 2)), rng.uniform(1, 40, (60, 2)), np.zeros((60, 10)), rng.random((60, 1))], axis=1)
    found = boxes.groups(rows, 0.4)
    assert sorted(np.concatenate(found)) == list(range(60))
    assert all(np.all(np.diff(rows[group, -1]) <= 0) for group in found)
    assert np.all(np.diff([rows[group[0], -1] for group in found]) <= 0)
    heads = np.array([group[0] for group in found])
    overlaps = boxes.iou(rows[heads, :4], rows[heads, :4])
    assert np.all(overlaps[~np.eye(len(heads), dtype=bool)] <= 0.4)


def test_nothing_and_boxes_without_area():
    assert boxes.merged(np.empty((0, boxes.ROW), np.float32), 0.4).shape == (0, boxes.ROW)
    flat = np.stack([row(3, 3, 0, 0, 0.5), row(3, 3, 0, 0, 0.4)])
    assert np.isfinite(boxes.iou(flat[:, :4], flat[:, :4])).all()
    assert len(boxes.groups(flat, 0.4)) == 2
