import contextlib
import http.server
import importlib.util
import itertools
import os
import shutil
import sys
import threading
import time
import types
from datetime import timedelta, timezone
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np
import pytest

from device import camera
from device.camera import open_camera, open_source, pictures_in, read_picture
from device.program import InputError, MissingError


@pytest.fixture
def video(tmp_path):
    """Twelve frames of 64x48 at 8 frames a second, each brighter than the one before."""
    path = tmp_path / "grey.avi"
    noise = np.random.default_rng(0)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 8.0, (64, 48))
    for index in range(12):
        writer.write(np.clip(20 * index + noise.normal(0, 9, (48, 64, 3)), 0, 255).astype(np.uint8))
    writer.release()
    return path


def test_a_video_gives_its_frames_in_order_with_times(video):
    with open_source(str(video)) as source:
        frames = list(source)
    assert (source.live, source.stills, source.fps, source.name) == (False, False, 8.0, str(video))
    assert [frame.index for frame in frames] == list(range(12))
    np.testing.assert_allclose([frame.image.mean() for frame in frames], [20 * index for index in range(12)], atol=4)
    assert frames[0].image.shape == (48, 64, 3)
    assert frames[8].time - frames[0].time == timedelta(seconds=1)
    assert frames[0].time.tzinfo == timezone.utc


def test_a_cut_video_just_ends(video, tmp_path, capfd):
    whole = video.read_bytes()
    cut = tmp_path / "cut.avi"
    cut.write_bytes(whole[: whole.rindex(b"00dc", 0, len(whole) // 2)])
    with open_source(str(cut)) as source:
        assert 0 < len(list(source)) < 12
    cut.write_bytes(whole[:1000])  # in its header
    with pytest.raises(InputError, match=r"cut\.avi cannot be read"):
        open_source(str(cut))
    assert capfd.readouterr().err == ""


def test_a_picture_is_a_source_of_one_frame(astronaut):
    with open_source(str(astronaut)) as source:
        (frame,) = source
    assert source.stills and not source.live
    np.testing.assert_array_equal(frame.image, read_picture(astronaut))


def test_a_folder_gives_its_pictures_by_name(astronaut, grace_hopper, tmp_path):
    shutil.copy(grace_hopper, tmp_path / "b.JPG")
    shutil.copy(astronaut, tmp_path / "a.png")
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "._a.png").write_text("what another system leaves behind")
    with open_source(str(tmp_path)) as source:
        shapes = [frame.image.shape for frame in source]
    assert source.stills
    assert shapes == [(512, 512, 3), (600, 512, 3)]


def test_a_damaged_picture_in_a_folder_is_told_and_passed_over(astronaut, tmp_path, caplog):
    (tmp_path / "a.png").write_bytes(b"damaged")
    shutil.copy(astronaut, tmp_path / "b.png")
    with open_source(str(tmp_path)) as source:
        assert [frame.index for frame in source] == [0]
    assert "a.png cannot be read" in caplog.text
    (tmp_path / "b.png").unlink()
    with pytest.raises(InputError, match=r"no picture in .* can be read"):
        open_source(str(tmp_path))


def test_grey_and_transparent_pictures_become_colour(tmp_path):
    for name, image in (("grey.png", np.full((5, 7), 90, np.uint8)), ("alpha.png", np.full((5, 7, 4), 90, np.uint8))):
        cv2.imwrite(str(tmp_path / name), image)
        picture = read_picture(tmp_path / name)
        assert picture.shape == (5, 7, 3) and picture.dtype == np.uint8


def test_pictures_are_turned_as_their_exif_data_says(tmp_path):
    image = np.zeros((40, 80, 3), np.uint8)
    image[:, :40] = 255
    jpeg = cv2.imencode(".jpg", image)[1].tobytes()
    entry = b"\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00"  # orientation 6: to be turned by 90 degrees, clockwise
    exif = b"Exif\0\0MM\x00\x2a\x00\x00\x00\x08\x00\x01" + entry + b"\x00\x00\x00\x00"
    (tmp_path / "turned.jpg").write_bytes(jpeg[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + jpeg[2:])
    picture = read_picture(tmp_path / "turned.jpg")
    assert picture.shape == (80, 40, 3)
    assert picture[:30].mean() > 250 and picture[50:].mean() < 5


@pytest.mark.parametrize(
    "name, content", [("empty.jpg", b""), ("text.png", b"hello"), ("empty.mp4", b""), ("noise.mp4", b"\x01\x7f" * 999), ("x", b"hello")]
)
def test_unreadable_files_are_told_and_nothing_else_is_said(tmp_path, name, content, capfd):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{name} cannot be read"):
        open_source(str(tmp_path / name))
    assert capfd.readouterr() == ("", "")


def test_a_picture_cut_short_is_unreadable_without_a_word_of_libpng(astronaut, tmp_path, capfd):
    (tmp_path / "cut.png").write_bytes(astronaut.read_bytes()[:50_000])
    with pytest.raises(InputError, match=r"cut\.png cannot be read"):
        read_picture(tmp_path / "cut.png")
    assert capfd.readouterr().err == ""


def test_what_is_not_there_is_told(tmp_path):
    for spec in ("none.mp4", "none.jpg"):
        with pytest.raises(InputError, match=f"{spec} is not there"):
            open_source(str(tmp_path / spec))
    with pytest.raises(InputError, match="the source has no name"):
        open_source("")
    (tmp_path / "folder.jpg").mkdir()
    with pytest.raises(InputError, match="is not a file"):
        read_picture(tmp_path / "folder.jpg")


def test_an_empty_folder_is_told(tmp_path):
    with pytest.raises(InputError, match="holds no picture"):
        open_source(str(tmp_path))
    with pytest.raises(InputError, match="holds no picture"):
        pictures_in(tmp_path)


def test_a_missing_camera_is_told(capfd):
    with pytest.raises(MissingError, match="camera 99 gives no picture"):
        open_camera(99)
    with pytest.raises(InputError, match="no camera -1"):
        open_camera(-1)
    assert capfd.readouterr().err == ""


def test_a_stream_that_does_not_answer_is_told_without_its_password(capfd):
    with pytest.raises(MissingError, match="gives no picture") as error:
        open_source("rtsp://user:secret@127.0.0.1:9/stream")
    assert "127.0.0.1:9/stream" in str(error.value) and "secret" not in str(error.value)
    assert capfd.readouterr().err == ""


def picture(value: int) -> np.ndarray:
    return np.full((48, 64, 3), value, np.uint8)


class ScriptedCamera:
    """A camera that gives what it is told: pictures, None (a broken one), or what it raises. Then it has nothing more."""

    def __init__(self, *script, pace: threading.Semaphore | None = None):
        self.script, self.pace, self.released = iter(script), pace, False

    def read(self):
        if self.pace:
            self.pace.acquire(timeout=5)
        item = next(self.script, None)
        if isinstance(item, Exception):
            raise item
        return item is not None, item

    def get(self, what: int) -> float:
        return 0.0

    def release(self) -> None:
        self.released = True


@pytest.fixture
def scripted(monkeypatch):
    """scripted(camera, None, camera): what cv2.VideoCapture(0) opens the first time, the second time (None: nothing), ..."""

    def script(*cameras: ScriptedCamera | None) -> None:
        opened = iter(cameras)
        monkeypatch.setattr(camera, "_capture", lambda *_: next(opened, None) or ScriptedCamera())

    monkeypatch.setattr(camera, "BACKOFF", (0.01, 0.02))
    return script


def values(source, count: int) -> list[int]:
    return [int(frame.image[0, 0, 0]) for frame in itertools.islice(source, count)]


def test_a_slow_consumer_of_a_camera_sees_the_newest_picture(scripted):
    pace = threading.Semaphore(1)  # for the first picture, which open_camera takes
    scripted(ScriptedCamera(*(picture(i) for i in range(10)), pace=pace))
    with open_camera(0) as source:
        frames = iter(source)
        assert next(frames).image[0, 0, 0] == 0
        for _ in range(6):
            pace.release()
        while not pace.acquire(blocking=False):  # until all six are read
            time.sleep(0.001)
        pace.release()
        time.sleep(0.05)
        frame = next(frames)
    assert (frame.image[0, 0, 0], frame.index) in ((6, 1), (5, 1))
    assert source.live


def test_a_slow_consumer_of_a_file_misses_nothing(video):
    with open_source(str(video)) as source:
        indices = []
        for frame in source:
            time.sleep(0.005)
            indices.append(frame.index)
    assert indices == list(range(12))


def test_a_camera_that_is_lost_is_opened_again_and_that_is_told_once(scripted):
    first, second = ScriptedCamera(picture(1)), ScriptedCamera(picture(2), picture(3), picture(3), picture(3))
    scripted(first, None, None, None, second)
    told = []
    with open_camera(0, notify=lambda code, message: told.append((code, message))) as source:
        assert values(source, 2)[0] == 1
        assert first.released
    assert [code for code, _ in told] == ["camera-lost", "camera-back"]
    assert all("camera 0" in message for _, message in told)


def test_without_a_listener_a_camera_that_is_lost_has_ended(scripted):
    scripted(ScriptedCamera(picture(1)), ScriptedCamera(picture(2)))
    with open_camera(0) as source:
        assert values(source, 9) == [1]


@pytest.mark.parametrize("broken", [None, cv2.error("a broken picture"), OSError("the cable")])
def test_a_broken_picture_is_passed_over(scripted, broken):
    scripted(ScriptedCamera(picture(1), broken, picture(2)))
    with open_camera(0) as source:
        assert values(source, 9)[-1] == 2


def test_a_camera_that_comes_and_goes_is_opened_ever_more_slowly(scripted, monkeypatch):
    waits = []

    class Stop(threading.Event):
        def wait(self, timeout=None):
            waits.extend([timeout] * (timeout is not None))  # threads wait for their start, too
            return super().wait(0)

    monkeypatch.setattr(camera.threading, "Event", Stop)
    monkeypatch.setattr(camera, "BACKOFF", (1.0, 2.0, 4.0))
    scripted(*[ScriptedCamera(picture(1)) for _ in range(5)])
    with open_camera(0, notify=lambda *_: None) as source:
        values(source, 1)
        while len(waits) < 5:
            time.sleep(0.001)
    assert waits[:5] == [1.0, 2.0, 4.0, 4.0, 4.0]


def test_while_a_camera_is_away_the_consumer_gives_signs_of_life(scripted, monkeypatch):
    monkeypatch.setattr(camera, "TICK", 0.01)
    monkeypatch.setattr(camera, "BACKOFF", (0.2,))
    scripted(ScriptedCamera(picture(1)), ScriptedCamera(picture(2)))
    signs = []
    with open_camera(0, notify=lambda *_: None, waiting=lambda: signs.append(1)) as source:
        values(source, 2)
    assert len(signs) > 3


def test_a_thread_that_hangs_gives_none(scripted, monkeypatch):
    """Nothing in the process can help then: the system's watchdog has to see it."""
    monkeypatch.setattr(camera, "TICK", 0.01)
    monkeypatch.setattr(camera, "STUCK", 0.0)
    pace = threading.Semaphore(1)
    scripted(ScriptedCamera(picture(1), picture(2), pace=pace))
    signs = []
    with open_camera(0, waiting=lambda: signs.append(1)) as source:
        frames = iter(source)
        next(frames)
        threading.Timer(0.1, pace.release).start()
        next(frames)
        pace.release(9)
    assert signs == []


def test_closing_ends_the_wait_for_a_camera_and_frees_it(scripted, monkeypatch):
    monkeypatch.setattr(camera, "BACKOFF", (600.0,))
    lost = ScriptedCamera(picture(1))
    scripted(lost)
    source = open_camera(0, notify=lambda *_: None)
    values(source, 1)
    start = time.monotonic()
    source.close()
    assert time.monotonic() - start < 2
    assert lost.released


def test_a_camera_that_nobody_looks_at_is_freed_too(scripted):
    unused = ScriptedCamera(picture(1))
    scripted(unused)
    open_camera(0).close()
    assert unused.released


def test_no_thread_and_no_open_file_stays_behind(video):
    for _ in range(3):
        with open_source(str(video)) as source:
            values(source, 3)
    assert f"read {video}" not in {thread.name for thread in threading.enumerate()}
    if sys.platform == "linux":
        assert str(video) not in {os.path.realpath(link) for link in Path("/proc/self/fd").iterdir()}


@pytest.fixture
def picamera2(monkeypatch):
    """The package picamera2 with one camera, as far as it is used; None of it is imported before it is needed."""
    pi = types.ModuleType("picamera2")

    class Picamera2:
        state: ClassVar[list[str]] = []

        def __init__(self, number):
            if number:
                raise IndexError("list index out of range")  # what the package does
            self.state[:] = ["open"]

        def create_video_configuration(self, main):
            assert main == {"size": (640, 480), "format": "RGB888"}
            return main

        def configure(self, configuration):
            self.state.append("configured")

        def start(self):
            self.state.append("started")

        def capture_array(self, name):
            return picture(7)

        def stop(self):
            self.state.append("stopped")

        def close(self):
            self.state.append("closed")

    pi.Picamera2 = Picamera2
    monkeypatch.setitem(sys.modules, "picamera2", pi)
    find = importlib.util.find_spec
    monkeypatch.setattr(camera.util, "find_spec", lambda name: object() if name == "picamera2" else find(name))
    return pi


def test_where_there_is_no_v4l2_camera_the_raspberry_pis_own_is_used(scripted, picamera2):
    scripted()
    with open_camera(0) as source:
        assert values(source, 3) == [7, 7, 7]
        assert picamera2.Picamera2.state == ["open", "configured", "started"]
    assert picamera2.Picamera2.state[-2:] == ["stopped", "closed"]
    with pytest.raises(MissingError, match="camera 1 gives no picture"):
        open_camera(1)


def test_a_v4l2_camera_comes_first(scripted, picamera2, monkeypatch):
    monkeypatch.delitem(sys.modules, "picamera2")  # importing it would fail
    scripted(ScriptedCamera(picture(3)))
    with open_camera(0) as source:
        assert values(source, 1) == [3]


class NetworkCamera(http.server.ThreadingHTTPServer):
    """MJPEG over HTTP on loopback. `script` holds, for each connection, what is sent: JPEGs as bytes, or a pause in seconds."""

    daemon_threads = True

    def __init__(self, *script: list):
        self.script = iter(script)
        super().__init__(("127.0.0.1", 0), MjpegHandler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/video.mjpg"


class MjpegHandler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        parts = next(self.server.script, None)
        if parts is None:
            self.send_error(503)
            return
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        with contextlib.suppress(OSError):
            for part in parts:
                if isinstance(part, float):
                    time.sleep(part)
                else:
                    self.wfile.write(b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(part) + part + b"\r\n")

    def log_message(self, *_):
        pass


@pytest.fixture
def network_camera():
    with contextlib.ExitStack() as stack:

        def serve(*script: list) -> NetworkCamera:
            server = stack.enter_context(NetworkCamera(*script))
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
            stack.callback(server.shutdown)
            return server

        yield serve


def jpeg(value: int) -> bytes:
    noise = np.random.default_rng(value).integers(0, 9, (120, 160, 3))
    return cv2.imencode(".jpg", np.clip(value + noise, 0, 255).astype(np.uint8))[1].tobytes()


def test_a_network_camera_whose_stream_breaks_off_is_opened_again(network_camera, monkeypatch):
    monkeypatch.setattr(camera, "BACKOFF", (0.05,))
    bright, dark = [jpeg(200)] * 8, [jpeg(50)] * 8
    told = []
    with open_source(network_camera(bright, dark * 20).url, notify=lambda code, _: told.append(code)) as source:
        assert source.live
        means = (frame.image.mean() for frame in source)
        assert next(means) > 190
        assert next(mean for mean in means if mean < 100) == pytest.approx(54, abs=4)
    assert told == ["camera-lost", "camera-back"]


def test_a_corrupt_picture_of_a_network_camera_is_passed_over(network_camera):
    good, other = jpeg(200), jpeg(50)
    broken = good[:300] + bytes(200) + good[500:]
    with open_source(network_camera([good] * 8 + [1.0, broken, b"no picture at all"] + [other] * 8).url) as source:
        means = [frame.image.mean() for frame in source]
    assert means[0] > 190
    assert means[-1] < 100


def test_a_network_camera_that_falls_silent_has_ended(network_camera, monkeypatch):
    monkeypatch.setattr(camera, "TIMEOUT", 300)
    with open_source(network_camera([jpeg(200)] * 8 + [20.0]).url) as source:
        start = time.monotonic()
        assert len(list(source)) >= 1
    assert time.monotonic() - start < 10


def test_a_network_camera_that_answers_with_an_error_is_told(network_camera):
    with pytest.raises(MissingError, match="gives no picture"):
        open_source(network_camera().url)


def test_a_corrupt_stretch_of_a_video_is_passed_over(video, tmp_path):
    whole = bytearray(video.read_bytes())
    fifth = [i for i in range(len(whole)) if whole[i : i + 4] == b"00dc"][4]
    whole[fifth + 20 : fifth + 400] = bytes(380)
    (tmp_path / "corrupt.avi").write_bytes(whole)
    with open_source(str(tmp_path / "corrupt.avi")) as source:
        means = [frame.image.mean() for frame in source]
    assert len(means) >= 11
    assert means[-1] == pytest.approx(220, abs=4)


def test_a_picture_of_one_pixel_is_a_picture(tmp_path):
    cv2.imwrite(str(tmp_path / "one.png"), np.zeros((1, 1, 3), np.uint8))
    assert read_picture(tmp_path / "one.png").shape == (1, 1, 3)


@pytest.mark.slow
def test_a_huge_jpeg_is_read_smaller_and_that_is_told(tmp_path, caplog):
    cv2.imwrite(str(tmp_path / "huge.jpg"), np.full((9000, 12000), 90, np.uint8))
    picture = read_picture(tmp_path / "huge.jpg")
    assert picture.shape == (4500, 6000, 3)
    assert picture[0, 0, 0] == 90
    assert "huge.jpg has 108 million pixels, it is read at 1/2 of its size" in caplog.text


def test_a_png_that_says_it_is_huge_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "huge.png"
    cv2.imwrite(str(path), picture(90))
    content = bytearray(path.read_bytes())
    content[16:24] = (12000).to_bytes(4, "big") + (9000).to_bytes(4, "big")
    path.write_bytes(content)
    with pytest.raises(InputError, match="has 108 million pixels, too many: shrink it to 8192 a side"):
        read_picture(path)


@pytest.mark.parametrize("cut", [1, 2, 3, 10, 25, 100, 160])
def test_a_header_that_breaks_off_is_unreadable(tmp_path, cut):
    (tmp_path / "cut.jpg").write_bytes(jpeg(90)[:cut])
    with pytest.raises(InputError, match="cannot be read"):
        read_picture(tmp_path / "cut.jpg")
