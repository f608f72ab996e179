"""Faces turned upright: five landmarks onto a fixed template (preprocessing version 1 of docs/design.md).

The one place where a crop is made: for training, enrolment and recognition alike. Any change to these lines changes
every embedding, so it is a new preprocessing version.
"""

import cv2
import numpy as np

VERSION = 1
SIZE = 112
# Left eye, right eye (as seen in the picture), nose tip, left and right corner of the mouth, in pixels of the crop.
TEMPLATE = np.array([(38.29, 51.70), (73.53, 51.50), (56.03, 71.74), (41.55, 92.37), (70.73, 92.20)], np.float64)


def similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The least-squares rotation, scale and shift from `source` to `target`, both [N, 2]; returns [2, 3].

    Umeyama 1991, "Least-squares estimation of transformation parameters between two point patterns", eq. 40 to 42.
    """
    source_mean, target_mean = source.mean(0), target.mean(0)
    s, t = source - source_mean, target - target_mean
    u, sigma, vt = np.linalg.svd(t.T @ s / len(source))
    sign = np.array([1.0, np.sign(np.linalg.det(u @ vt))])  # -1: the best orthogonal map would mirror the face
    rotation = u @ np.diag(sign) @ vt
    scale = (sigma * sign).sum() / s.var(0).sum()
    return np.hstack([scale * rotation, (target_mean - scale * rotation @ source_mean)[:, None]])


def align(frame: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """The crop of one face: uint8 RGB [112, 112, 3] from a BGR `frame` [H, W, 3] and its `landmarks` [5, 2]."""
    matrix = similarity(np.asarray(landmarks, np.float64), TEMPLATE)
    scale = float(np.hypot(*matrix[0, :2]))
    if scale < 0.5:
        frame, matrix = _smoothed(frame, matrix, scale)
    crop = cv2.warpAffine(frame, matrix, (SIZE, SIZE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return cv2.cvtColor(crop, cv2.COLOR_BGR2RGB)


def _smoothed(frame: np.ndarray, matrix: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """The part of `frame` that the crop shows, blurred against aliasing (warpAffine samples, it does not average)."""
    sigma = 0.5 / scale
    inverse = cv2.invertAffineTransform(matrix)
    corners = np.array([(0, 0), (SIZE, 0), (0, SIZE), (SIZE, SIZE)], np.float64) @ inverse[:, :2].T + inverse[:, 2]
    margin = 4 * sigma + 2
    height, width = frame.shape[:2]
    left, top = (max(int(v), 0) for v in np.floor(corners.min(0) - margin))
    right, bottom = (int(v) for v in np.ceil(corners.max(0) + margin))
    left, top = min(left, width - 1), min(top, height - 1)
    right, bottom = min(max(right, left + 1), width), min(max(bottom, top + 1), height)
    moved = matrix.copy()
    moved[:, 2] += matrix[:, :2] @ (left, top)
    # The border mode keeps what replicating the whole frame's border would give.
    return cv2.GaussianBlur(frame[top:bottom, left:right], (0, 0), sigma, borderType=cv2.BORDER_REPLICATE), moved
