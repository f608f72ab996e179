"""What a recogniser sees, for those who watch: a Unix socket in the journal's folder, from which pages fetch annotated pictures.

Nothing is drawn or encoded while nobody watches, and what is goes through the socket alone, never to a disk. One line is asked:

live      pictures from now on, each a length (4 bytes, big-endian) and a JPEG
WORD      what `answers` has for that word, and the end (device/web asks for "health" and "metrics")
"""

import contextlib
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import cv2
import numpy as np

from device import draw
from device.pipeline import Sighting
from device.program import InputError

RATE = 5.0  # pictures a second, at most
LARGEST = 640, 480  # pixels
QUALITY = 70  # of the JPEG
PAGES = 4  # that may be connected at once; any number of viewers can watch through one of them
SLOW = 5.0  # seconds after which a reader that takes nothing is let go


class Live:
    """Serves at the socket `path`. `offer` every frame; it takes no time while nobody watches or the last one was just now.

    Raises InputError where the socket cannot be made.
    """

    def __init__(self, path: Path, answers: Mapping[str, Callable[[], bytes]] | None = None, rate: float = RATE):
        self._path, self._answers, self._pause = Path(path), dict(answers or {}), 1 / rate
        self._due = 0.0
        self._watching = 0
        self._number, self._picture = 0, b""
        self._changed, self._closed = threading.Condition(), False
        self._places = threading.Semaphore(PAGES)
        self._socket = _listening(self._path)
        threading.Thread(target=self._accept, name="live", daemon=True).start()

    def offer(self, image: np.ndarray, sightings: Iterable[Sighting]) -> None:
        """Show the BGR `image` uint8 [H, W, 3] with boxes and names, if anybody watches."""
        now = time.monotonic()
        if not self._watching or now < self._due:
            return
        self._due = now + self._pause
        picture = _jpeg(draw.annotate(image, sightings))
        with self._changed:
            self._number, self._picture = self._number + 1, picture
            self._changed.notify_all()

    def close(self) -> None:
        self._closed = True
        with self._changed:
            self._changed.notify_all()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes `accept`
        self._socket.close()
        self._path.unlink(missing_ok=True)

    def _accept(self) -> None:
        while not self._closed:
            try:
                peer, _ = self._socket.accept()
            except OSError:
                if not self._closed:
                    time.sleep(0.1)  # too many open files: try again
                continue
            if self._places.acquire(blocking=False):
                threading.Thread(target=self._serve, args=(peer,), name="live reader", daemon=True).start()
            else:
                peer.close()

    def _serve(self, peer: socket.socket) -> None:
        try:
            with peer, contextlib.suppress(OSError):
                peer.settimeout(SLOW)
                word = peer.recv(64).decode("ascii", "replace").strip()
                if word == "live":
                    self._stream(peer)
                elif word in self._answers:
                    peer.sendall(self._answers[word]())
        finally:
            self._places.release()

    def _stream(self, peer: socket.socket) -> None:
        with self._changed:
            self._watching += 1
            sent = self._number
        try:
            while not self._closed:
                with self._changed:
                    if self._number == sent:
                        self._changed.wait(1.0)
                    before, sent, picture = sent, self._number, self._picture
                if sent != before:
                    peer.sendall(struct.pack(">I", len(picture)) + picture)
                elif _has_gone(peer):
                    return
        finally:
            with self._changed:
                self._watching -= 1


def _jpeg(image: np.ndarray) -> bytes:
    """The BGR picture, shrunk to LARGEST at most."""
    scale = min(1.0, *(limit / side for limit, side in zip(LARGEST, image.shape[1::-1], strict=True)))
    if scale < 1:
        width, height = (max(1, round(side * scale)) for side in image.shape[1::-1])
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()


def _has_gone(peer: socket.socket) -> bool:
    """A reader says nothing after its line, so that anything to read is its end."""
    try:
        return not peer.recv(1, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False


def _listening(path: Path) -> socket.socket:
    """A socket at `path` for its owner alone; one that a recogniser left behind is replaced."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        path.unlink(missing_ok=True)
        made.bind(str(path))
        made.listen(PAGES)
    except OSError as error:
        made.close()
        raise InputError(f"the socket {path} cannot be made ({error})", "name another, shorter folder with --journal") from error
    finally:
        os.umask(mask)
    return made
