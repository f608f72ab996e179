import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device.detect import Detection
from device.program import InputError
from device.tiles import TiledDetector, windows


class Squares:
    """Finds white squares, of which it sees those of `smallest` pixels and more at its working size; cut ones as what is left."""

    name, size, smallest, model = "squares", 320, 12, None

    def __init__(self):
        self.looks = 0

    def detect(self, frame: np.ndarray) -> list[Detection]:
        self.looks += 1
        scale = min(self.size / frame.shape[1], 0.75 * self.size / frame.shape[0], 1.0)
        found = []
        for value in np.flatnonzero(np.bincount(frame[..., 0].ravel())):
            rows, columns = np.nonzero(frame[..., 0] == value)
            x, y = float(columns.min()), float(rows.min())
            width, height = columns.max() + 1.0 - x, rows.max() + 1.0 - y
            if value and min(width, height) * scale >= self.smallest:
                points = np.array([(x, y), (x + width, y), (x + width / 2, y + height / 2), (x, y + height), (x + width, y + height)])
                found.append(Detection((x, y, width, height), points.astype(np.float32), 0.9))
        return found


def frame_with(*squares, height=450, width=800):
    frame = np.zeros((height, width, 3), np.uint8)
    for number, (x, y, side) in enumerate(squares, start=1):
        frame[y : y + side, x : x + side] = 40 * number
    return frame


def test_small_and_large_faces_are_found_once_and_in_place():
    squares = [(2, 4, 12), (350, 215, 15), (785, 435, 15), (100, 50, 250)]
    found = TiledDetector(Squares(), 12).detect(frame_with(*squares))
    np.testing.assert_allclose(
        sorted(detection.box for detection in found), sorted((x, y, side, side) for x, y, side in squares), atol=1e-3
    )
    for detection in found:
        np.testing.assert_allclose(detection.landmarks[0], detection.box[:2], atol=1e-3)


@settings(deadline=None, max_examples=40)
@given(st.integers(12, 200), st.integers(0, 599), st.integers(0, 249))
def test_no_face_falls_between_the_windows(side, x, y):
    (found,) = TiledDetector(Squares(), 12).detect(frame_with((x, y, side)))
    np.testing.assert_allclose(found.box, (x, y, side, side), atol=1e-3)


def test_a_frame_that_needs_no_windows_costs_one_look():
    squares = Squares()
    assert len(TiledDetector(squares, 24).detect(frame_with((10, 10, 30), height=480, width=640))) == 1
    assert squares.looks == 1


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 1500), st.integers(1, 1500), st.floats(40, 2000), st.floats(0.01, 0.3))
def test_windows_cover_the_frame(height, width, side, smallest):
    covered = np.zeros((height, width), bool)
    looks = list(windows(height, width, side, smallest))
    for left, top, right, bottom in looks[:-1]:
        assert 0 <= left < right <= width and 0 <= top < bottom <= height
        covered[top:bottom, left:right] = True
    assert covered.all() or len(looks) == 1
    assert looks[-1] == (0, 0, width, height)


def test_bad_sizes_are_told():
    for wrong in (0, -3, float("nan")):
        with pytest.raises(InputError, match="--min-face"):
            TiledDetector(Squares(), wrong)


def test_frames_of_any_shape():
    for shape in ((1, 1, 3), (1, 5000, 3), (700, 2, 3)):
        assert TiledDetector(Squares(), 24).detect(np.zeros(shape, np.uint8)) == []
