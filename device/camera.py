"""Frames from a camera, a video, a picture, a folder of pictures or a stream's URL, all read in the same way.

Videos and cameras are read by a thread of their own. A file is read whole and a little ahead; of what a camera or a stream
gives, the newest frame alone is kept, so that a slow consumer sees the present.
"""

import contextlib
import io
import itertools
import logging
import os
import re
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from importlib import util
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np

os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # read by OpenCV when the first video is opened
import cv2

from device.program import InputError, MissingError, OmokageError
from device.quiet import quiet

PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}
SLIDES = 1.0  # pictures count as frames of a video with so many of them a second
UNKNOWN_FPS = 25.0  # taken for a video that does not tell
TIMEOUT = 10_000  # milliseconds after which a stream that sends nothing has ended
LARGEST = 8192  # pixels: the longest side, and its square the most pixels, that are read as they are
REDUCED = {1: cv2.IMREAD_COLOR, 2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}
AHEAD = 4  # frames of a file that lie ready
BACKOFF = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)  # seconds before a lost camera is opened again, the last one for good
LATE = 1.0  # seconds that a video may lag behind its pace and still catch up
STEADY = 10.0  # seconds for which a camera must work before the back-off starts anew
TICK = 0.25  # seconds between two calls of `waiting`
BROKEN = 5  # pictures in a row that cannot be read are the end ...
SILENCE = 1.0  # ... and so is one for which it took so many seconds to say so
STUCK = 60.0  # seconds without a sign of life after which the reading thread hangs in a driver
PI_SIZE = 640, 480  # of the Raspberry Pi's camera, as V4L2 cameras have it

cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture: BGR uint8 [H, W, 3], its number from 0, its time (UTC), and where it is from (in a folder: its file)."""

    image: np.ndarray
    index: int
    time: datetime
    source: str


@dataclass(frozen=True)
class Notice:
    """Something that happened to a camera: `code` "camera-lost" or "camera-back", and a line about it."""

    code: str
    message: str


Notify = Callable[[str, str], None]  # takes the code and the message of a Notice


class Source:
    """Frames in their order. Iterate over it once; close it, or use it as a context manager.

    `live` sources are read at the camera's pace and their frames carry the time of reading; those of a file carry the
    time at which it was opened plus index / fps. `fps` is None where a live source does not tell it. `stills`: the frames
    are pictures that have nothing to do with one another.
    """

    def __init__(
        self,
        name: str,
        images: Iterable[tuple[str, np.ndarray]],
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


class Capture(Protocol):
    """What of cv2.VideoCapture is used."""

    def read(self) -> tuple[bool, np.ndarray | None]: ...

    def get(self, what: int) -> float: ...

    def release(self) -> None: ...


def open_camera(number: int, notify: Notify | None = None, waiting: Callable[[], None] = lambda: None) -> Source:
    """The camera `number`, as the system counts them from 0: V4L2, or the Raspberry Pi's own where picamera2 is installed.

    `notify` and `waiting` as in `open_source`. Raises MissingError where the camera is not there or gives nothing.
    """
    if number < 0:
        raise InputError(f"there is no camera {number}", "cameras are counted from 0")
    present = ", ".join(sorted(path.name.removeprefix("video") for path in Path("/dev").glob("video*"))) or "none"
    missing = MissingError(f"camera {number} gives no picture", f"check its plug and number (cameras here: {present})")
    openers: list[Callable[[], Capture]] = [lambda: _capture(number)]
    if util.find_spec("picamera2"):
        openers.append(lambda: PiCapture(number))
    return _video(openers, f"camera {number}", missing, True, notify, waiting)


def open_source(spec: str, notify: Notify | None = None, waiting: Callable[[], None] = lambda: None) -> Source:
    """The frames of a video, a picture or a folder of pictures (by name), or of an rtsp or http URL.

    With `notify` a stream that breaks off is opened again and again, and that is told, once, by notify(code, message);
    without it the stream has ended. `waiting` is called a few times a second while no frame comes. Both are called by
    whoever iterates. Raises InputError (no such file, not readable, an empty folder) or MissingError (a URL that does not
    answer).
    """
    if "://" in spec:
        name = re.sub(r"//[^/]*@", "//", spec.partition("?")[0])  # without passwords
        timeouts = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, TIMEOUT, cv2.CAP_PROP_READ_TIMEOUT_MSEC, TIMEOUT]
        missing = MissingError(f"{name} gives no picture", "check the address and the network")
        return _video([lambda: _capture(spec, cv2.CAP_FFMPEG, timeouts)], name, missing, True, notify, waiting)
    if not spec:
        raise InputError("the source has no name", "name a file, a folder or a URL")
    path = Path(spec)
    if path.is_dir():
        return _slides(spec, pictures_in(path))
    if path.suffix.lower() in PICTURES:
        return Source(spec, [(spec, read_picture(path))], fps=SLIDES, stills=True)
    _check_file(path)
    unreadable = InputError(f"{path} cannot be read as a video or a picture", "convert it to MP4 or JPEG")
    return _video([lambda: _capture(str(path))], spec, unreadable, live=False)


def looped(spec: str) -> Source:
    """The frames of a video again and again, at its own pace and with the time of now, as if a camera saw it.

    Raises InputError for what has no pace of its own.
    """
    with open_source(spec) as once:
        if once.live or once.stills:
            raise InputError(f"{spec} cannot be played again and again", "name a video")
        pause = 1 / (once.fps or UNKNOWN_FPS)

    def images() -> Iterator[tuple[str, np.ndarray]]:
        due = time.monotonic()
        while True:
            with open_source(spec) as source:
                for frame in source:
                    time.sleep(max(due - time.monotonic(), 0))
                    due = max(due, time.monotonic() - LATE) + pause
                    yield frame.source, frame.image

    return Source(spec, images(), live=True, fps=1 / pause)


def read_picture(path: Path) -> np.ndarray:
    """A picture as BGR uint8 [H, W, 3], turned as its EXIF data says. Raises InputError.

    A JPEG with a side longer than LARGEST is read at a half, a quarter or an eighth of its size, which takes as much less
    memory; another picture of so many pixels is refused.
    """
    path = Path(path)
    _check_file(path)
    with path.open("rb") as file:
        flag = _flag(file, str(path), LARGEST**2)
    with quiet():
        try:
            image = cv2.imread(str(path), flag)
        except cv2.error:  # more pixels than OpenCV reads
            image = None
    return _readable(image, str(path))


def decode_picture(content: bytes, name: str, most: int = LARGEST**2) -> np.ndarray:
    """The same of a picture that somebody sent under this `name`: JPEG or PNG, of `most` pixels. Raises InputError for all else."""
    if not content.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")):
        raise InputError(f"{name} is neither JPEG nor PNG", "convert it to one of them")
    flag = _flag(io.BytesIO(content), name, most)
    with quiet():
        try:
            image = cv2.imdecode(np.frombuffer(content, np.uint8), flag)
        except cv2.error:
            image = None
    return _readable(image, name)


def _flag(file: BinaryIO, name: str, most: int) -> int:
    """How OpenCV is to read a picture. Raises InputError where it has more than `most` pixels even so."""
    longest, pixels, reducible = _announced(file)
    factor = next((factor for factor in REDUCED if longest / factor <= LARGEST), 8) if reducible else 1
    if pixels / factor**2 > most:
        raise InputError(f"{name} has {pixels / 1e6:.0f} million pixels, too many", f"shrink it to {int(most**0.5)} a side")
    if factor > 1:
        logging.getLogger("omokage").warning("%s has %.0f million pixels, it is read at 1/%d of its size", name, pixels / 1e6, factor)
    return REDUCED[factor]


def _readable(image: np.ndarray | None, name: str) -> np.ndarray:
    if image is None:
        raise InputError(f"{name} cannot be read as a picture", "convert it to JPEG or PNG")
    return image


def _announced(file: BinaryIO) -> tuple[int, int, bool]:
    """Longer side and pixels of a picture as its header says (0 where it is neither JPEG nor PNG), and whether it is a JPEG."""
    start = file.read(24)
    if start[:8] == b"\x89PNG\r\n\x1a\n" and len(start) == 24:
        width, height = struct.unpack(">II", start[16:])
        return max(width, height), width * height, False
    file.seek(2)
    while start[:2] == b"\xff\xd8" and len(head := file.read(4)) == 4 and head[0] == 0xFF:
        kind, length = head[1], struct.unpack(">H", head[2:])[0]
        if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC) and len(size := file.read(5)) == 5:  # a start of frame
            height, width = struct.unpack(">HH", size[1:])
            return max(width, height), width * height, True
        file.seek(max(length - 2, 0), os.SEEK_CUR)
    return 0, 0, False


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


class PiCapture:
    """The Raspberry Pi's own camera through picamera2, which only Raspberry Pi OS has (apt install python3-picamera2)."""

    def __init__(self, number: int):
        from picamera2 import Picamera2

        self._camera = Picamera2(number)
        # picamera2 names formats by the byte order of a little-endian word: RGB888 is BGR in memory, OpenCV's order.
        self._camera.configure(self._camera.create_video_configuration(main={"size": PI_SIZE, "format": "RGB888"}))
        self._camera.start()

    def read(self) -> tuple[bool, np.ndarray | None]:
        return True, self._camera.capture_array("main")

    def get(self, what: int) -> float:
        return 0.0

    def release(self) -> None:
        self._camera.stop()
        self._camera.close()


def _capture(*args: Any) -> cv2.VideoCapture:
    with quiet():
        return cv2.VideoCapture(*args)


def _video(
    openers: Sequence[Callable[[], Capture]],
    name: str,
    missing: OmokageError,
    live: bool,
    notify: Notify | None = None,
    waiting: Callable[[], None] = lambda: None,
) -> Source:
    """The frames of what the first of `openers` opens that gives a picture; raises `missing` where none does."""
    opened = _open(openers)
    if opened is None:
        raise missing
    capture, first = opened
    fps, count = capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)
    live = live and not count > 0  # a video at a URL has an end, a stream has none
    known = 1 <= fps <= 1000  # 0 and 90000 mean that nobody knows; not a number fails as well
    grabber = Grabber(name, capture, first, (lambda: _open(openers)) if live and notify else None, newest=live)
    images = ((name, image) for image in grabber.images(notify or (lambda code, message: None), waiting))
    return Source(name, images, live, fps if known else None if live else UNKNOWN_FPS, close=grabber.close)


def _open(openers: Iterable[Callable[[], Capture]]) -> tuple[Capture, np.ndarray] | None:
    """The first capture that gives a picture, and the picture."""
    for opener in openers:
        with contextlib.suppress(Exception):  # a camera's library may raise anything; what counts is the picture
            capture = opener()
            image = _read(capture)
            if image is not None:
                return capture, image
            capture.release()
    return None


def _read(capture: Capture) -> np.ndarray | None:
    """The next picture, or None: it has ended, or is broken."""
    try:
        return capture.read()[1]
    except Exception:  # cv2.error, or whatever a camera's library raises
        return None


class Grabber:
    """A thread that reads `capture` for the one who iterates over `images`.

    With `newest` a picture that nobody took is dropped when the next one comes. `reopen` is called, with back-off, after
    the capture has ended; without it that is the end.
    """

    def __init__(
        self, name: str, capture: Capture, first: np.ndarray, reopen: Callable[[], tuple[Capture, np.ndarray] | None] | None, newest: bool
    ):
        self.name = name
        self._capture, self._first, self._reopen, self._newest = capture, first, reopen, newest
        self._ready: deque[np.ndarray | Notice] = deque()
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._alive = time.monotonic()  # the thread's last sign of life
        self._thread: threading.Thread | None = None

    def images(self, notify: Notify, waiting: Callable[[], None]) -> Iterator[np.ndarray]:
        """BGR uint8 [H, W, 3] as they come; tells notices on the way.

        `waiting` is not called while the thread hangs: nothing in this process can help then, and the system's watchdog,
        which is no longer fed, starts it anew (picamera2's capture_array may never return: its issues 794 and 962).
        """
        self._thread = threading.Thread(target=self._run, name=f"read {self.name}", daemon=True)
        self._thread.start()
        while (item := self._take(waiting)) is not None:
            if isinstance(item, Notice):
                notify(item.code, item.message)
            else:
                yield item

    def close(self) -> None:
        self._stop.set()
        with self._changed:
            self._changed.notify_all()
        if self._thread is None:
            self._capture.release()
        else:
            self._thread.join(2.0)  # one that hangs is left to itself

    def _take(self, waiting: Callable[[], None]) -> np.ndarray | Notice | None:
        """The next item; None at the end."""
        with self._changed:
            while not self._ready:
                if self._stop.is_set():
                    return None
                if not self._changed.wait(TICK) and time.monotonic() - self._alive < STUCK:
                    waiting()
            item = self._ready.popleft()
            self._changed.notify_all()
            return item

    def _run(self) -> None:
        try:
            for item in self._items():
                self._put(item)
        finally:
            self._capture.release()
            with self._changed:
                self._stop.set()
                self._changed.notify_all()

    def _put(self, item: np.ndarray | Notice) -> None:
        with self._changed:
            if self._newest and self._ready and not isinstance(item, Notice) and not isinstance(self._ready[-1], Notice):
                self._ready.pop()
            while not self._newest and len(self._ready) >= AHEAD and not self._stop.is_set():
                self._changed.wait()
            self._ready.append(item)
            self._changed.notify_all()

    def _items(self) -> Iterator[np.ndarray | Notice]:
        """Pictures, and notices when the camera is lost and when it is back."""
        tries = 0  # to open it again, since it last worked for a while
        while True:
            opened = time.monotonic()
            yield from self._pictures()
            if self._reopen is None or self._stop.is_set():
                return
            lost = time.monotonic()
            tries = 0 if lost - opened > STEADY else tries
            yield Notice("camera-lost", f"{self.name} gives no picture any more; it is opened again until it does")
            self._capture.release()
            again = None
            while again is None:
                if self._stop.wait(BACKOFF[min(tries, len(BACKOFF) - 1)]):
                    return
                tries += 1
                self._alive = time.monotonic()
                again = self._reopen()
            self._capture, self._first = again
            yield Notice("camera-back", f"{self.name} is back after {time.monotonic() - lost:.0f} s")

    def _pictures(self) -> Iterator[np.ndarray]:
        """The pictures of `_capture` until it ends."""
        image: np.ndarray | None = self._first
        while image is not None and not self._stop.is_set():
            self._alive = time.monotonic()
            yield image
            image = self._next()

    def _next(self) -> np.ndarray | None:
        """The next picture; one that is broken is passed over, several in a row or a long silence are the end."""
        start = time.monotonic()
        for _ in range(BROKEN):
            image = _read(self._capture)
            if image is not None or time.monotonic() - start > SILENCE:
                return image
        return None


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise InputError(f"{path} is not there" if not path.exists() else f"{path} is not a file", "check the name")
    if not os.access(path, os.R_OK):
        raise InputError(f"{path} may not be read", "change its permissions")
