"""Faces followed from frame to frame, by where they are and, where that leaves a doubt, by who they look like."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import cv2
import numpy as np
from scipy.optimize import linear_sum_assignment

from device.camera import Frame
from device.decide import Opinion, Verdict
from device.detect import Detection
from device.quality import Quality
from device.visitors import Stranger

CONFIRM = 3  # detections; false detections rarely last longer
PATIENCE = timedelta(seconds=0.5)  # how long a face may be missed: a turned head, a hand in front of it
MISSES = 3  # looks that may be missed however slow the source is
NEAR = -0.3  # distance-IoU from which two boxes may be one face: a step of about 1.4 widths from look to look
FIRM = 0.3  # and from which they are, if nothing else comes into question
GROWTH = 2.0  # and neither is larger than the other by more than this
FADE = 0.95  # what an older crop still counts when a newer one comes
WORST = 0.01  # the weight of a crop of quality 0, which still counts where there is no better one
# A cut: small grey versions of two frames differ on average by more than this many levels pixel by pixel, which quick motion
# can do too, and by more than the second number when the pixels of each are sorted, for which it does not matter where they are.
CUT, CUT_SORTED = 20.0, 6.0

Box = tuple[float, float, float, float]
# Numbers of detections -> their embeddings, float32 unit rows [N, D]; a row is not a number where the crop is useless.
Embed = Callable[[Sequence[int]], np.ndarray]


class Evidence:
    """What the crops of one face say together: the sum of their embeddings, weighted by quality, the older ones fading."""

    def __init__(self) -> None:
        self.crops = 0
        self.best: Quality | None = None
        self._sum = np.zeros(())
        self._weight = self._count = 0.0

    def add(self, embedding: np.ndarray, quality: Quality) -> None:
        """Add the `embedding` (float32 unit [D]) of a crop."""
        weight = max(quality.value, WORST)
        self._sum = FADE * self._sum + weight * np.asarray(embedding, np.float64)
        self._weight = FADE * self._weight + quality.value
        self._count = FADE * self._count + 1
        self.crops += 1
        self.see(quality)

    def see(self, quality: Quality) -> None:
        """Note the quality of a crop, whether it is added or too poor for that."""
        if self.best is None or quality.value > self.best.value:
            self.best = quality

    @property
    def embedding(self) -> np.ndarray:
        """The weighted mean, a unit vector again: float32 [D]."""
        return (self._sum / max(float(np.linalg.norm(self._sum)), 1e-12)).astype(np.float32)

    @property
    def quality(self) -> float:
        """The mean quality of the crops that were added, 0..1; before the first the best of those that were not."""
        if self.crops:
            return self._weight / self._count
        return self.best.value if self.best else 0.0


@dataclass(eq=False)
class Track:
    """One face on its way through the frames. `box` is the newest, (x, y, width, height) in pixels of the frame.

    What it looks like and who it is said to be (`opinion`; `told` to the world; `checked`: when it was last embedded; `stranger`: who
    of those who are remembered) is the recogniser's to fill in.
    """

    box: Box
    first_time: datetime
    last_time: datetime
    last_frame: int  # index of the frame it was last found in
    id: int = 0  # from 1; 0 until the track is confirmed
    found: int = 0  # in how many looks
    frames: int = 0  # how many it was there, those between two looks included
    misses: int = 0  # looks since it was last found
    evidence: Evidence = field(default_factory=Evidence)
    opinion: Opinion = field(default_factory=Opinion)
    told: Verdict | None = None
    checked: datetime | None = None
    stranger: Stranger | None = None


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


class Cuts:
    """Tells where a film is cut, from every frame of it."""

    def __init__(self) -> None:
        self._last: np.ndarray | None = None

    def __call__(self, image: np.ndarray) -> bool:
        """Whether `image` (BGR uint8 [H, W, 3]) shows another scene than the one before."""
        small = cv2.resize(image[::4, ::4], (32, 18), interpolation=cv2.INTER_AREA)  # every fourth pixel is plenty, and quick
        last, now = self._last, cv2.cvtColor(small, cv2.COLOR_BGR2GRAY).astype(float).ravel()
        self._last = now
        if last is None or np.abs(now - last).mean() <= CUT:
            return False
        return bool(np.abs(np.sort(now) - np.sort(last)).mean() > CUT_SORTED)


class Tracker:
    """Gives each detection a track.

    A track counts (is confirmed, gets its id) once it was found `confirm` times, and as many verdicts must agree about it; one
    that never gets there vanishes without a word. It ends when it was missed in more than MISSES looks and, once confirmed, for
    longer than PATIENCE. Two crops with a cosine of at least `like` may show one person; which cosine that is, depends on the
    encoder, and without one the place alone decides.
    """

    def __init__(self, confirm: int = CONFIRM, like: float | None = None):
        self.confirm = confirm
        self.like = like
        self._tracks: list[Track] = []
        self._confirmed = 0

    @property
    def calm(self) -> bool:
        """All tracks are confirmed and were found when they were last looked for."""
        return all(track.id and not track.misses for track in self._tracks)

    def update(self, detections: Sequence[Detection], frame: Frame, embed: Embed | None = None) -> tuple[list[Track], list[Track]]:
        """The track of each detection, and the confirmed tracks that ended with this frame.

        `embed` is asked about detections whose place leaves a doubt; without it the place alone decides.
        """
        found = self._match([detection.box for detection in detections], frame, embed)
        for track in self._tracks:
            track.misses += 1
        for track, detection in zip(found, detections, strict=True):
            track.frames += frame.index - track.last_frame if track.misses == 1 and track.found else 1
            if track.misses > 1:
                track.checked = None  # somebody else may have come out from behind whatever hid it
            track.box, track.last_time, track.last_frame = detection.box, frame.time, frame.index
            track.found += 1
            track.misses = 0
            if not track.id and track.found >= self.confirm:
                self._confirmed += 1
                track.id = self._confirmed
        ended = [track for track in self._tracks if self._is_over(track, frame)]
        self._tracks = [track for track in self._tracks if track not in ended]
        return found, [track for track in ended if track.id]

    def flush(self) -> list[Track]:
        """End all tracks, as at a cut, behind which another face may be in the same place; returns the confirmed ones."""
        ended, self._tracks = self._tracks, []
        return [track for track in ended if track.id]

    def _match(self, boxes: list[Box], frame: Frame, embed: Embed | None) -> list[Track]:
        """The track of each box, the best for all together; a box that fits none begins a new one."""
        matched: dict[int, Track] = {}
        if boxes and self._tracks:
            near = self._nearness(boxes)
            for i, j in assign(near, self._likeness(near, embed, self.like) if embed and self.like is not None else None):
                matched[j] = self._tracks[i]
        for j, box in enumerate(boxes):
            if j not in matched:
                matched[j] = Track(box, frame.time, frame.time, frame.index, opinion=Opinion(self.confirm))
                self._tracks.append(matched[j])
        return [matched[j] for j in range(len(boxes))]

    def _nearness(self, boxes: list[Box]) -> np.ndarray:
        """Distance-IoU of each track [T] with each box [B]: float64 [T, B], -1 where the sizes do not fit."""
        old, new = np.array([track.box for track in self._tracks], float), np.array(boxes, float)
        size = np.sqrt(old[:, None, 2:].prod(-1) / new[None, :, 2:].prod(-1))
        return np.where(np.maximum(size, 1 / size) <= GROWTH, distance_iou(old, new), -1.0)

    def _likeness(self, near: np.ndarray, embed: Embed, like: float) -> np.ndarray:
        """How alike track and box are where their places leave a doubt, else not a number: float64 [T, B], -1..1.

        0 is a cosine of `like` and 1 a cosine of 1, so that it counts as much as the nearness whatever an encoder's scale.
        """
        likeness = np.full(near.shape, np.nan)
        known = np.array([track.evidence.crops > 0 for track in self._tracks])
        missed = np.array([track.misses > 0 for track in self._tracks])
        doubt = (doubtful(near) | (missed[:, None] & unclaimed(near))) & known[:, None]
        columns = np.flatnonzero(doubt.any(0))
        if len(columns):
            rows = np.stack([track.evidence.embedding for track, has in zip(self._tracks, known, strict=True) if has])
            alike = np.full((len(near), len(columns)), np.nan)
            alike[known] = np.clip((rows @ embed(columns.tolist()).T - like) / (1 - like), -1, 1)
            likeness[:, columns] = np.where(doubt[:, columns], alike, np.nan)
        return likeness

    @staticmethod
    def _is_over(track: Track, frame: Frame) -> bool:
        long = not track.id or abs(frame.time - track.last_time) > PATIENCE  # abs: clocks are set back, too
        return long and track.misses > MISSES


def doubtful(near: np.ndarray) -> np.ndarray:
    """Pairs of track and box [T, B] that may belong together, but do not overlap firmly or are not alone in question."""
    may = near > NEAR
    alone = (may.sum(0) == 1)[None] & (may.sum(1) == 1)[:, None]
    return may & ~(alone & (near >= FIRM))


def unclaimed(near: np.ndarray) -> np.ndarray:
    """Pairs of a track that is near no box and a box that is near no track: [T, B]."""
    may: np.ndarray = near > NEAR
    claimed: np.ndarray = np.logical_or(may.any(1, keepdims=True), may.any(0, keepdims=True))
    return ~claimed


def assign(near: np.ndarray, likeness: np.ndarray | None) -> list[tuple[int, int]]:
    """The pairs of track and box with the greatest sum of nearness and likeness [T, B] (not a number: not asked for).

    A pair that is not firmly near must be alike (0 or more), one that is alike need not be near.
    """
    alike = np.full(near.shape, np.nan) if likeness is None else likeness
    unknown = np.isnan(alike)
    allowed: np.ndarray = np.where(unknown, near > NEAR, (near >= FIRM) | (alike >= 0))
    score = np.where(allowed, np.maximum(near, NEAR) + np.where(unknown, 0.0, alike), -10.0)  # pairs that are no match are all alike
    return [(int(i), int(j)) for i, j in zip(*linear_sum_assignment(-score), strict=True) if allowed[i, j]]
