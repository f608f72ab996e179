import cv2
import numpy as np
import pytest

from device.align import SIZE, TEMPLATE, align, similarity
from device.camera import read_picture


def least_squares(source, target):
    """The same transform as `similarity`, by solving x' = ax - by + c, y' = bx + ay + d for all points at once."""
    rows = [row for x, y in source for row in ((x, -y, 1, 0), (y, x, 0, 1))]
    a, b, c, d = np.linalg.lstsq(np.array(rows), target.ravel(), rcond=None)[0]
    return np.array([(a, -b, c), (b, a, d)])


@pytest.mark.parametrize("seed", range(5))
def test_similarity_is_the_least_squares_solution(seed):
    rng = np.random.default_rng(seed)
    source, target = rng.normal(scale=50, size=(2, 5, 2))
    np.testing.assert_allclose(similarity(source, target), least_squares(source, target), atol=1e-9)


def test_similarity_never_mirrors():
    mirrored = TEMPLATE * (-1, 1)
    assert np.linalg.det(similarity(mirrored, TEMPLATE)[:, :2]) > 0
    np.testing.assert_allclose(similarity(mirrored, TEMPLATE), least_squares(mirrored, TEMPLATE), atol=1e-9)


def dots(landmarks, size=400):
    """A grey BGR frame with a bright dot at each landmark."""
    frame = np.full((size, size, 3), 60, np.uint8)
    for x, y in landmarks:
        cv2.circle(frame, (round(x), round(y)), 4, (255, 255, 255), -1)
    return frame


@pytest.mark.parametrize("angle", [0, 25, -90, 180])
def test_landmarks_land_on_the_template(angle):
    turn = cv2.getRotationMatrix2D((56, 72), angle, 1.6)
    landmarks = TEMPLATE @ turn[:, :2].T + turn[:, 2] + 120
    crop = align(dots(landmarks), landmarks)
    assert crop.shape == (SIZE, SIZE, 3) and crop.dtype == np.uint8
    for x, y in TEMPLATE:
        assert crop[round(y), round(x)].min() > 200
    assert np.median(crop) == 60


def test_the_crop_is_rgb():
    frame = np.full((112, 112, 3), (250, 100, 10), np.uint8)  # a strong blue, as OpenCV has it
    np.testing.assert_array_equal(align(frame, TEMPLATE)[56, 56], (10, 100, 250))


def test_the_border_is_replicated():
    frame = np.full((112, 112, 3), 200, np.uint8)
    np.testing.assert_array_equal(align(frame, TEMPLATE + 60), np.full((112, 112, 3), 200))


@pytest.mark.parametrize("shift", [(300, 200), (-120, -80), (800, 700)])
def test_large_faces_are_smoothed_as_if_the_whole_frame_were(shift, astronaut):
    """Only the part that the crop shows is blurred; that must not show, not even at the frame's border."""
    frame = cv2.resize(read_picture(astronaut), (1000, 900))
    landmarks = TEMPLATE * 4.3 + shift
    matrix = least_squares(landmarks, TEMPLATE)
    blurred = cv2.GaussianBlur(frame, (0, 0), 0.5 * 4.3, borderType=cv2.BORDER_REPLICATE)
    wanted = cv2.warpAffine(blurred, matrix, (SIZE, SIZE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[..., ::-1]
    difference = np.abs(align(frame, landmarks).astype(int) - wanted)
    assert difference.max() <= 2


def test_a_face_in_a_pattern_finer_than_the_crop_turns_grey_not_moire():
    frame = np.zeros((1200, 1200, 3), np.uint8)
    frame[::2] = 255  # lines
    crop = align(frame, TEMPLATE * 8 + 40)
    assert crop.std() < 3 and abs(crop.mean() - 127.5) < 2


@pytest.mark.parametrize("shape", [(1, 1, 3), (3, 4, 3)])
def test_tiny_frames_make_a_crop(shape):
    frame = np.full(shape, 77, np.uint8)
    for scale in (0.02, 1, 30):
        assert (align(frame, TEMPLATE * scale - 5) == 77).all()
