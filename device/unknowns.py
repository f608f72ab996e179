"""A stable number for each stranger: who comes again is told by it. Off unless it is asked for; device/visitors.py stores it."""

import time
from collections.abc import Callable, Collection
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from device import bundle, openset
from device.bundle import Bundle
from device.classify import Neighbours
from device.gallery import Gallery
from device.known import Judge
from device.program import OmokageError
from device.track import Evidence
from device.visitors import Stranger, Trace

DAYS = 30.0  # a stranger is remembered after the last visit, where the user asks for no other time
FAR = 0.01  # share of the strangers never seen who may get the number of another one: less is at stake than with a name
CLEAR = 0.5  # quality from which what was seen of a face is worth remembering
PATIENCE = 1.0  # seconds for which a camera may wait for others who write into the gallery
PAUSE = 30.0  # seconds after which a gallery that failed is tried again
SWEEP = 3600.0  # seconds between two looks for those whose time is over
T = TypeVar("T")


class Unknowns:
    """The strangers in the gallery at `path`, which is made where it is missing. `days`: how long to remember them after their last visit.

    `notify` gets a code, a message and a level where the gallery cannot be used. Raises what Gallery does, at the start.
    """

    def __init__(
        self,
        path: Path,
        used: Bundle,
        days: float,
        detector: str,
        notify: Callable[..., None],
        key: bytes | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._path, self._used, self._days, self._detector, self._notify, self._key = path, used, days, detector, notify, key
        self._clock = clock
        self._judge = Judge.of(used, FAR if openset.load(used) else bundle.FAR)  # a bundle without a cohort shows few rates
        self._again, self._due = -float("inf"), clock() + SWEEP
        self._file = 0
        self._gallery: Gallery | None = None
        self._there()

    def close(self) -> None:
        if self._gallery is not None:
            self._gallery.close()
        self._gallery = None

    def meet(self, evidence: Evidence, moment: datetime, others: Collection[int] = ()) -> Stranger | None:
        """Who the stranger is of whom this was seen; somebody new if need be. `others` are in the same frame.

        None where too little was seen, or the gallery cannot be used.
        """
        clear = evidence.crops and evidence.quality >= CLEAR
        return self._try(lambda gallery: self._met(gallery, evidence, moment, others)) if clear else None

    def part(self, stranger: Stranger, evidence: Evidence, moment: datetime, known: bool) -> None:
        """The visit is over; with `known` it was somebody with a name after all."""
        if known:
            self._try(lambda gallery: gallery.mistaken(stranger.number, stranger.left))
        else:
            self._try(lambda gallery: gallery.stay(stranger.number, stranger.left, self._trace(evidence), moment))

    def poll(self) -> None:
        """Now and then, forget those whose time is over."""
        if self._clock() >= self._due:
            self._due = self._clock() + SWEEP
            self._try(Gallery.expire)

    def _met(self, gallery: Gallery, evidence: Evidence, moment: datetime, others: Collection[int]) -> Stranger:
        unknown, left = gallery.visit(self._recognised(gallery, evidence, others), self._trace(evidence), moment, self._days)
        return Stranger(unknown.number, unknown.visits, left)

    def _recognised(self, gallery: Gallery, evidence: Evidence, others: Collection[int]) -> int | None:
        """By the threshold that the cohort shows for all who are remembered, as if they were enrolled."""
        embeddings, numbers = gallery.traces(self._used)
        names = [str(number) for number in numbers]
        decider, _ = self._judge.judge(embeddings, names, Neighbours(embeddings, names))
        ranked = ((int(name), score) for name, score in decider.classifier.best(evidence.embedding, 1 + len(others)))
        return next((number for number, score in ranked if number not in others and score >= decider.threshold), None)

    def _trace(self, evidence: Evidence) -> Trace:
        return Trace(evidence.embedding, self._used.encoder, self._used.preprocessing, self._detector, evidence.quality)

    def _there(self) -> Gallery:
        """The gallery, opened again where another file has come into its place."""
        if self._gallery is not None and self._gallery.version()[0] != self._file:
            self.close()
        if self._gallery is None:
            self._gallery = Gallery(self._path, create=True, key=self._key, patience=PATIENCE)
            self._file = self._gallery.version()[0]
        return self._gallery

    def _try(self, work: Callable[[Gallery], T]) -> T | None:
        """Do it, unless the gallery failed within PAUSE: the camera must not wait for it again and again."""
        if self._clock() < self._again:
            return None
        try:
            return work(self._there())
        except OmokageError as error:
            self._again = self._clock() + PAUSE
            self._notify("unknowns-failed", f"strangers are not remembered for now: {error}", "error")
            return None
