"""What photos, folders, videos and cameras show of one person: upright crops, the best of them and the most different."""

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from device.align import align
from device.camera import PICTURES, Source, open_source, pictures_in, read_picture
from device.coverage import Look, look
from device.detect import Detection, Detector
from device.program import InputError
from device.quality import quality

MOST = 24  # candidates from one video: more of the same minutes add little
LOOKS = 10.0  # frames a second of a video that are looked at: neighbours show the same
CAMERA_SECONDS = 10.0
PROGRESS_SECONDS = 5.0


@dataclass(frozen=True, eq=False)
class Candidate:
    """A picture of one face alone: RGB crop uint8 [112, 112, 3], its quality, the file or camera it is from, and its look."""

    crop: np.ndarray
    quality: float
    source: str
    look: Look | None = None


@dataclass(frozen=True)
class Skipped:
    """An input that gave nothing, and why."""

    source: str
    error: InputError


class Spread:
    """The best of every stretch of a stream of unknown length: at most `most` candidates, spread over all of it.

    Whenever the stretches are twice too many, neighbours are merged, so that an hour takes no more memory than a second.
    """

    def __init__(self, most: int = MOST):
        self._most = most
        self._length = 1  # frames in a stretch
        self._best: dict[int, Candidate] = {}  # by number of the stretch

    def add(self, index: int, candidate: Candidate) -> None:
        """Offer the candidate of frame `index`; frames come in their order, not all of them have one."""
        while index // self._length >= 2 * self._most:
            self._merge()
        self._keep(index // self._length, candidate)

    def candidates(self) -> list[Candidate]:
        while len(self._best) > self._most:
            self._merge()
        return list(self._best.values())

    def _merge(self) -> None:
        stretches, self._best = self._best, {}
        self._length *= 2
        for number, candidate in stretches.items():
            self._keep(number // 2, candidate)

    def _keep(self, number: int, candidate: Candidate) -> None:
        if number not in self._best or candidate.quality > self._best[number].quality:
            self._best[number] = candidate


def collect(inputs: Sequence[str], name: str, detector: Detector) -> tuple[list[Candidate], list[Skipped]]:
    """What the photos, folders and videos `inputs` show of `name`, and those of them that are of no use."""
    candidates: list[Candidate] = []
    skipped: list[Skipped] = []
    for word in inputs:
        try:
            for source in _files(word):
                try:
                    candidates += from_file(source, name, detector)
                except InputError as error:
                    skipped.append(Skipped(source, error))
        except InputError as error:
            skipped.append(Skipped(word, error))
    return candidates, skipped


def from_file(source: str, name: str, detector: Detector) -> list[Candidate]:
    """The candidates of a photo (one) or of a video. Raises InputError where it shows `name` not at all or not alone."""
    if Path(source).suffix.lower() not in PICTURES:
        with open_source(source) as video:
            return from_video(video, name, detector)
    return [from_picture(read_picture(Path(source)), source, name, detector)]


def from_picture(image: np.ndarray, source: str, name: str, detector: Detector) -> Candidate:
    """The candidate of a photo, BGR uint8 [H, W, 3]. Raises InputError where it shows `name` not at all or not alone."""
    faces = detector.detect(image)
    if not faces:
        raise InputError(f"no face in {source}", f"choose a picture that shows the face of {name} from the front and larger")
    if len(faces) > 1:
        count = "two" if len(faces) == 2 else len(faces)
        raise InputError(f"{count} faces in {source}", f"crop the picture so that only {name} is in it")
    return _candidate(image, faces[0], source)


def from_video(video: Source, name: str, detector: Detector) -> list[Candidate]:
    """The best candidates of a video, or of a camera's next seconds. Raises InputError where no frame shows one face alone."""
    spread = Spread()
    alone = several = 0
    step = max(1, round((video.fps or LOOKS) / LOOKS))
    for frame in _watched(video):
        if frame.index % step:
            continue
        faces = detector.detect(frame.image)
        several += len(faces) > 1
        if len(faces) == 1:
            alone += 1
            spread.add(frame.index // step, _candidate(frame.image, faces[0], video.name))
    if not alone:
        wrong = f"no frame of {video.name} shows one face alone ({several} show several)" if several else f"no face in {video.name}"
        raise InputError(wrong, f"choose a video that shows {name} alone, from the front")
    return spread.candidates()


def _files(word: str) -> list[str]:
    return [str(path) for path in pictures_in(Path(word))] if Path(word).is_dir() else [word]


def _watched(video: Source) -> Iterator[Any]:
    """The frames of a file, or of the next seconds of a camera, with a line on how far it is now and then."""
    start = told = time.monotonic()
    for frame in video:
        now = time.monotonic()
        if video.live and now - start > CAMERA_SECONDS:
            return
        if now - told > PROGRESS_SECONDS:
            print(f"{video.name}: {frame.index} frames so far", file=sys.stderr)
            told = now
        yield frame


def _candidate(image: np.ndarray, face: Detection, source: str) -> Candidate:
    crop = align(image, face.landmarks)
    return Candidate(crop, quality(face, crop), source, look(face.landmarks, crop))
