"""The live view: one stream from the recogniser's socket for any number of viewers, and none where nobody watches."""

import asyncio
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path

VIEWERS = 12
AGAIN = 1.0  # seconds before the recogniser is looked for again
LARGEST = 4 * 2**20  # bytes of a picture
QUIET = 15.0  # seconds without a picture after which viewers are let go: a browser shows that, and asks again
BOUNDARY = "omokage"
CONTENT_TYPE = f"multipart/x-mixed-replace; boundary={BOUNDARY}"


class Full(Exception):
    """There are VIEWERS already."""


class Hub:
    """Hands the pictures from the socket `path` on. For one event loop."""

    def __init__(self, path: Path):
        self._path = path
        self.viewers = 0
        self._picture, self._number = b"", 0
        self._next: asyncio.Future[None] | None = None  # done when there is another picture
        self._task: asyncio.Task[None] | None = None

    def watch(self, may: Callable[[], bool]) -> AsyncIterator[bytes]:
        """The parts of a multipart answer, as long as the viewer `may` watch. Raises Full."""
        if self.viewers >= VIEWERS:
            raise Full
        return self._parts(may)

    async def _parts(self, may: Callable[[], bool]) -> AsyncIterator[bytes]:
        self.viewers += 1
        if self._task is None:
            self._task = asyncio.create_task(self._fetch())
        try:
            sent = self._number
            while may():
                if self._number == sent:
                    # Not a condition with a time limit: one that is cancelled twice, as servers do, keeps its lock (Python 3.11).
                    await asyncio.wait({self._coming()}, timeout=QUIET)
                    if self._number == sent:
                        return
                sent = self._number
                head = f"--{BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(self._picture)}\r\n\r\n"
                yield head.encode() + self._picture + b"\r\n"
        finally:
            self.viewers -= 1
            if not self.viewers and self._task is not None:
                self._task.cancel()
                self._task = None

    async def _fetch(self) -> None:
        """Read from the recogniser, and look for it again when it has gone."""
        while True:
            try:
                reader, writer = await asyncio.open_unix_connection(str(self._path))
            except OSError:
                await asyncio.sleep(AGAIN)
                continue
            try:
                writer.write(b"live\n")
                while True:
                    (length,) = struct.unpack(">I", await reader.readexactly(4))
                    if length > LARGEST:
                        break
                    self._show(await reader.readexactly(length))
            except (OSError, asyncio.IncompleteReadError):
                pass
            finally:
                writer.close()
            await asyncio.sleep(AGAIN)

    def _coming(self) -> "asyncio.Future[None]":
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
        return self._next

    def _show(self, picture: bytes) -> None:
        self._picture, self._number = picture, self._number + 1
        if self._next is not None:
            self._next.set_result(None)
            self._next = None
