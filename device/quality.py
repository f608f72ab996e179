"""How good a picture of a face is for recognition: one number from what is known without a model, and what is the matter."""

from dataclasses import dataclass

import cv2
import numpy as np

from device.detect import Detection

WIDTH = 80.0  # pixels: a face at least this wide fills the crop without being enlarged much
SHARP = 100.0  # variance of the Laplacian of a crop that is in focus
LIGHT = (50.0, 205.0)  # grey levels between which the mean of the face is well lit
USEFUL = 0.2  # quality below which a crop says nothing about who it is
FAULTS = ("too small", "blurred", "turned away", "badly lit")  # what a low factor means, in their order


@dataclass(frozen=True)
class Quality:
    """`value` is 0 (useless) to 1 (as good as it gets); `fault` is the one of FAULTS that costs the most."""

    value: float
    fault: str


def assess(detection: Detection, crop: np.ndarray) -> Quality:
    """The quality of a `detection` and its RGB `crop` uint8 [112, 112, 3].

    The geometric mean of four factors in 0..1, so that a single bad one is enough to make a bad picture: width of the
    face, sharpness (Pech-Pacheco 2000, variance of the Laplacian), pose and brightness.
    """
    # The middle of the crop is face under any pose; its border may be background or replicated.
    grey = cv2.cvtColor(crop[28:98, 22:90], cv2.COLOR_RGB2GRAY)
    factors = (
        detection.box[2] / WIDTH,
        cv2.Laplacian(grey, cv2.CV_64F).var() / SHARP,
        frontality(detection.landmarks),
        _light(float(grey.mean())),
    )
    clipped = np.clip(factors, 0.0, 1.0)
    return Quality(float(clipped.prod() ** (1 / len(clipped))), FAULTS[int(clipped.argmin())])


def quality(detection: Detection, crop: np.ndarray) -> float:
    """The value alone of `assess`."""
    return assess(detection, crop).value


def frontality(landmarks: np.ndarray) -> float:
    """1 for a face that looks into the camera, 0 for a profile, from `landmarks` [5, 2].

    Measured by how far the nose tip is from the middle between the eyes, along the line through them: half the distance
    of the eyes in a profile.
    """
    left, right, nose = np.asarray(landmarks, np.float64)[:3]
    axis = right - left
    length = float(np.hypot(*axis))
    if length == 0:
        return 0.0
    offset = abs(float((nose - (left + right) / 2) @ axis)) / length**2  # in distances of the eyes
    return max(0.0, 1.0 - 2.0 * offset)


def _light(mean: float) -> float:
    """1 within LIGHT, falling to 0 at black and at white."""
    return min(1.0, mean / LIGHT[0], (255.0 - mean) / (255.0 - LIGHT[1]))
