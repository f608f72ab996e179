"""How well faces that were found agree with those of a teacher."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from device import boxes
from train.detector.teacher import Faces

OVERLAP = 0.5  # intersection over union from which a face is found
EYES = slice(4, 8)  # of a row


@dataclass(frozen=True)
class Agreement:
    """Over photos: `wanted` faces, those `found`, the mean error of a landmark as a share of the distance between the eyes (of
    each face found, float64 [found]), and `false` detections: where the teacher sees nothing at all."""

    photos: int
    wanted: int
    errors: np.ndarray
    false: int

    @property
    def recall(self) -> float:
        return len(self.errors) / self.wanted if self.wanted else 1.0

    @property
    def landmarks(self) -> float:
        return float(self.errors.mean()) if len(self.errors) else float("nan")


def agreement(pairs: Iterable[tuple[np.ndarray, Faces]]) -> Agreement:
    """Of what was found, rows [N, 15] best first, and what the teacher sees, photo by photo."""
    photos = wanted = false = 0
    errors: list[float] = []
    for found, seen in pairs:
        photos += 1
        wanted += int(seen.sure.sum())
        overlaps = boxes.iou(found[:, :4], seen.rows[:, :4])  # [found, seen]
        false += int((~_touching(found, seen.rows)).sum())
        for face in np.flatnonzero(seen.sure):
            if len(found) and overlaps[:, face].max() >= OVERLAP:
                errors.append(_error(found[overlaps[:, face].argmax()], seen.rows[face]))
    return Agreement(photos, wanted, np.array(errors), false)


def _touching(found: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Whether the centre of each row found lies in a box that the teacher sees, if only half believing it: bool [N]."""
    centres = (found[:, :2] + found[:, 2:4] / 2)[:, None]
    return ((centres >= seen[None, :, :2]) & (centres <= seen[None, :, :2] + seen[None, :, 2:4])).all(-1).any(1)


def _error(found: np.ndarray, seen: np.ndarray) -> float:
    left, right = seen[EYES].reshape(2, 2)
    apart = np.linalg.norm((found[4:14] - seen[4:14]).reshape(5, 2), axis=1)
    return float(apart.mean() / max(np.linalg.norm(right - left), 1e-6))
