"""What the teacher sees in a photo: YuNet (Wu et al. 2023, doi:10.1007/s11633-023-1423-y), asked in several sizes and in a mirror.

A face that it is sure of, and finds in at least two of these, is a face. What it half believes is neither face nor background:
the detector learns nothing there. The answers are kept on disk.
"""

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from device import boxes, bundle
from device.detect import YunetDetector
from device.program import replacing

MIRRORED = [1, 0, 2, 4, 3]  # what a landmark becomes in a mirror
PHOTO = 448  # pixels of the longer side; larger photos are looked at as if they had so many
SCALES = (0.5, 1.0, 2.0)  # of that; at half of it faces that fill a photo are found (YunetDetector adds a border), at twice it the smallest
LARGEST = 1024  # pixels of the longer side that the teacher is shown
DOUBTED, SURE = 0.35, 0.75  # scores
SAME = 0.45  # intersection over union of one face in two sizes
SAVED_EVERY = 200


@dataclass(frozen=True)
class Faces:
    """Of one photo: `rows` float32 [N, 15] (device/boxes.py), and `sure` bool [N]; the others are to be looked away from."""

    rows: np.ndarray
    sure: np.ndarray


NOBODY = Faces(np.empty((0, boxes.ROW), np.float32), np.empty(0, bool))


class Teacher:
    """YuNet, of the ONNX file `model`. `see` takes BGR uint8 [H, W, 3]."""

    def __init__(self, model: Path):
        self._detector = YunetDetector(model, LARGEST, DOUBTED)
        settings = ("as large as it is", SCALES, PHOTO, DOUBTED, SURE, SAME)
        self.identity = hashlib.sha256(repr((bundle.sha256(Path(model)), settings)).encode()).hexdigest()[:16]

    def see(self, photo: np.ndarray) -> Faces:
        views = []  # [N, 15] each
        for scale in SCALES:
            factor = scale * min(PHOTO / max(photo.shape[:2]), 1)
            shape = (max(round(photo.shape[1] * factor), 1), max(round(photo.shape[0] * factor), 1))
            picture = cv2.resize(photo, shape, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)
            scales = np.array([shape[0] / photo.shape[1], shape[1] / photo.shape[0]])
            for mirror in (False, True):
                found = self._detector.detect(cv2.flip(picture, 1) if mirror else picture)
                rows = np.array([detection.row for detection in found], np.float32).reshape(-1, boxes.ROW)
                rows = mirrored(rows, shape[0]) if mirror else rows
                rows[:, :14] /= np.tile(scales, 7)
                views.append(rows)
        return _agreed(views)


def mirrored(rows: np.ndarray, width: float) -> np.ndarray:
    """The rows [N, 15] as they are in the mirror image of a picture of `width` pixels."""
    turned = rows.copy()
    turned[:, 0] = width - rows[:, 0] - rows[:, 2]
    points = rows[:, 4:14].reshape(-1, 5, 2)[:, MIRRORED]
    turned[:, 4:14] = np.concatenate([width - points[..., :1], points[..., 1:]], axis=-1).reshape(-1, 10)
    return turned


def _agreed(views: Sequence[np.ndarray]) -> Faces:
    rows, view = np.concatenate(views), np.repeat(np.arange(len(views)), [len(found) for found in views])
    if not len(rows):
        return NOBODY
    same = boxes.groups(rows, SAME)
    sure = [rows[group[0], -1] >= SURE and len(set(view[group])) > 1 for group in same]
    return Faces(boxes.merged(rows, SAME), np.array(sure))


def labels(teacher: Teacher, photos: Sequence[np.ndarray], folder: Path) -> list[Faces]:
    """The faces of each BGR photo uint8 [H, W, 3], seen once: a file in `folder` keeps them, and goes on where it broke off."""
    digest = hashlib.sha256(teacher.identity.encode())
    for photo in photos:
        digest.update(repr(photo.shape).encode())
        digest.update(np.ascontiguousarray(photo).data)
    path = Path(folder) / f"faces-{digest.hexdigest()[:16]}.npz"
    found = _read(path) if path.exists() else []
    while len(found) < len(photos):
        found += [teacher.see(photo) for photo in photos[len(found) : len(found) + SAVED_EVERY]]
        with replacing(path) as temporary:
            counts = [len(faces.sure) for faces in found]
            rows, sure = (np.concatenate([getattr(faces, name) for faces in found]) for name in ("rows", "sure"))
            np.savez_compressed(temporary, counts=counts, rows=rows, sure=sure)
        print(f"teacher: {len(found)} of {len(photos)} photos", file=sys.stderr)
    return found


def _read(path: Path) -> list[Faces]:
    with np.load(path) as stored:
        ends = np.cumsum(stored["counts"])[:-1]
        pieces = zip(np.split(stored["rows"], ends), np.split(stored["sure"], ends), strict=True)
        return [Faces(rows, sure) for rows, sure in pieces]
