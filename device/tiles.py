"""Small faces in large frames: windows of a frame, looked at one by one.

A detector shrinks the frame to its working size, and with it the faces. Windows of the size that shows the smallest wanted face
large enough cover the frame; larger ones, and the frame itself, show the faces that do not fit into them.
"""

from collections.abc import Iterator
from math import ceil

import numpy as np

from device import boxes
from device.detect import Detection, Detector
from device.program import InputError

SHAPE = 3 / 4  # height of a window, in widths
GROWTH = 3  # from one size of windows to the next
TALL = 1.25  # height of a face, in the unit that detectors tell the smallest by; and room for its edge
SAME = 0.4  # intersection over union of one face in two windows
EDGE = 0.01  # of a window, within which a box is taken to be cut off


class TiledDetector:
    """`detector` on windows of the frame, so that faces of `min_face` pixels of the frame are found.

    A frame whose faces are large enough as it is costs one look, as ever. `name` and `size` are the detector's own: templates
    made with windows fit those made without.
    """

    def __init__(self, detector: Detector, min_face: float):
        if not min_face > 0:
            raise InputError(f"--min-face is {min_face:g}", "give the pixels of the smallest face to find")
        self._detector, self._min_face = detector, min_face
        self.name, self.size, self.smallest, self.model = detector.name, detector.size, detector.smallest, detector.model

    def detect(self, frame: np.ndarray) -> list[Detection]:
        height, width = frame.shape[:2]
        looks = list(windows(height, width, self.size * self._min_face / self.smallest, self.smallest / self.size))
        if len(looks) == 1:
            return self._detector.detect(frame)
        rows = [row for look in looks for row in self._look(frame, look)]
        return [Detection.of(row) for row in boxes.merged(np.array(rows, np.float32).reshape(-1, boxes.ROW), SAME)]

    def _look(self, frame: np.ndarray, window: tuple[int, int, int, int]) -> Iterator[np.ndarray]:
        """Faces in a window (left, top, right, bottom) that its edges do not cut off."""
        left, top, right, bottom = window
        for detection in self._detector.detect(frame[top:bottom, left:right]):
            row = detection.row
            row[:14:2] += left
            row[1:14:2] += top
            row[2:4] = detection.box[2:]
            if _whole(row, window, frame.shape):
                yield row


def windows(height: int, width: int, side: float, smallest: float) -> Iterator[tuple[int, int, int, int]]:
    """(left, top, right, bottom) of windows of `side` pixels' width, of larger ones, and the whole frame last.

    `smallest` is that of a detector, as a share of a window's width. Windows overlap by the smallest face that the next larger
    ones show: what is cut off by one is whole in another.
    """
    while side < width or side * SHAPE < height:
        overlap = min(GROWTH * TALL * smallest, 0.6) * side
        for top, bottom in _spans(height, side * SHAPE, overlap):
            for left, right in _spans(width, side, overlap):
                yield left, top, right, bottom
        side *= GROWTH
    yield 0, 0, width, height


def _spans(length: int, side: float, overlap: float) -> Iterator[tuple[int, int]]:
    """Equal spans that cover `length` pixels."""
    side = min(max(ceil(side), 1), length)
    count = 1 + ceil((length - side) / max(side - overlap, 1)) if length > side else 1
    for start in np.linspace(0, length - side, count):
        yield int(start), int(start) + side


def _whole(row: np.ndarray, window: tuple[int, int, int, int], shape: tuple[int, ...]) -> bool:
    """Whether a box reaches no edge of its window, those of the frame excepted."""
    left, top, right, bottom = window
    near = EDGE * (right - left)
    clear = (row[0] - left > near, row[1] - top > near, right - row[0] - row[2] > near, bottom - row[1] - row[3] > near)
    frame_edge = (left == 0, top == 0, right == shape[1], bottom == shape[0])
    return all(free or edge for free, edge in zip(clear, frame_edge, strict=True))
