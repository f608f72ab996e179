"""The way of a frame: detect, align, embed, track, decide. Usable without the program.

recogniser = Recogniser(open_detector(), encoder, NearestNeighbours(embeddings, names, threshold))
for frame in source:
    events, sightings = recogniser.process(frame)
events = recogniser.finish()
"""

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from device import events
from device.align import SIZE, align
from device.camera import Frame
from device.decide import NearestNeighbours, Opinion, Verdict
from device.detect import Detection, Detector
from device.embed import Encoder
from device.events import Event
from device.quality import quality
from device.track import CONFIRM, Track, Tracker

STAGES = ("detect", "align", "embed", "decide")
Sighting = tuple[Track, Verdict | None]


class Recogniser:
    """Turns frames into events. The verdict on a track rests on the quality-weighted mean of all its embeddings so far.

    With `stills` every frame is a scene of its own (unrelated pictures): each face is seen and gone at once.
    `seconds` counts the time of each stage, `frames` and `faces` (detections) what went through.
    """

    def __init__(self, detector: Detector, encoder: Encoder, decider: NearestNeighbours, stills: bool = False):
        self.detector, self.encoder, self.decider, self.stills = detector, encoder, decider, stills
        self.frames = self.faces = 0
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self._tracker = Tracker(confirm=1 if stills else CONFIRM)
        self._opinions: dict[int, Opinion] = {}  # by track id
        self._events: list[Event] = []  # not handed out yet
        self._last: Frame | None = None

    def process(self, frame: Frame) -> tuple[list[Event], list[Sighting]]:
        """The events of one frame, and the tracks found in it with their settled verdicts (None: not yet)."""
        self._last = frame
        with self._timed("detect"):
            detections = self.detector.detect(frame.image)
        with self._timed("align"):
            crops, weights = self._crops(frame.image, detections)
        with self._timed("embed"):
            embeddings = self.encoder.embed(crops)
        with self._timed("decide"):
            sightings = self._decide(detections, embeddings, weights, frame)
            if self.stills:
                self._end(self._tracker.flush())
        self.frames += 1
        self.faces += len(detections)
        return self._handed_out(), sightings

    def finish(self) -> list[Event]:
        """The source has ended: the events that close all tracks."""
        self._end(self._tracker.flush())
        return self._handed_out()

    def summary(self, encoder: str, elapsed: float) -> dict[str, Any]:
        """tests/contracts/summary.schema.json: `encoder` is the bundle's encoder id, `elapsed` wall time in seconds."""
        return {
            "frames": self.frames,
            "fps": round(self.frames / elapsed, 2) if elapsed else 0.0,
            "ms": {stage: round(1000 * seconds / max(self.frames, 1), 2) for stage, seconds in self.seconds.items()},
            "faces": self.faces,
            "backend": self.encoder.backend,
            "encoder": encoder,
        }

    def _crops(self, image: np.ndarray, detections: list[Detection]) -> tuple[np.ndarray, list[float]]:
        crops = np.zeros((len(detections), SIZE, SIZE, 3), np.uint8)
        for crop, detection in zip(crops, detections, strict=True):
            crop[:] = align(image, detection.landmarks)
        # A face of quality 0 still counts where there is no better one.
        return crops, [max(quality(detection, crop), 0.01) for detection, crop in zip(detections, crops, strict=True)]

    def _decide(self, detections: list[Detection], embeddings: np.ndarray, weights: list[float], frame: Frame) -> list[Sighting]:
        tracks, ended = self._tracker.update(detections, frame)
        for track, embedding, weight in zip(tracks, embeddings, weights, strict=True):
            track.evidence.add(embedding, weight)
            if track.id:
                opinion = self._opinions.setdefault(track.id, Opinion())
                news = opinion.update(self.decider.decide(track.evidence.embedding))
                if news and opinion.settled:
                    self._events.append(events.judged(news, track, opinion.settled, frame))
        self._end(ended)
        return [(track, self._opinions[track.id].settled if track.id else None) for track in tracks]

    def _end(self, tracks: list[Track]) -> None:
        for track in tracks:
            opinion = self._opinions.pop(track.id, None)
            if opinion and opinion.settled and self._last:
                self._events.append(events.gone(track, opinion.settled, self._last))

    def _handed_out(self) -> list[Event]:
        handed, self._events = self._events, []
        return handed

    @contextlib.contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[stage] += time.perf_counter() - start
