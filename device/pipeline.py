"""The way of a frame: detect, align, embed, track, decide. Usable without the program.

recogniser = Recogniser(open_detector(), encoder, NearestNeighbours(embeddings, names, threshold), like=used.threshold())
for frame in source:
    events, sightings = recogniser.process(frame)
events = recogniser.finish()
"""

import contextlib
import logging
import time
from collections.abc import Collection, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, Protocol

import numpy as np

from device import events
from device.align import SIZE, align
from device.camera import Frame
from device.decide import Decider, Verdict, one_name_each
from device.detect import Detection, Detector
from device.embed import Encoder
from device.events import Event
from device.quality import USEFUL, Quality, assess
from device.track import CONFIRM, Cuts, Evidence, Track, Tracker
from device.visitors import Stranger

STAGES = ("detect", "align", "embed", "decide")
INTERVAL = 3  # a face that shows for five frames is found in its third, fourth and fifth at the latest: enough to be confirmed
LONGEST = timedelta(seconds=0.2)  # between two looks, however slow the source is
RECHECK = timedelta(seconds=1)  # between two crops of a settled track
FAIR = 0.5  # share of its mean quality that the next crop of a settled track should have
NO_CROPS = np.zeros((0, SIZE, SIZE, 3), np.uint8)
Sighting = tuple[Track, Verdict | None]


class Memory(Protocol):
    """Gives strangers a number that stays (device/unknowns.py)."""

    def meet(self, evidence: Evidence, moment: datetime, others: Collection[int]) -> Stranger | None: ...

    def part(self, stranger: Stranger, evidence: Evidence, moment: datetime, known: bool) -> None: ...

    def poll(self) -> None: ...


class Keeper(Protocol):
    """Is offered the crops of faces (device/harvest.py, device/journal.py)."""

    def take(self, track: Track, frame: Frame, detection: Detection, crop: np.ndarray, quality: float) -> None:
        """A crop of a track that was embedded: RGB uint8 [112, 112, 3]."""
        ...

    def end(self, track: Track) -> None:
        """The track has ended, and its event "gone" follows."""
        ...


class Recogniser:
    """Turns frames into events.

    Faces are looked for in every `interval`-th frame while all is settled, and in every frame while something is new, missed or
    in doubt. A track is embedded in every look until its verdict is settled and then every RECHECK; the verdict rests on the
    quality-weighted mean of its embeddings. `like` is the cosine from which two crops may show one person (device/track.py). With
    `stills` every frame is a scene of its own (unrelated pictures): each face is seen and gone at once.

    `memory`, where there is one, is asked about strangers. `decider` may be replaced between two frames: everybody is judged anew.
    `seconds` counts the time of each stage; `frames`, `looks`, `faces` (detections) and `crops` (embedded) what went through.
    """

    def __init__(
        self,
        detector: Detector,
        encoder: Encoder,
        decider: Decider,
        stills: bool = False,
        interval: int = INTERVAL,
        like: float | None = None,
        recheck: timedelta = RECHECK,
        memory: Memory | None = None,
    ):
        self.detector, self.encoder, self.stills = detector, encoder, stills
        self.interval, self.recheck = 1 if stills else interval, recheck
        self.decider = decider
        self._memory = memory
        self.frames = self.looks = self.faces = self.crops = 0
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self.keepers: list[Keeper] = []  # who is offered the crops
        self._like = like
        self._tracker = Tracker(1 if stills else CONFIRM, like)
        self._cuts = Cuts()
        self._looked: Frame | None = None  # the frame of the last look ...
        self._sightings: list[Sighting] = []  # ... and what was found in it
        self._last: Frame | None = None
        self._events: list[Event] = []  # not handed out yet

    @property
    def decider(self) -> Decider:
        return self._decider

    @decider.setter
    def decider(self, decider: Decider) -> None:
        self._decider, self._decider_is_new = decider, True

    def process(self, frame: Frame) -> tuple[list[Event], list[Sighting]]:
        """The events of one frame, and the tracks in it with their settled verdicts (None: not yet).

        Raises ValueError for an image that is none; the next frame may be processed as if it had not been there.
        """
        image = frame.image
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise ValueError(f"a frame is uint8 [H, W, 3], not {image.dtype} {list(image.shape)}")
        self._last = frame
        with self._timed("decide"):
            if self._memory:
                self._memory.poll()
            self.embed(NO_CROPS)  # an encoder that watches over a worker wants to hear of every frame
            cut = not self.stills and self._cuts(image)
            if cut:
                self._end(self._tracker.flush())
            if cut or self._is_look(frame):
                self._look(frame)
            if self.stills:
                self._end(self._tracker.flush())
        self.frames += 1
        return self._handed_out(), self._sightings

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
            "looks": self.looks,
            "interval": self.interval,
            "crops": self.crops,
            "detector": {"name": self.detector.name, "size": getattr(self.detector, "size", None)},
            "backend": self.encoder.backend,
            "encoder": encoder,
        }

    def align(self, image: np.ndarray, detection: Detection) -> tuple[np.ndarray, Quality]:
        """The crop of a face, RGB uint8 [112, 112, 3], and its quality."""
        with self._timed("align"):
            crop = align(image, detection.landmarks)
            return crop, assess(detection, crop)

    def embed(self, crops: np.ndarray) -> np.ndarray:
        """The embeddings of RGB crops uint8 [N, 112, 112, 3]: float32 unit rows [N, D]."""
        self.crops += len(crops)
        with self._timed("embed"):
            return self.encoder.embed(crops)

    def _is_look(self, frame: Frame) -> bool:
        """Whether faces are to be looked for in `frame`."""
        last = self._looked
        if last is None or self._decider_is_new or not self._tracker.calm or not all(track.opinion.firm for track, _ in self._sightings):
            return True
        return frame.index - last.index >= self.interval or abs(frame.time - last.time) >= LONGEST

    def _look(self, frame: Frame) -> None:
        with self._timed("detect"):
            detections = self.detector.detect(frame.image)
        faces = _Faces(self, frame.image, detections)
        tracks, ended = self._tracker.update(detections, frame, None if self.stills else faces.embed)
        faces.embed([j for j, track in enumerate(tracks) if self._wants_crop(track, faces, j, frame)])
        holders = {verdict.name: track.id for track, verdict in self._sightings if verdict and verdict.name}
        for j, track in enumerate(tracks):
            self._learn(track, faces, j, frame)
            free = track.opinion.refused is not None and track.opinion.refused not in holders  # the name that it did not get
            self._judge(track, anew=j in faces.embeddings or self._decider_is_new or free)
        confirmed = [track for track in tracks if track.id]
        one_name_each([(track.id, track.opinion) for track in confirmed], holders)
        for track in confirmed:
            self._remember(track, confirmed, frame)
            self._tell(track, frame)
        self._end(ended)
        self._looked, self._sightings = frame, [(track, track.opinion.settled if track.id else None) for track in tracks]
        self._decider_is_new = False
        self.looks += 1
        self.faces += len(detections)

    def _wants_crop(self, track: Track, faces: "_Faces", j: int, frame: Frame) -> bool:
        """Whether the crop of face `j` is worth the time: always until the verdict is settled, then now and then a fair one."""
        if not track.opinion.firm or track.checked is None:
            return True
        since = abs(frame.time - track.checked)
        fair = since >= self.recheck and faces.quality(j).value >= FAIR * track.evidence.quality
        return fair or since >= 2 * self.recheck

    def _learn(self, track: Track, faces: "_Faces", j: int, frame: Frame) -> None:
        """Add what is known of face `j` of this frame to the evidence of its track."""
        evidence, embedding = track.evidence, faces.embeddings.get(j)
        if embedding is not None:
            odd = evidence.crops > 0 and self._like is not None and float(embedding @ evidence.embedding) < self._like
            evidence.add(embedding, faces.quality(j))
            track.checked = None if odd else frame.time  # what does not fit in is looked at again
            for keeper in self.keepers:
                keeper.take(track, frame, *faces.picture(j))
        elif j in faces.poor:
            evidence.see(faces.quality(j))

    def _judge(self, track: Track, anew: bool) -> None:
        """Give the track's opinion another verdict, where there is something new to go by or nothing to go by at all."""
        evidence = track.evidence
        if evidence.crops and anew:
            track.opinion.update(self._decider.decide(evidence.embedding))
        elif evidence.best and not evidence.crops:
            why = f"its pictures are {evidence.best.fault}"
            track.opinion.update(Verdict("unknown", None, None, self._decider.threshold, why=why))

    def _remember(self, track: Track, others: Sequence[Track], frame: Frame) -> None:
        """Find out which stranger this is, as soon as it is settled that it is one. Two faces of a frame never share a number."""
        verdict = track.opinion.settled
        if self._memory and track.stranger is None and verdict is not None and verdict.stranger:
            numbers = {other.stranger.number for other in others if other.stranger}
            track.stranger = self._memory.meet(track.evidence, frame.time, numbers)

    def _tell(self, track: Track, frame: Frame) -> None:
        """An event where the settled verdict is another than the one that was told, and a line in the log that says why."""
        verdict = track.opinion.settled
        if verdict is None:
            return
        if track.told is None or not verdict.agrees(track.told):
            self._events.append(events.judged("changed" if track.told else "seen", track, verdict, frame))
            logging.getLogger("omokage").info(events.reason(track, verdict))
        track.told = verdict

    def _end(self, tracks: list[Track]) -> None:
        for track in tracks:
            track.opinion.conclude()
            if self._memory and track.stranger and track.opinion.settled:
                self._memory.part(track.stranger, track.evidence, track.last_time, known=track.opinion.settled.name is not None)
            for keeper in self.keepers:
                keeper.end(track)
            if self._last and track.opinion.settled:
                self._tell(track, self._last)
                self._events.append(events.gone(track, track.opinion.settled, self._last))

    def _handed_out(self) -> list[Event]:
        handed, self._events = self._events, []
        return handed

    @contextlib.contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        """Count the time of the block for `stage`, without that of the stages within it."""
        start, within = time.perf_counter(), sum(self.seconds.values())
        try:
            yield
        finally:
            self.seconds[stage] += time.perf_counter() - start - (sum(self.seconds.values()) - within)


class _Faces:
    """The faces of one frame: each is aligned and embedded when it is first asked for, and never twice."""

    def __init__(self, recogniser: Recogniser, image: np.ndarray, detections: Sequence[Detection]):
        self._recogniser, self._image, self._detections = recogniser, image, detections
        self._aligned: dict[int, tuple[np.ndarray, Quality]] = {}  # by number of the detection, as all here
        self.embeddings: dict[int, np.ndarray] = {}  # float32 unit [D]
        self.poor: set[int] = set()  # those whose crop is not USEFUL

    def quality(self, j: int) -> Quality:
        return self._crop(j)[1]

    def picture(self, j: int) -> tuple[Detection, np.ndarray, float]:
        """The detection, the RGB crop and its quality, 0..1."""
        crop, quality = self._crop(j)
        return self._detections[j], crop, quality.value

    def embed(self, numbers: Sequence[int]) -> np.ndarray:
        """Embeddings of these faces: float32 unit rows [N, D], not a number where the crop is useless."""
        new = [j for j in numbers if j not in self.embeddings and j not in self.poor]
        self.poor.update(j for j in new if self.quality(j).value < USEFUL)
        useful = [j for j in new if j not in self.poor]
        if useful:
            rows = self._recogniser.embed(np.stack([self._crop(j)[0] for j in useful]))
            self.embeddings.update(zip(useful, rows, strict=True))
        nothing = np.full(self._recogniser.encoder.dimension, np.nan, np.float32)
        return np.stack([self.embeddings.get(j, nothing) for j in numbers]) if len(numbers) else nothing[None][:0]

    def _crop(self, j: int) -> tuple[np.ndarray, Quality]:
        if j not in self._aligned:
            self._aligned[j] = self._recogniser.align(self._image, self._detections[j])
        return self._aligned[j]
