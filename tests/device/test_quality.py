from dataclasses import replace

import cv2
import numpy as np
import pytest

from device.align import align
from device.camera import read_picture
from device.quality import FAULTS, assess, frontality, quality


@pytest.fixture(scope="module")
def face(mtcnn, astronaut):
    """The detection and the crop of a good picture."""
    image = read_picture(astronaut)
    (detection,) = mtcnn.detect(image)
    return detection, align(image, detection.landmarks)


def test_a_good_picture_is_nearly_perfect(face):
    assert 0.9 < quality(*face) <= 1


@pytest.mark.parametrize("sigma", [2, 4])
def test_blur_costs(face, sigma):
    detection, crop = face
    assert quality(detection, cv2.GaussianBlur(crop, (0, 0), sigma)) < 0.75 * quality(detection, crop)


@pytest.mark.parametrize("light", [lambda crop: crop // 6, lambda crop: 255 - (255 - crop) // 8])
def test_too_little_and_too_much_light_cost(face, light):
    detection, crop = face
    assert quality(detection, light(crop)) < 0.75 * quality(detection, crop)


def test_a_small_face_costs(face):
    detection, crop = face
    x, y, _, _ = detection.box
    assert quality(replace(detection, box=(x, y, 20, 25)), crop) < 0.75 * quality(detection, crop)


def test_turning_away_costs_on_both_sides_alike(face):
    detection, crop = face
    for side in (0, 1):
        landmarks = detection.landmarks.copy()
        landmarks[2, 0] = landmarks[side, 0]  # the nose tip below one of the eyes: a profile
        assert quality(replace(detection, landmarks=landmarks), crop) < 0.75 * quality(detection, crop)


def test_frontality_is_the_same_for_a_tilted_head(face):
    landmarks = face[0].landmarks.astype(np.float64)
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    assert frontality(landmarks @ turn.T * 3 + 40) == pytest.approx(frontality(landmarks))
    assert frontality(np.zeros((5, 2))) == 0


def test_nothing_to_see_is_zero(face):
    assert quality(face[0], np.zeros((112, 112, 3), np.uint8)) == 0


def test_what_is_the_matter_is_said(face):
    detection, crop = face
    x, y, _, _ = detection.box
    profile = detection.landmarks.copy()
    profile[2, 0] = profile[0, 0]
    cases = (
        (replace(detection, box=(x, y, 20, 25)), crop),
        (detection, cv2.GaussianBlur(crop, (0, 0), 4)),
        (replace(detection, landmarks=profile), crop),
    )
    assert [assess(*case).fault for case in cases] == list(FAULTS[:3])
    dark = np.random.default_rng(0).integers(0, 2, crop.shape).astype(np.uint8) * 24  # dark and noisy: not blurred
    assert assess(detection, dark).fault == FAULTS[3]
