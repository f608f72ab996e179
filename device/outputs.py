"""What recognize.py shows and keeps besides its events: a window, an annotated video, snapshots."""

import contextlib
import os
import shutil
import sys
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

import cv2
import numpy as np

from device import draw
from device.camera import Frame, Source
from device.events import Event
from device.program import InputError, MissingError

LIVE_FPS = 15.0  # of the video that --save writes where the camera does not tell its own
FLOOR = 64 * 2**20  # bytes that are left free on the disk: a video needs room for its index, and the system for itself
KEEP = 1000  # snapshots; older ones are deleted
TOLD = ("seen", "changed")  # events that make a snapshot
WINDOW = "Omokage"
QUIT = {ord("q"), 27}  # 27: Esc
NO_KEY = 0xFF


class NoRoom(OSError):
    """The disk is full, or nearly."""


def check_room(folder: Path) -> None:
    """Raises NoRoom where less than FLOOR is free on the disk of `folder`."""
    free = shutil.disk_usage(folder).free
    if free < FLOOR:
        raise NoRoom(f"only {free / 2**20:.0f} MB are free, and {FLOOR / 2**20:.0f} are left to the system")


class Film:
    """The annotated video of --save. It appears under its name when it is closed, and not at all if the block fails.

    A live source has no steady rate: a frame is written as often as its time asks, so that the video runs at true speed. Gaps
    of more than a second are left out: the clock may have been set.
    """

    def __init__(self, path: Path, source: Source):
        self.path = path
        self._fps = source.fps or LIVE_FPS
        self._live = source.live
        self._last: datetime | None = None
        self._owed = 0.0  # copies of the next frame
        self._stack = contextlib.ExitStack()
        self._write = self._stack.enter_context(draw.recording(path, self._fps))

    def take(self, frame: Frame, picture: np.ndarray) -> None:
        """Add the annotated `picture` (BGR [H, W, 3]) of a frame. Raises NoRoom."""
        check_room(self.path.parent)
        gap = (frame.time - self._last).total_seconds() if self._last and self._live else 1 / self._fps
        self._owed += self._fps * min(max(gap, 0.0), 1.0)
        self._last, copies = frame.time, round(self._owed)
        for _ in range(copies):
            self._write(picture)
        self._owed -= copies

    def close(self) -> None:
        self._stack.close()

    def __enter__(self) -> "Film":
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.__exit__(*error)  # type: ignore[arg-type]


class Snapshots:
    """The pictures of --snapshots: one JPEG for each event that tells of a verdict, for the owner's eyes alone.

    They are called TIME-TRACK-DECISION.jpg after the event; a name may not be fit for a file, and is in the event.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            check_room(folder)
        except OSError as error:
            raise InputError(f"cannot write snapshots to {folder} ({error.strerror or error})", "name another folder") from error
        if not os.access(folder, os.W_OK):
            raise InputError(f"cannot write snapshots to {folder}", "name a folder that may be written to")

    def take(self, news: Iterable[Event], picture: np.ndarray) -> None:
        """Write the annotated `picture` (BGR [H, W, 3]) of a frame once for each of its events. Raises OSError."""
        jpeg = cv2.imencode(".jpg", picture)[1].tobytes()
        for event in news:
            check_room(self.folder)
            stamp = event["time"].replace("-", "").replace(":", "")
            path = self.folder / f"{stamp}-{event['track']}-{event['decision']}.jpg"
            try:
                path.touch(mode=0o600)
                path.write_bytes(jpeg)
            except OSError:
                path.unlink(missing_ok=True)
                raise
        for old in sorted(self.folder.glob("*Z-*-*.jpg"))[:-KEEP]:  # their names begin with the time
            old.unlink(missing_ok=True)


class Window:
    """The window of --show. Raises MissingError where none can be opened."""

    def __init__(self) -> None:
        if not cv2.currentUIFramework():
            raise MissingError("this OpenCV cannot open windows", "pip install opencv-python in place of opencv-python-headless")
        if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            raise MissingError("there is no screen to show a window on", "use --save VIDEO, or set $DISPLAY")

    def show(self, picture: np.ndarray, wait: bool) -> bool:
        """Show `picture`, with `wait` until a key is pressed. Returns whether to go on."""
        cv2.imshow(WINDOW, picture)
        while True:
            key = cv2.waitKey(50 if wait else 1) & 0xFF
            if key in QUIT or cv2.getWindowProperty(WINDOW, cv2.WND_PROP_VISIBLE) < 1:
                return False
            if key != NO_KEY or not wait:
                return True
