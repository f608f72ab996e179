"""What the maps of our own face detector mean: from the network's numbers to faces, in numpy.

The network (train/detector/network.py) looks at a picture of fixed size. For each stride it gives a heat map, the logit that
a cell holds a face's centre, and 14 numbers a cell: how far from the cell's centre the left, upper, right and lower edge of
the face's box are, and the five landmarks (x, y). A distance of d strides is stored as asinh(d): in 8 bits a fine step for
what is near and small, a proportional one for what is far and large.
"""

from collections.abc import Mapping

import cv2
import numpy as np

from device import boxes

STRIDES = (8, 16)
GEOMETRY = 14
SAME = 0.4  # intersection over union from which two cells show one face
MOST = 400  # cells that are looked at; noise may light up more
GREY = 127  # beside a frame of another shape: 0 to the network
ENLARGED = 2.0  # at most, of a small frame
INSIDE = np.array([-1.0, -1.0, 1.0, 1.0], np.float32)  # edges are told as distances, outwards


def decode(maps: Mapping[int, tuple[np.ndarray, np.ndarray]], score: float) -> np.ndarray:
    """The faces in `maps`, by stride: heat [H, W] and geometry [H, W, 14]. Rows float32 [N, 15] (device/boxes.py), best first.

    `score` is the least, in 0..1. Pixels are those of the network's picture.
    """
    rows = [_rows(heat, geometry, stride, score) for stride, (heat, geometry) in maps.items()]
    found = np.concatenate(rows)
    return boxes.merged(found[np.argsort(-found[:, -1], kind="stable")[:MOST]], SAME)


def _rows(heat: np.ndarray, geometry: np.ndarray, stride: int, score: float) -> np.ndarray:
    down, across = np.nonzero(heat >= np.log(score / (1 - score)))
    centres = stride * (np.stack([across, down], axis=1).astype(np.float32) + 0.5)  # [N, 2]
    far = stride * np.sinh(geometry[down, across].astype(np.float32))  # [N, 14]
    edges = np.tile(centres, 2) + INSIDE * far[:, :4]
    points = np.tile(centres, 5) + far[:, 4:]
    likely = 1 / (1 + np.exp(-heat[down, across]))
    return np.concatenate([edges[:, :2], edges[:, 2:] - edges[:, :2], points, likely[:, None]], axis=1)


def framed(frame: np.ndarray, height: int, width: int) -> tuple[np.ndarray, float]:
    """The BGR frame as large as it fits into [height, width], in its upper left corner, grey beside it; and the scale of it.

    A frame is shrunk by averaging, and never enlarged by more than ENLARGED.
    """
    scale = min(height / frame.shape[0], width / frame.shape[1], ENLARGED)
    shape = tuple(max(round(side * scale), 1) for side in frame.shape[1::-1])
    small = cv2.resize(frame, shape, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    picture = np.full((height, width, 3), GREY, np.uint8)
    picture[: shape[1], : shape[0]] = small
    return picture, scale
