"""Faces followed from frame to frame by the overlap of their boxes, so that a verdict can rest on many crops of one person."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import cv2
import numpy as np
from scipy.optimize import linear_sum_assignment

from device.camera import Frame
from device.detect import Detection

CONFIRM = 3  # detections; false detections rarely last longer
PATIENCE = timedelta(seconds=0.5)  # how long a face may be missed: a turned head, a hand in front of it
MISSES = 3  # frames that may be missed however slow the source is
NEAR = -0.3  # distance-IoU from which two boxes may be one face: a step of about 1.4 widths from frame to frame
GROWTH = 2.0  # and neither is larger than the other by more than this
# A cut: small grey versions of two frames differ on average by more than this many levels pixel by pixel, which quick motion
# can do too, and by more than the second number when the pixels of each are sorted, for which it does not matter where they are.
CUT, CUT_SORTED = 20.0, 6.0


class Evidence:
    """What the crops of one face say together: the weighted sum of their embeddings."""

    def __init__(self) -> None:
        self.crops = 0
        self._sum = np.zeros(())

    def add(self, embedding: np.ndarray, weight: float) -> None:
        """Add a crop's `embedding` (float32 unit [D]) with a positive `weight` (its quality)."""
        self._sum = self._sum + weight * np.asarray(embedding, np.float64)
        self.crops += 1

    @property
    def embedding(self) -> np.ndarray:
        """The weighted mean, a unit vector again: float32 [D]."""
        return (self._sum / max(float(np.linalg.norm(self._sum)), 1e-12)).astype(np.float32)


@dataclass(eq=False)
class Track:
    """One face on its way through the frames. `box` is the newest, (x, y, width, height) in pixels of the frame."""

    box: tuple[float, float, float, float]
    first_time: datetime
    last_time: datetime
    last_frame: int  # index of the frame it was last found in
    id: int = 0  # from 1; 0 until the track is confirmed
    frames: int = 0  # how many it was found in
    evidence: Evidence = field(default_factory=Evidence)


def distance_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Overlap of each box in `a` [N, 4] with each in `b` [M, 4] (x, y, width, height): float64 [N, M] in -1..1.

    Zheng 2019, "Distance-IoU Loss", arXiv:1911.08287: IoU less the squared distance of the centres as a share of the
    squared diagonal of both. Unlike the IoU it still tells near from far where a fast face no longer overlaps itself.
    """
    a, b = a[:, None], b[None]  # [N, 1, 4], [1, M, 4]
    a_end, b_end = a[..., :2] + a[..., 2:], b[..., :2] + b[..., 2:]
    inner = np.clip(np.minimum(a_end, b_end) - np.maximum(a[..., :2], b[..., :2]), 0, None).prod(-1)
    outer = ((np.maximum(a_end, b_end) - np.minimum(a[..., :2], b[..., :2])) ** 2).sum(-1)
    apart = (((a[..., :2] + a_end - b[..., :2] - b_end) / 2) ** 2).sum(-1)
    return inner / (a[..., 2:].prod(-1) + b[..., 2:].prod(-1) - inner) - apart / outer


class Tracker:
    """Gives each detection a track.

    A track counts (is confirmed, gets its id) once it was found `confirm` times; one that never gets there vanishes
    without a word. It ends when it was missed in more than MISSES frames and, once confirmed, for longer than PATIENCE;
    and at a cut, behind which another face may be in the same place.
    """

    def __init__(self, confirm: int = CONFIRM):
        self.confirm = confirm
        self._tracks: list[Track] = []
        self._confirmed = 0
        self._small: np.ndarray | None = None  # the last frame

    def update(self, detections: Sequence[Detection], frame: Frame) -> tuple[list[Track], list[Track]]:
        """The track of each detection, and the confirmed tracks that ended with this frame."""
        before = self.flush() if self._is_cut(frame.image) else []
        found = self._match([detection.box for detection in detections], frame)
        for track, detection in zip(found, detections, strict=True):
            track.box, track.last_time, track.last_frame = detection.box, frame.time, frame.index
            track.frames += 1
            if not track.id and track.frames >= self.confirm:
                self._confirmed += 1
                track.id = self._confirmed
        ended = [track for track in self._tracks if self._is_over(track, frame)]
        self._tracks = [track for track in self._tracks if track not in ended]
        return found, before + [track for track in ended if track.id]

    def flush(self) -> list[Track]:
        """End all tracks; returns the confirmed ones."""
        ended, self._tracks = self._tracks, []
        return [track for track in ended if track.id]

    def _match(self, boxes: list[tuple[float, float, float, float]], frame: Frame) -> list[Track]:
        """The track of each box, the best for all together; a box that fits none begins a new one."""
        matched: dict[int, Track] = {}
        if boxes and self._tracks:
            old, new = np.array([track.box for track in self._tracks], float), np.array(boxes, float)
            size = np.sqrt(old[:, None, 2:].prod(-1) / new[None, :, 2:].prod(-1))
            near = np.where(np.maximum(size, 1 / size) <= GROWTH, distance_iou(old, new), -1.0)
            near = np.maximum(near, NEAR)  # pairs that are no match are all alike
            matched = {j: self._tracks[i] for i, j in zip(*linear_sum_assignment(-near), strict=True) if near[i, j] > NEAR}
        for j, box in enumerate(boxes):
            if j not in matched:
                matched[j] = Track(box, frame.time, frame.time, frame.index)
                self._tracks.append(matched[j])
        return [matched[j] for j in range(len(boxes))]

    def _is_cut(self, image: np.ndarray) -> bool:
        small = cv2.resize(image[::4, ::4], (32, 18), interpolation=cv2.INTER_AREA)  # every fourth pixel is plenty, and quick
        last, self._small = self._small, cv2.cvtColor(small, cv2.COLOR_BGR2GRAY).astype(float).ravel()
        if last is None or np.abs(self._small - last).mean() <= CUT:
            return False
        return bool(np.abs(np.sort(self._small) - np.sort(last)).mean() > CUT_SORTED)

    @staticmethod
    def _is_over(track: Track, frame: Frame) -> bool:
        long = not track.id or abs(frame.time - track.last_time) > PATIENCE  # abs: clocks are set back, too
        return long and frame.index - track.last_frame > MISSES
