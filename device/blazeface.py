"""BlazeFace (Bazarevsky et al. 2019, arXiv:1907.05047), the front camera's model of 128x128 pixels: what its numbers mean.

896 anchors, each the middle of a cell: two for each cell of 8 pixels, six for each of 16 (section 3.2). Each gives a logit, and 16
distances in pixels: of the box's middle, its width and height, and six points: eyes, nose tip, middle of the mouth, ears.
"""

import numpy as np

from device import boxes

SIZE = 128
GRIDS = ((8, 2), (16, 6))  # stride, anchors a cell
LIKELIEST = 100.0  # of a logit: beyond it the exponential function overflows
SAME = 0.3
# The corners of the mouth, seen from its middle, in units of the vector from eye to eye: as far apart as in device/align.py's template.
CORNERS = (-0.414, 0.414)


def anchors() -> np.ndarray:
    """Their middles (x, y) in pixels, float32 [896, 2]."""
    middles = []
    for stride, times in GRIDS:
        places = stride * (np.arange(SIZE // stride, dtype=np.float32) + 0.5)
        middles.append(np.repeat(np.stack(np.meshgrid(places, places), axis=-1).reshape(-1, 2), times, axis=0))
    return np.concatenate(middles)


def decode(logits: np.ndarray, distances: np.ndarray, score: float) -> np.ndarray:
    """The faces, rows float32 [N, 15] (device/boxes.py), best first, of logits float32 [896] and distances float32 [896, 16].

    The model knows the middle of the mouth only; its corners are put beside it, along the line of the eyes.
    """
    likely = 1 / (1 + np.exp(-np.clip(logits, -LIKELIEST, LIKELIEST)))
    chosen = likely >= score
    middles, far = anchors()[chosen], distances[chosen]
    corner = middles + far[:, :2] - far[:, 2:4] / 2
    points = middles[:, None] + far[:, 4:].reshape(-1, 6, 2)
    left, right, nose, mouth = points[:, 0], points[:, 1], points[:, 2], points[:, 3]  # the person's right eye is first: left as seen
    corners = [mouth + share * (right - left) for share in CORNERS]
    landmarks = np.concatenate([left, right, nose, *corners], axis=1)  # [N, 10]
    return boxes.merged(np.concatenate([corner, far[:, 2:4], landmarks, likely[chosen, None]], axis=1), SAME)
