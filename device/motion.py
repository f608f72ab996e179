"""Still scenes: a picture in which nothing moves is not looked at again."""

import cv2
import numpy as np

from device.detect import Detection, Detector

SHAPE = (32, 24)  # cells (across, down) in which a frame is compared
# Grey levels of a cell's mean: several times what a camera's noise moves it by, less than a small face that moves by some pixels.
CHANGE = 4.0
LONGEST = 30  # frames, after which the picture is looked at whatever it shows


class GatedDetector:
    """`detector`, asked only where the frame differs from the one that it saw last; else its answer of then holds.

    What it saw last, not the frame before: a slow change adds up until it counts.
    """

    def __init__(self, detector: Detector):
        self._detector = detector
        self.name, self.size, self.smallest, self.model = detector.name, detector.size, detector.smallest, detector.model
        self.looks = 0  # frames that the detector was asked about
        self._seen: np.ndarray | None = None
        self._shape: tuple[int, ...] = ()
        self._since = 0
        self._found: list[Detection] = []

    def detect(self, frame: np.ndarray) -> list[Detection]:
        cells = _cells(frame)
        self._since += 1
        still = self._seen is not None and frame.shape == self._shape and np.abs(cells - self._seen).max() < CHANGE
        if not still or self._since >= LONGEST:
            self._found, self._seen, self._shape, self._since = self._detector.detect(frame), cells, frame.shape, 0
            self.looks += 1
        return list(self._found)


def _cells(frame: np.ndarray) -> np.ndarray:
    """The mean of each cell and channel, float32."""
    return cv2.resize(frame, SHAPE, interpolation=cv2.INTER_AREA).astype(np.float32)
