import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device.align import TEMPLATE
from device.coverage import Look, choose, cover, look

FRONT = Look(0.0, 0.0, 120.0, 0.0)


def crop(left: int = 120, right: int = 120) -> np.ndarray:
    picture = np.full((112, 112, 3), left, np.uint8)
    picture[:, 56:] = right
    return picture


def turned(x: float = 0.0, y: float = 0.0) -> np.ndarray:
    """Landmarks of a face whose nose tip is off its place by so many pixels, of 35 between the eyes."""
    landmarks = TEMPLATE.copy()
    landmarks[2] += (x, y)
    return landmarks


@pytest.mark.parametrize(
    "x, y, pose", [(0, 0, "front"), (2, 2, "front"), (8, 0, "right"), (-8, 0, "left"), (0, -9, "up"), (0, 13, "down"), (9, 9, "right")]
)
def test_the_pose_is_told_by_where_the_nose_is(x, y, pose):
    assert look(turned(x, y), crop()).pose == pose


def test_pose_does_not_depend_on_size_place_or_a_tilted_head():
    angle = np.deg2rad(30)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    straight = look(turned(6, 4), crop())
    tilted = look(3 * turned(6, 4) @ rotation.T + (100, -50), crop())
    assert (tilted.yaw, tilted.pitch) == pytest.approx((straight.yaw, straight.pitch), abs=1e-9)


def test_landmarks_that_fall_together_are_no_trouble():
    assert look(np.zeros((5, 2)), crop()).pose == "front"


@pytest.mark.parametrize("left, right, lit", [(120, 120, "even"), (40, 40, "dim"), (0, 0, "dim"), (60, 180, "side"), (180, 60, "side")])
def test_the_light_is_told(left, right, lit):
    seen = look(TEMPLATE, crop(left, right))
    assert seen.lit == lit and (seen.side > 0) == (right > left)


def test_coverage_says_what_is_there_and_what_would_help():
    nothing = cover([None])
    assert (nothing.share, nothing.poses, len(nothing.wanted)) == (0, {}, 6)
    one = cover([FRONT, FRONT, None])
    assert (one.poses, one.lights, one.word) == ({"front": 2}, {"even": 2}, "barely")
    assert "one turned to the left" in one.wanted and "a picture from the front" not in one.wanted
    whole = cover([FRONT, Look(0.3, 0, 50, 0), Look(-0.3, 0, 120, 0.4), Look(0, 0.2, 120, 0)])
    assert (whole.share, whole.wanted, whole.word) == (1, (), "well") and whole.poses["down"] == 1


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_the_most_redundant_goes_first_and_the_worse_of_two():
    rows = unit(np.array([[1, 0, 0], [1, 0.01, 0], [0, 1, 0], [0, 1, 0.1], [0, 0, 1]]))
    quality = [0.5, 0.9, 0.9, 0.5, 0.1]
    assert choose(rows, quality, 5) == [0, 1, 2, 3, 4]
    assert choose(rows, quality, 4) == [1, 2, 3, 4]
    assert choose(rows, quality, 3) == [1, 2, 4]  # the odd one stays, poor as it is: nothing is like it
    assert choose(rows[:1], [0.1], 3) == [0]


def slowly(rows: np.ndarray, quality: list[float], most: int) -> list[int]:
    kept = list(range(len(rows)))
    while len(kept) > most:
        pairs = [(float(rows[a] @ rows[b]), -a, -b) for a in kept for b in kept if a < b]
        _, a, b = max(pairs)
        kept.remove(min((-a, -b), key=lambda index: (quality[index], -index)))
    return kept


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 1000))
def test_choose_does_what_its_definition_says(count, most, seed):
    random = np.random.default_rng(seed)
    rows, quality = unit(random.normal(size=(count, 4))), [float(value) for value in random.random(count)]
    assert choose(rows, quality, most) == slowly(rows, quality, most)
