"""Writes the visits of a recogniser into its journal (device/journal.py)."""

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np

from device.bundle import Bundle
from device.camera import Frame
from device.detect import Detection
from device.events import Event
from device.journal import DAYS, Journal, make_folder
from device.program import InputError, StoredError
from device.track import Track

TOLD = ("seen", "changed", "gone")
SWEEP = 600.0  # seconds between two looks for visits whose time is over


class Recorder:
    """Writes into the journal in `folder`, by a thread of its own: a slow disk never holds up a camera.

    It hears of crops as a pipeline.Keeper, and of events by `note`. `crops`: the pictures are kept too. `notify` is told, once, that
    the journal cannot be written. Raises InputError where another recogniser writes to it.
    """

    def __init__(
        self,
        folder: Path,
        used: Bundle,
        detector: str,
        notify: Callable[..., None],
        key: bytes | None = None,
        days: float = DAYS,
        crops: bool = False,
    ):
        self._folder, self._notify, self._days, self._crops = Path(folder), notify, days, crops
        self._open = lambda: Journal(self._folder, key, create=True)
        make_folder(self._folder)
        self._lock = _lock(self._folder)
        self._run = f"{time.time_ns():x}"
        self._best: WeakKeyDictionary[Track, tuple[float, np.ndarray]] = WeakKeyDictionary()
        self._ended: dict[int, tuple[np.ndarray | None, np.ndarray | None]] = {}
        self._queue: list[tuple[Event, np.ndarray | None, np.ndarray | None]] = []
        self._changed, self._closing = threading.Condition(), False
        self._failure: str | None = None
        with self._open() as journal:
            journal.made_by(used.encoder, detector)
            journal.end_open()
            journal.expire(days)
        self._thread = threading.Thread(target=self._work, name="journal", daemon=True)
        self._thread.start()

    def take(self, track: Track, frame: Frame, detection: Detection, crop: np.ndarray, quality: float) -> None:
        """Offer a crop of a track: RGB uint8 [112, 112, 3]."""
        if track not in self._best or self._best[track][0] < quality:
            self._best[track] = quality, crop

    def end(self, track: Track) -> None:
        """The track has ended; its event "gone" follows."""
        self._ended[track.id] = self._face(track)

    def note(self, events: Iterable[Event]) -> None:
        """Write down what has happened."""
        for event in events:
            if event["event"] not in TOLD:
                continue
            number = event["track"]
            face = self._ended.get(number) or next((self._face(track) for track in self._best if track.id == number), (None, None))
            with self._changed:
                self._queue.append((event, *face))
                self._changed.notify()
        self._ended.clear()  # what ended has been told, or nothing was ever told of it
        failure, self._failure = self._failure, None
        if failure:
            self._notify("journal-failed", failure, "error")

    def close(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(5.0)
        os.close(self._lock)

    def _face(self, track: Track) -> tuple[np.ndarray | None, np.ndarray | None]:
        """What the track looks like: embedding and crop."""
        embedding = track.evidence.embedding if track.evidence.crops else None
        crop = self._best[track][1] if self._crops and track in self._best else None
        return embedding, crop

    def _work(self) -> None:
        told = False
        due = time.monotonic() + SWEEP
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._closing, SWEEP)
                batch, self._queue = self._queue, []
                closing = self._closing
            try:
                if batch or time.monotonic() > due:
                    with self._open() as journal:
                        for entry in batch:
                            journal.write(self._run, *entry)
                        if time.monotonic() > due:
                            due = time.monotonic() + SWEEP
                            journal.expire(self._days)
                told = False
            except (StoredError, InputError) as error:
                if not told:
                    self._failure = f"what was seen is not in the journal: {error}"
                told = True
            if closing:
                return


def _lock(folder: Path) -> int:
    """Make sure that no other recogniser writes here; the lock goes with the process."""
    handle = os.open(folder / "lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        raise InputError(f"another recogniser writes to the journal {folder}", "end it, or name another folder with --journal") from error
    return handle
