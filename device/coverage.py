"""Which pictures of a person to keep, how well they cover the person, and which further one would help."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

MOST = 20  # templates of a person
SAME = 1 - 1e-5  # cosine from which two templates are of the very same picture: equal but for rounding, whatever the encoder
TURNED = 0.12  # distances of the eyes by which the nose leaves the middle: about 15 degrees
RAISED = 0.2  # change of the nose's place between eyes (0) and mouth (1) that is more than faces differ by
LEVEL = 0.58  # that place in a face which looks straight ahead: 0.5 to 0.65 in the test photos and clips
DIM = 70.0  # mean grey level below which the light is dim
SIDE = 0.25  # difference of the halves of a face over their sum from which the light is from one side

POSES = {"front": "a picture from the front", "left": "one turned to the left", "right": "one turned to the right"}
LIGHTS = {"even": "one in even light", "dim": "one in dim light", "side": "one with light from one side"}
EXTRA = {"up": "", "down": ""}  # worth telling, but nobody is asked for it


@dataclass(frozen=True)
class Look:
    """How a face looks: `yaw` (right in the picture > 0, in distances of the eyes), `pitch` (down > 0), `light` (mean grey level,
    0 to 255) and `side` (difference of the halves over their sum, brighter right half > 0)."""

    yaw: float
    pitch: float
    light: float
    side: float

    @property
    def pose(self) -> str:
        if abs(self.yaw) >= TURNED:
            return "right" if self.yaw > 0 else "left"
        if abs(self.pitch) >= RAISED:
            return "down" if self.pitch > 0 else "up"
        return "front"

    @property
    def lit(self) -> str:
        return "dim" if self.light < DIM else "side" if abs(self.side) >= SIDE else "even"


@dataclass(frozen=True)
class Coverage:
    """The poses and lights that a person's templates show, how many of each, and what would help, in words."""

    poses: dict[str, int]
    lights: dict[str, int]
    wanted: tuple[str, ...]

    @property
    def share(self) -> float:
        """0 (nothing) to 1 (every pose and light that is asked for)."""
        return (sum(pose in self.poses for pose in POSES) + sum(light in self.lights for light in LIGHTS)) / (len(POSES) + len(LIGHTS))

    @property
    def word(self) -> str:
        return "well" if self.share > 0.8 else "fairly" if self.share >= 0.5 else "barely"


def look(landmarks: np.ndarray, crop: np.ndarray) -> Look:
    """The look of a face from its `landmarks` [5, 2] in the frame and its RGB `crop` uint8 [112, 112, 3]."""
    left, right, nose, *mouth = np.asarray(landmarks, np.float64)
    eyes, axis = (left + right) / 2, right - left
    length = max(float(axis @ axis), 1e-9)
    down = np.array([-axis[1], axis[0]])
    height = float((np.mean(mouth, 0) - eyes) @ down)
    place = float((nose - eyes) @ down) / height if height > 0 else LEVEL
    grey = cv2.cvtColor(crop[28:98, 22:90], cv2.COLOR_RGB2GRAY).astype(np.float64)  # face under any pose
    halves = grey[:, :34].mean(), grey[:, 34:].mean()
    side = float((halves[1] - halves[0]) / max(sum(halves), 1.0))
    return Look(float((nose - eyes) @ axis) / length, place - LEVEL, float(grey.mean()), side)


def cover(looks: Iterable[Look | None]) -> Coverage:
    """What the pictures with these looks cover; None is one of which it is not known."""
    known = [entry for entry in looks if entry is not None]
    poses, lights = _counted(entry.pose for entry in known), _counted(entry.lit for entry in known)
    wanted = [text for pose, text in POSES.items() if pose not in poses] + [text for lit, text in LIGHTS.items() if lit not in lights]
    return Coverage(poses, lights, tuple(wanted))


def choose(embeddings: np.ndarray, qualities: Sequence[float], most: int = MOST) -> list[int]:
    """The best and most different of unit rows [N, D]: the indices of at most `most`, in order.

    As long as there are too many, the two that are most alike are looked for, and the one of lower quality goes.
    """
    kept = list(range(len(embeddings)))
    likeness = embeddings @ embeddings.T  # [N, N]
    np.fill_diagonal(likeness, -np.inf)
    while len(kept) > max(most, 1):
        pair = np.unravel_index(likeness.argmax(), likeness.shape)
        worse = int(min(pair, key=lambda index: (qualities[index], -index)))  # of equals the newer
        kept.remove(worse)
        likeness[worse] = likeness[:, worse] = -np.inf
    return kept


def _counted(words: Iterable[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for word in words:
        counts[word] = counts.get(word, 0) + 1
    return {word: counts[word] for word in (*POSES, *EXTRA, *LIGHTS) if word in counts}
