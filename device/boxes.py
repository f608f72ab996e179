"""Faces as rows of numbers, and which of them are one face.

A row is float32 [15], as YuNet has it: box (x, y, width, height), five landmarks (x, y), score. All in pixels of one picture.
"""

import numpy as np

ROW = 15


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of each box in `a` [N, 4] with each in `b` [M, 4] (x, y, width, height): [N, M] in 0..1."""
    a, b = a[:, None], b[None]  # [N, 1, 4], [1, M, 4]
    ends = np.minimum(a[..., :2] + a[..., 2:], b[..., :2] + b[..., 2:])
    inner = np.clip(ends - np.maximum(a[..., :2], b[..., :2]), 0, None).prod(-1)
    return inner / np.maximum(a[..., 2:].prod(-1) + b[..., 2:].prod(-1) - inner, np.finfo(np.float32).tiny)


def groups(rows: np.ndarray, overlap: float) -> list[np.ndarray]:
    """The numbers of the rows [N, 15] that show the same face, the best score first, in the groups and of the groups.

    Greedy: the best row, and all left that overlap it by more than `overlap` (intersection over union).
    """
    order, found = np.argsort(-rows[:, -1], kind="stable"), []
    overlaps = iou(rows[:, :4], rows[:, :4])
    while len(order):
        same = overlaps[order[0], order] > overlap
        same[0] = True  # a box without area does not even overlap itself
        found.append(order[same])
        order = order[~same]
    return found


def merged(rows: np.ndarray, overlap: float) -> np.ndarray:
    """One row for each face of `rows` [N, 15], best first: the mean of its rows, weighted by their scores, with the best score.

    The mean shakes less from frame to frame than the best row (Bazarevsky et al. 2019, arXiv:1907.05047, section 3.4 "blending").
    """
    found = np.empty((0, ROW), np.float32)
    if len(rows):
        found = np.stack([np.average(rows[same], axis=0, weights=rows[same, -1] + 1e-9) for same in groups(rows, overlap)])
        found[:, -1] = [rows[same[0], -1] for same in groups(rows, overlap)]
    return found.astype(np.float32)
