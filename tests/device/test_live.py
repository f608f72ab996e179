import asyncio
import socket
import struct
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from device.live import LARGEST, Live
from device.program import InputError
from device.web import live as hub

WHITE = np.full((480, 640, 3), 255, np.uint8)


@pytest.fixture
def live(tmp_path: Path):
    served = Live(tmp_path / "live.sock", {"health": lambda: b'{"ok": true}'}, rate=1000)
    yield served
    served.close()


def connected(live: Live, word: bytes) -> socket.socket:
    peer = socket.socket(socket.AF_UNIX)
    peer.settimeout(5)
    peer.connect(str(live._path))
    peer.sendall(word + b"\n")
    return peer


def picture(peer: socket.socket) -> np.ndarray:
    (length,) = struct.unpack(">I", peer.recv(4, socket.MSG_WAITALL))
    return cv2.imdecode(np.frombuffer(peer.recv(length, socket.MSG_WAITALL), np.uint8), cv2.IMREAD_COLOR)


def watched(live: Live, count: int = 1) -> None:
    while live._watching != count:
        time.sleep(0.005)


def test_nothing_is_drawn_while_nobody_watches(live: Live, monkeypatch):
    monkeypatch.setattr("device.draw.annotate", lambda *_: pytest.fail("drawn for nobody"))
    live.offer(WHITE, [])


def test_whoever_watches_sees_what_is_offered(live: Live):
    with connected(live, b"live") as peer:
        watched(live)
        live.offer(WHITE, [])
        assert picture(peer).mean() > 250
        time.sleep(0.002)
        live.offer(np.zeros((2000, 3000, 3), np.uint8), [])
        small = picture(peer)
        assert small.mean() < 5 and small.shape[1] == LARGEST[0] and small.shape[0] < LARGEST[1]
    live.offer(WHITE, [])
    watched(live, 0)


def test_pictures_are_throttled(tmp_path: Path):
    live = Live(tmp_path / "s", rate=0.5)
    with connected(live, b"live"):
        watched(live)
        for _ in range(50):
            live.offer(WHITE, [])
        assert live._number == 1
    live.close()


def test_it_tells_about_itself(live: Live):
    for word, told in ((b"health", b'{"ok": true}'), (b"secrets", b""), (b"\xff\x00", b"")):
        with connected(live, word) as peer:
            assert peer.recv(100) == told


def test_a_socket_that_was_left_behind_is_replaced(tmp_path: Path):
    path = tmp_path / "live.sock"
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(path))
    left.close()
    live = Live(path)
    assert path.stat().st_mode & 0o777 == 0o600
    live.close()
    assert not path.exists()


def test_a_path_that_is_too_long_for_a_socket(tmp_path: Path):
    with pytest.raises(InputError, match="shorter folder"):
        Live(tmp_path / ("x" * 200))


def test_many_viewers_share_one_stream(live: Live):
    async def watch() -> None:
        shared = hub.Hub(live._path)
        going = threading.Event()

        def offer() -> None:
            while not going.is_set():
                live.offer(WHITE, [])
                time.sleep(0.01)

        threading.Thread(target=offer, daemon=True).start()
        viewers = [shared.watch(lambda: True) for _ in range(3)]
        for part in await asyncio.gather(*(anext(viewer) for viewer in viewers)):
            assert part.startswith(b"--omokage\r\nContent-Type: image/jpeg\r\nContent-Length: ") and b"\xff\xd8" in part
        assert live._watching == 1 and shared.viewers == 3
        for viewer in viewers:
            await viewer.aclose()
        assert shared.viewers == 0
        while live._watching:
            await asyncio.sleep(0.02)
        going.set()

    asyncio.run(watch())


def test_viewers_wait_for_a_recogniser_and_are_let_go_if_none_comes(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(hub, "QUIET", 0.05)

    async def watch() -> list[bytes]:
        return [part async for part in hub.Hub(tmp_path / "nobody.sock").watch(lambda: True)]

    assert asyncio.run(watch()) == []


def test_there_is_an_end_to_how_many_may_watch(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(hub, "VIEWERS", 0)
    with pytest.raises(hub.Full):
        hub.Hub(tmp_path / "s").watch(lambda: True)


def test_who_may_not_watch_any_more_sees_nothing(tmp_path: Path):
    async def watch() -> list[bytes]:
        return [part async for part in hub.Hub(tmp_path / "s").watch(lambda: False)]

    assert asyncio.run(watch()) == []


async def _viewers_who_leave(path: Path) -> bytes:
    """What somebody gets who watches after many have left in the middle of their wait, each told to go twice, as servers do."""
    shared = hub.Hub(path)

    async def watch() -> bytes:
        return await anext(shared.watch(lambda: True))

    for wait in range(12):
        viewers = [asyncio.create_task(_all(shared)) for _ in range(3)]
        await asyncio.sleep(0.005 * wait)
        for _ in range(2):
            for viewer in viewers:
                viewer.cancel()
            await asyncio.sleep(0)
        await asyncio.gather(*viewers, return_exceptions=True)
    return await asyncio.wait_for(watch(), 10)


async def _all(shared: hub.Hub) -> None:
    async for _ in shared.watch(lambda: True):
        pass


def test_viewers_who_leave_leave_the_others_their_pictures(tmp_path):
    live = Live(tmp_path / "live.sock", rate=200)
    ending = threading.Event()

    def offer() -> None:
        while not ending.wait(0.002):
            live.offer(WHITE, [])

    feed = threading.Thread(target=offer)
    feed.start()
    try:
        assert b"image/jpeg" in asyncio.run(_viewers_who_leave(tmp_path / "live.sock"))
    finally:
        ending.set()
        feed.join()
        live.close()
