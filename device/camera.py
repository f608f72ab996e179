"""Frames from a camera, a video, a picture, a folder of pictures or a stream's URL, all read in the same way."""

import contextlib
import itertools
import logging
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # read by OpenCV when the first video is opened
import cv2

from device.program import InputError, MissingError
from device.quiet import quiet

PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}
SLIDES = 1.0  # pictures count as frames of a video with so many of them a second
UNKNOWN_FPS = 25.0  # taken for a video that does not tell
TIMEOUT = 10_000  # milliseconds after which a stream that sends nothing has ended

cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture: BGR uint8 [H, W, 3], its number from 0, its time (UTC), and where it is from (in a folder: its file)."""

    image: np.ndarray
    index: int
    time: datetime
    source: str


class Source:
    """Frames in their order. Iterate over it once; close it, or use it as a context manager.

    `live` sources are read at the camera's pace and their frames carry the time of reading; those of a file carry the
    time at which it was opened plus index / fps. `fps` is None where a live source does not tell it. `stills`: the frames
    are pictures that have nothing to do with one another.
    """

    def __init__(
        self,
        name: str,
        images: Iterator[tuple[str, np.ndarray]],
        live: bool = False,
        fps: float | None = None,
        stills: bool = False,
        close: Callable[[], None] = lambda: None,
    ):
        self.name = name
        self.live = live
        self.fps = fps
        self.stills = stills
        self._images = images
        self._close = close
        self._opened = datetime.now(timezone.utc)

    def __iter__(self) -> Iterator[Frame]:
        for index, (source, image) in enumerate(self._images):
            yield Frame(image, index, self._time(index), source)

    def _time(self, index: int) -> datetime:
        if self.live or not self.fps:
            return datetime.now(timezone.utc)
        return self._opened + timedelta(seconds=index / self.fps)

    def close(self) -> None:
        self._close()

    def __enter__(self) -> "Source":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_camera(number: int) -> Source:
    """The camera `number`, as the system counts them from 0. Raises MissingError where it is not there or gives nothing."""
    if number < 0:
        raise InputError(f"there is no camera {number}", "cameras are counted from 0")
    capture = _capture(number)
    present = ", ".join(sorted(path.name.removeprefix("video") for path in Path("/dev").glob("video*"))) or "none"
    missing = MissingError(f"camera {number} gives no picture", f"check its plug and number (cameras here: {present})")
    return _video(capture, f"camera {number}", live=True, missing=missing)


def open_source(spec: str) -> Source:
    """The frames of a video, a picture or a folder of pictures (by name), or of an rtsp or http URL.

    Raises InputError (no such file, not readable, an empty folder) or MissingError (a URL that does not answer).
    """
    if "://" in spec:
        name = re.sub(r"//[^/@]*@", "//", spec)  # without the password
        timeouts = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, TIMEOUT, cv2.CAP_PROP_READ_TIMEOUT_MSEC, TIMEOUT]
        capture = _capture(spec, cv2.CAP_FFMPEG, timeouts)
        return _video(capture, name, live=True, missing=MissingError(f"{name} gives no picture", "check the address and the network"))
    if not spec:
        raise InputError("the source has no name", "name a file, a folder or a URL")
    path = Path(spec)
    if path.is_dir():
        return _slides(spec, pictures_in(path))
    if path.suffix.lower() in PICTURES:
        return Source(spec, iter([(spec, read_picture(path))]), fps=SLIDES, stills=True)
    _check_file(path)
    unreadable = InputError(f"{path} cannot be read as a video or a picture", "convert it to MP4 or JPEG")
    return _video(_capture(str(path)), spec, live=False, missing=unreadable)


def read_picture(path: Path) -> np.ndarray:
    """A picture as BGR uint8 [H, W, 3], turned as its EXIF data says. Raises InputError."""
    path = Path(path)
    _check_file(path)
    with quiet():
        try:
            image = cv2.imread(str(path), cv2.IMREAD_COLOR)
        except cv2.error:  # more pixels than OpenCV reads
            image = None
    if image is None:
        raise InputError(f"{path} cannot be read as a picture", "convert it to JPEG or PNG")
    return image


def pictures_in(folder: Path) -> list[Path]:
    """The pictures in `folder`, sorted by name, hidden files left out. Raises InputError where there are none."""
    pictures = sorted(path for path in Path(folder).iterdir() if path.suffix.lower() in PICTURES and not path.name.startswith("."))
    if not pictures:
        raise InputError(f"{folder} holds no picture", f"name a folder with {', '.join(sorted(PICTURES))} files")
    return pictures


def _slides(name: str, paths: list[Path]) -> Source:
    """The readable pictures among `paths`; at least one must be."""

    def images() -> Iterator[tuple[str, np.ndarray]]:
        for path in paths:
            try:
                yield str(path), read_picture(path)
            except InputError as error:
                logging.getLogger("omokage").warning("skipped: %s", error.wrong)

    readable = images()
    first = next(readable, None)
    if first is None:
        raise InputError(f"no picture in {name} can be read", "convert them to JPEG or PNG")
    return Source(name, itertools.chain([first], readable), fps=SLIDES, stills=True)


def _capture(*args: Any) -> cv2.VideoCapture:
    with quiet():
        return cv2.VideoCapture(*args)


def _video(capture: cv2.VideoCapture, name: str, live: bool, missing: InputError | MissingError) -> Source:
    """The frames of an opened `capture`; raises `missing` unless the first one can be read."""
    frames = _frames(capture)
    first = next(frames, None)
    if first is None:
        capture.release()
        raise missing
    fps = capture.get(cv2.CAP_PROP_FPS)
    known = 1 <= fps <= 1000  # 0 and 90000 mean that nobody knows; not a number fails as well
    images = ((name, image) for image in itertools.chain([first], frames))
    return Source(name, images, live, fps if known else None if live else UNKNOWN_FPS, close=capture.release)


def _frames(capture: cv2.VideoCapture) -> Iterator[np.ndarray]:
    """What `capture` gives until it ends or fails."""
    with contextlib.suppress(cv2.error):
        while (image := capture.read()[1]) is not None:
            yield image


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise InputError(f"{path} is not there" if not path.exists() else f"{path} is not a file", "check the name")
    if not os.access(path, os.R_OK):
        raise InputError(f"{path} may not be read", "change its permissions")
