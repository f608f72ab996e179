import contextlib
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections import namedtuple
from datetime import datetime, timedelta, timezone
from pathlib import Path

import cv2
import numpy as np
import pytest

from device import demo, enroll, recognize, worker
from device.camera import Frame, Source, open_source
from device.classify import Neighbours
from device.decide import OpenSet
from device.draw import recording
from device.gallery import default_path
from device.outputs import Film

PROGRAM = Path(recognize.__file__)
STANDIN = Path(__file__).with_name("standin.py")


@pytest.fixture
def call(capsys, pixels):
    """call("--source", ...) -> exit status, stdout and stderr as lines."""

    def run(*words: object) -> tuple[int, list[str], list[str]]:
        capsys.readouterr()
        status = recognize.main([str(word) for word in words])
        out, err = capsys.readouterr()
        return status, out.splitlines(), err.splitlines()

    return run


@pytest.fixture
def watch(call, validate):
    """watch("--source", ...) -> events and summary of a call with --json that goes well; both follow their contracts."""

    def run(*words: object, expected: int = 0) -> tuple[list[dict], dict]:
        status, out, err = call("--json", *words)
        assert status == expected, err
        told, summary = [json.loads(line) for line in out], json.loads(err[-1])
        for event in told:
            validate(event, "event")
        validate(summary, "summary")
        return told, summary

    return run


@pytest.fixture
def enrolled(pixels, astronaut: Path, capsys) -> Path:
    """The gallery, Eileen Collins in it."""
    assert enroll.main(["add", "Eileen Collins", str(astronaut)]) == 0
    return default_path()


@pytest.fixture(scope="session")
def video(astronaut: Path, tmp_path_factory) -> Path:
    """Twelve frames of Eileen Collins, 256x256, 15 a second."""
    path = tmp_path_factory.mktemp("video") / "eileen.mp4"
    photo = cv2.resize(cv2.imread(str(astronaut)), (256, 256), interpolation=cv2.INTER_AREA)
    with recording(path, 15) as write:
        for shift in range(12):
            write(np.roll(photo, shift, axis=1))
    return path


def told_of(told: list[dict]) -> list[tuple[str, int, str | None]]:
    return [(event["event"], event["track"], event["name"]) for event in told]


def test_a_known_person_in_a_video(watch, enrolled: Path, video: Path):
    told, summary = watch("--source", video)
    assert told_of(told) == [("seen", 1, "Eileen Collins"), ("gone", 1, "Eileen Collins")]
    assert told[1]["frames"] == 12
    assert told[0]["source"] == str(video)
    assert (summary["frames"], summary["looks"], summary["faces"], summary["backend"]) == (12, 6, 6, "cpu")  # every third once settled


def test_a_stranger_in_a_photo_is_told_at_once(watch, enrolled: Path, grace_hopper: Path):
    told, _ = watch("--source", grace_hopper)
    assert told_of(told) == [("seen", 1, None), ("gone", 1, None)]
    assert told[0]["runner_up"]["name"] == "Eileen Collins"


def test_each_photo_of_a_folder_is_a_scene_of_its_own(watch, enrolled: Path, astronaut: Path, grace_hopper: Path, tmp_path: Path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, photo in (("1.png", astronaut), ("2.png", astronaut), ("3.jpg", grace_hopper)):
        shutil.copy(photo, folder / name)
    cv2.imwrite(str(folder / "4.png"), np.zeros((100, 100, 3), np.uint8))
    told, summary = watch("--source", folder)
    assert told_of(told) == [(kind, i, name) for i, name in enumerate(["Eileen Collins"] * 2 + [None], 1) for kind in ("seen", "gone")]
    assert (summary["frames"], summary["faces"]) == (4, 3)


def test_a_stranger_near_the_threshold_is_to_be_reviewed_and_a_probability_is_told(
    watch, call, enrolled: Path, grace_hopper: Path, monkeypatch
):
    class Careful(recognize.Known):
        def _load(self):
            self.names = ["Eileen Collins"]
            return OpenSet(Neighbours(*self._gallery.templates(self._used)), 1.0, review=-1.0, probability=lambda score: 0.25)

    monkeypatch.setattr(recognize, "Known", Careful)
    told, _ = watch("--source", grace_hopper)
    assert [(event["decision"], event["name"], event["probability"]) for event in told] == [("review", None, 0.25)] * 2
    assert told[0]["runner_up"]["name"] == "Eileen Collins"
    _, out, err = call("--source", grace_hopper)
    assert "#1 seen: review, at best Eileen Collins" in out[0]
    assert "it is near the threshold 1.00, at best Eileen Collins" in err[0]


def test_a_running_recogniser_sees_who_is_enrolled_meanwhile(watch, astronaut: Path, monkeypatch):
    monkeypatch.setattr("device.known.POLL", 0)

    def open_source(spec: str, *_: object) -> Source:
        def images():
            yield "1", cv2.imread(str(astronaut))
            with contextlib.redirect_stdout(io.StringIO()):
                assert enroll.main(["add", "Eileen Collins", str(astronaut)]) == 0
            yield "2", cv2.imread(str(astronaut))

        return Source("photos", images(), stills=True)

    monkeypatch.setattr(recognize, "open_source", open_source)
    told, _ = watch("--source", "x")
    seen = [event.get("code") or event["name"] for event in told if event["event"] in ("notice", "seen")]
    assert seen == ["gallery-empty", None, "gallery-reloaded", "Eileen Collins"]


def test_strangers_are_remembered_if_one_asks_for_it(watch, call, enrolled: Path, astronaut: Path, grace_hopper: Path):
    told, _ = watch("--source", grace_hopper)
    assert "unknown" not in told[0]
    for _ in range(2):
        told, _ = watch("--source", grace_hopper, "--remember-unknowns")
        assert [event["unknown"] for event in told] == [{"number": 1, "visits": 1}] * 2
    told, _ = watch("--source", astronaut, "--remember-unknowns", 7)
    assert told[0]["name"] == "Eileen Collins" and "unknown" not in told[0]
    _, out, err = call("--source", grace_hopper, "--remember-unknowns")
    assert "#1 seen: unknown-1, 1st visit, at best Eileen Collins" in out[0] and any("it is unknown-1, 1st visit" in line for line in err)
    assert enroll.main(["name", "unknown-1", "Grace"]) == 0
    told, _ = watch("--source", grace_hopper, "--remember-unknowns")
    assert told[-1]["name"] == "Grace"
    assert enroll.main(["ignore", str(grace_hopper)]) == 0
    told, _ = watch("--source", grace_hopper, "--remember-unknowns")
    assert told[-1]["name"] is None and "unknown" not in told[-1]


def test_an_encrypted_gallery_needs_its_key(call, watch, astronaut: Path, tmp_path: Path):
    key = tmp_path / "key"
    key.write_bytes(bytes(range(32)))
    assert enroll.main(["add", "Eileen Collins", str(astronaut), "--key-file", str(key)]) == 0
    told, _ = watch("--source", astronaut, "--key-file", key)
    assert told[0]["name"] == "Eileen Collins"
    status, _, err = call("--source", astronaut)
    assert status == 4 and "is encrypted: give its key with --key-file" in err[-1]


def test_readable_lines_without_json(call, enrolled: Path, astronaut: Path):
    status, out, err = call("--source", astronaut)
    assert status == 0
    assert [line.split("  ")[1].split(",")[0] for line in out] == ["#1 seen: Eileen Collins", "#1 gone: Eileen Collins"]
    assert err[0].startswith("#1 is named Eileen Collins: ")
    assert err[1].startswith("1 frame at ")
    assert len(err) == 2


def test_without_a_gallery_everyone_is_unknown_and_a_notice_says_how_to_enrol(watch, call, astronaut: Path):
    told, _ = watch("--source", astronaut)
    assert told[0]["code"] == "gallery-empty"
    assert "enroll.py add" in told[0]["message"]
    assert told_of(told[1:]) == [("seen", 1, None), ("gone", 1, None)]
    assert told[1]["score"] is None
    assert not default_path().exists()
    _, out, err = call("--source", astronaut)
    assert len(out) == 2
    assert "enroll.py add" in err[0]


def test_an_emptied_gallery_is_like_none(watch, enrolled: Path, astronaut: Path, capsys):
    assert enroll.main(["remove", "Eileen Collins", "--yes"]) == 0
    told, _ = watch("--source", astronaut)
    assert told[0]["code"] == "gallery-empty"


def test_the_gallery_can_be_named(watch, enrolled: Path, astronaut: Path, tmp_path: Path):
    other = enrolled.rename(tmp_path / "other.db")
    told, _ = watch("--source", astronaut, "--gallery", other)
    assert told[0]["name"] == "Eileen Collins"


def test_the_annotated_video_shows_names(watch, enrolled: Path, video: Path, tmp_path: Path):
    saved = tmp_path / "out" / "annotated.mp4"
    _, summary = watch("--source", video, "--save", saved)
    plain, annotated = ([frame.image for frame in open_source(str(path))] for path in (video, saved))
    assert len(annotated) == summary["frames"] == len(plain)
    assert open_source(str(saved)).fps == 15
    assert cv2.absdiff(plain[-1], annotated[-1]).max() > 100
    assert list(saved.parent.iterdir()) == [saved]


class Interrupted:
    """Frames of the video, and then Ctrl-C."""

    def __init__(self, video: Path, frames: int):
        self.images = [frame.image for frame in open_source(str(video))][:frames]

    def __call__(self, spec: str, *_: object) -> Source:
        def images():
            yield from ((spec, image) for image in self.images)
            raise KeyboardInterrupt

        return Source(spec, images(), fps=15.0)


def test_ctrl_c_closes_tracks_finishes_the_video_and_sums_up(watch, enrolled: Path, video: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(recognize, "open_source", Interrupted(video, 6))
    told, summary = watch("--source", "x", "--save", tmp_path / "a.mp4", expected=130)
    assert told_of(told) == [("seen", 1, "Eileen Collins"), ("gone", 1, "Eileen Collins")]
    assert summary["frames"] == 6
    assert len(list(open_source(str(tmp_path / "a.mp4")))) == 6


def test_ctrl_c_before_the_first_frame_leaves_no_video(watch, video: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(recognize, "open_source", Interrupted(video, 0))
    _, summary = watch("--source", "x", "--save", tmp_path / "a.mp4", expected=130)
    assert summary["frames"] == 0
    assert not (tmp_path / "a.mp4").exists()


def test_a_live_video_runs_at_true_speed(tmp_path: Path):
    """Frames come as they can: three a second at first, ten at the end; the video has fifteen throughout."""
    start, image = datetime(2026, 1, 1, tzinfo=timezone.utc), np.zeros((48, 64, 3), np.uint8)
    seconds = [0, 1 / 3, 2 / 3, 1, *np.arange(1.1, 2.05, 0.1)]
    source = Source("camera 0", iter([]), live=True, fps=15)
    with Film(tmp_path / "live.mp4", source) as film:
        for index, second in enumerate(seconds):
            film.take(Frame(image, index, start + timedelta(seconds=float(second)), "camera 0"), image)
    assert len(list(open_source(str(tmp_path / "live.mp4")))) == 31


@pytest.mark.parametrize("jump", [timedelta(days=400), timedelta(days=-400)])
def test_a_live_video_outlives_a_clock_that_is_set(tmp_path: Path, jump: timedelta):
    start, image = datetime(2026, 1, 1, tzinfo=timezone.utc), np.zeros((48, 64, 3), np.uint8)
    source = Source("camera 0", iter([]), live=True, fps=15)
    with Film(tmp_path / "live.mp4", source) as film:
        for index in range(31):
            film.take(Frame(image, index, start + timedelta(seconds=index / 15) + (jump if index > 15 else timedelta()), "camera 0"), image)
    assert 30 <= len(list(open_source(str(tmp_path / "live.mp4")))) <= 45


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        ([], 2, "--camera --source"),
        (["--camera", "0", "--source", "x.mp4"], 2, "not allowed with"),
        (["--source", "nowhere.mp4"], 2, "nowhere.mp4 is not there"),
        (["--source", "nowhere.mp4", "--save", "a.xyz"], 2, "nowhere.mp4 is not there"),
        (["--source", "PHOTO", "--save", "a.xyz"], 2, ".mp4"),
        (["--source", "PHOTO", "--save", "/dev/null/a.mp4"], 2, "cannot write /dev/null/a.mp4"),
        (["--source", "PHOTO", "--gallery", "PHOTO"], 4, "astronaut.png"),
        (["--source", "PHOTO", "--detector", "yunet"], 2, "--detector-model"),
        (["--camera", "97"], 3, "camera 97"),
        (["--source", "PHOTO", "--far", "1"], 2, "1 is not between 0 and 1"),
        (["--source", "PHOTO", "--far", "0.02"], 2, "no threshold for the false-accept rate 0.02"),
        (["--source", "PHOTO", "--classifier", "svm"], 2, "no cohort"),
    ],
)
def test_a_wrong_call_is_one_line_and_a_status(words, status, says, astronaut: Path, pixels, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["device/recognize.py"])
    with pytest.raises(SystemExit) as end:
        sys.exit(recognize.main([str(astronaut) if word == "PHOTO" else word for word in words]))
    out, err = capsys.readouterr()
    assert end.value.code == status
    assert out == ""
    assert err.count("\n") == 1
    assert says in err
    assert err.startswith("recognize: ")


def test_a_gallery_of_another_encoder_is_refused(call, enrolled: Path, astronaut: Path, pixels):
    pixels.manifest["encoder"] = "fedcba9876543210"
    status, out, err = call("--source", astronaut)
    assert (status, out, len(err)) == (4, [], 1)


class Window:
    """OpenCV's window functions, with a user who presses the keys in turn (-1: none) and looks at `shown` pictures."""

    def __init__(self, monkeypatch, keys: list[int], visible: bool = True):
        self.keys, self.shown = iter(keys), []
        monkeypatch.setenv("DISPLAY", ":0")
        monkeypatch.setattr(cv2, "currentUIFramework", lambda: "QT")
        monkeypatch.setattr(cv2, "imshow", lambda name, picture: self.shown.append(picture))
        monkeypatch.setattr(cv2, "waitKey", lambda ms: next(self.keys))
        monkeypatch.setattr(cv2, "getWindowProperty", lambda name, what: float(visible))


@pytest.mark.parametrize("key", [ord("q"), 27])
def test_a_key_ends_the_window_and_the_program_cleanly(watch, enrolled: Path, video: Path, monkeypatch, key: int):
    window = Window(monkeypatch, [-1, -1, -1, ord("x"), key])
    told, summary = watch("--source", video, "--show")
    assert summary["frames"] == len(window.shown) == 5
    assert told_of(told) == [("seen", 1, "Eileen Collins"), ("gone", 1, "Eileen Collins")]


def test_a_closed_window_ends_too(watch, enrolled: Path, video: Path, monkeypatch):
    Window(monkeypatch, [-1] * 20, visible=False)
    assert watch("--source", video, "--show")[1]["frames"] == 1


def test_a_photo_stays_until_a_key_is_pressed(watch, enrolled: Path, astronaut: Path, monkeypatch):
    window = Window(monkeypatch, [-1, -1, -1, ord(" "), ord("q")])
    watch("--source", astronaut, "--show")
    assert len(window.shown) == 1
    assert next(window.keys) == ord("q")


@pytest.mark.parametrize(("framework", "says"), [("", "opencv-python-headless"), ("QT", "no screen")])
def test_without_a_window_to_open_nothing_starts(call, video: Path, monkeypatch, framework: str, says: str):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr(cv2, "currentUIFramework", lambda: framework)
    monkeypatch.setattr(recognize, "open_source", lambda *_: pytest.fail("a source was opened"))
    status, out, err = call("--source", video, "--show")
    assert (status, out, len(err)) == (3, [], 1)
    assert says in err[0]


def test_help_shows_examples(capsys):
    with pytest.raises(SystemExit) as end:
        recognize.main(["--help"])
    assert end.value.code == 0
    assert "recognize.py --camera 0" in capsys.readouterr().out


@pytest.mark.slow
def test_a_real_ctrl_c_with_the_shipped_bundle(bundle_path: Path, astronaut: Path, tmp_path: Path, validate):
    photo = cv2.resize(cv2.imread(str(astronaut)), (256, 256), interpolation=cv2.INTER_AREA)
    with recording(tmp_path / "long.avi", 15) as write:
        for _ in range(1500):
            write(photo)
    words = [sys.executable, str(PROGRAM), "--source", "long.avi", "--json", "--save", "out.mp4", "--encoder", str(bundle_path)]
    with subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ) as process:
        lines = [process.stdout.readline(), process.stdout.readline()]  # the notice, and seen: lines are not held back
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    told = [json.loads(line) for line in [*lines, *out.splitlines()]]
    assert [event["event"] for event in told] == ["notice", "seen", "gone"]
    summary = json.loads(err.splitlines()[-1])
    validate(summary, "summary")
    assert 3 <= summary["frames"] < 1500
    assert abs(len(list(open_source(str(tmp_path / "out.mp4")))) - summary["frames"]) <= 1  # the frame that was interrupted


def test_the_log_says_why_and_notices_are_events_and_log_lines(call, enrolled: Path, astronaut: Path, grace_hopper: Path, pixels):
    _, out, err = call("--source", grace_hopper, "--json")
    assert [line for line in err if line.startswith("#1 is not named: the best guess is below the threshold 0.80, at best Eileen Collins")]
    event = json.loads(out[0])
    assert 0 < event["quality"] <= 1
    assert event["runner_up"]["score"] == event["score"] < event["threshold"] == 0.8


def test_a_switch_of_the_backend_is_a_notice_and_one_line(call, enrolled: Path, video: Path, monkeypatch, validate):
    encoder, closed = recognize.open_encoder(None, "cpu"), []
    embed = encoder.embed

    def open_encoder(used, backend, notify, beside):
        pending = ["the Edge TPU does not answer, the CPU does"]

        def switching(crops):
            if pending:
                notify("backend-cpu", pending.pop())
            return embed(crops)

        encoder.embed, encoder.close = switching, lambda: closed.append(True)
        return encoder

    monkeypatch.setattr(recognize, "open_encoder", open_encoder)
    status, out, err = call("--source", video, "--json")
    notices = [event for event in map(json.loads, out) if event["event"] == "notice"]
    assert [(event["code"], event["level"]) for event in notices] == [("backend-cpu", "warning")]
    validate(notices[0], "event")
    assert len([line for line in err if "the CPU does" in line]) == 1
    assert status == 0
    assert closed == [True]


@pytest.mark.usefixtures("time_to_end")
def test_from_frame_to_embedding_on_the_edge_tpu(compiled, own_detector, astronaut, tmp_path, monkeypatch, capsys):
    """The detector that was compiled with the encoder runs beside it, and with --backend edgetpu nowhere else; in enroll.py too."""
    white = str(tmp_path / "white.png")
    cv2.imwrite(white, np.full((192, 256, 3), 255, np.uint8))
    options = ["--encoder", str(compiled(detector=own_detector).path), "--backend", "edgetpu", "--json"]
    options += ["--detector", "omokage", "--detector-model", str(own_detector.path)]
    monkeypatch.setattr(worker, "PROGRAM", (sys.executable, str(STANDIN), "abort", "white"))
    assert recognize.main(["--source", str(astronaut), *options]) == 0
    out, err = capsys.readouterr()
    told = [event["message"] for event in map(json.loads, out.splitlines()) if event.get("code") == "backend-edgetpu"]
    assert len(told) == 1 and "encoder and detector" in told[0] and json.loads(err.splitlines()[-1])["backend"] == "edgetpu"
    for main, words in ((recognize.main, ["--source", white]), (enroll.main, ["add", "Eileen", white])):
        assert main([*words, *options]) == 3
        assert "the Edge TPU does not answer (its worker was ended by SIGABRT" in capsys.readouterr().err


class Broken:
    """Frames of the video, among them some that are no pictures."""

    def __init__(self, video: Path):
        self.images = [frame.image for frame in open_source(str(video))]
        self.images[4:4] = [np.zeros((0, 0, 3), np.uint8), np.zeros((48, 64, 3), np.float32)]

    def __call__(self, spec: str, *_: object) -> Source:
        return Source(spec, [(spec, image) for image in self.images], fps=15.0)


def test_frames_that_are_no_pictures_are_passed_over_and_that_is_told_once(watch, enrolled: Path, video: Path, monkeypatch):
    monkeypatch.setattr(recognize, "open_source", Broken(video))
    told, summary = watch("--source", "x")
    assert [event["code"] for event in told if event["event"] == "notice"] == ["frame-broken"]
    stories = [event for event in told if event["event"] != "notice"]
    assert told_of(stories) == [("seen", 1, "Eileen Collins"), ("gone", 1, "Eileen Collins")]
    assert summary["frames"] == 12


def test_pictures_of_every_size_are_looked_at(watch, enrolled: Path, astronaut: Path, tmp_path: Path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, shape in (("1.png", (1, 1)), ("2.png", (1, 900)), ("3.png", (900, 1))):
        cv2.imwrite(str(folder / name), np.zeros((*shape, 3), np.uint8))
    (folder / "4.png").write_bytes(b"damaged")
    shutil.copy(astronaut, folder / "5.png")
    told, summary = watch("--source", folder, "--save", tmp_path / "film.mp4")
    assert told_of(told) == [("seen", 1, "Eileen Collins"), ("gone", 1, "Eileen Collins")]
    assert summary["frames"] == 4


def test_a_full_disk_ends_the_video_and_not_the_recogniser(watch, enrolled: Path, video: Path, tmp_path: Path, monkeypatch):
    free = iter([10**10] * 5)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(10**12, 0, next(free, 10**6)))
    told, summary = watch("--source", video, "--save", tmp_path / "film.mp4", expected=1)
    assert [(event["event"], event.get("code")) for event in told] == [("seen", None), ("notice", "video-failed"), ("gone", None)]
    assert summary["frames"] == 12
    assert len(list(open_source(str(tmp_path / "film.mp4")))) == 5


def test_snapshots_show_who_was_seen(watch, enrolled: Path, video: Path, tmp_path: Path):
    told, _ = watch("--source", video, "--snapshots", tmp_path / "seen")
    (snapshot,) = (tmp_path / "seen").iterdir()
    assert snapshot.name == told[0]["time"].replace("-", "").replace(":", "") + "-1-known.jpg"
    assert cv2.imread(str(snapshot)).shape == (256, 256, 3)


def test_without_being_asked_nothing_is_kept(watch, enrolled: Path, video: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.rglob("*"))
    watch("--source", video)
    assert {path for path in set(tmp_path.rglob("*")) - before if "gallery.db" not in path.name} == set()


def test_every_frame_is_looked_at_if_one_asks_for_it(watch, call, enrolled: Path, video: Path, capsys):
    assert watch("--source", video, "--interval", 1)[1]["looks"] == 12
    with pytest.raises(SystemExit) as end:
        recognize.main(["--source", str(video), "--interval", "0"])
    assert end.value.code == 2
    assert "0 is less than 1" in capsys.readouterr().err


def test_sigterm_ends_cleanly_with_status_0(watch, enrolled: Path, video: Path, monkeypatch):
    class Terminated(Interrupted):
        def __call__(self, spec: str, *_: object) -> Source:
            def images():
                yield from ((spec, image) for image in self.images)
                os.kill(os.getpid(), signal.SIGTERM)
                yield spec, self.images[0]

            return Source(spec, images(), fps=15.0)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(recognize, "open_source", Terminated(video, 6))
    told, _ = watch("--source", "x")
    assert told_of(told) == [("seen", 1, "Eileen Collins"), ("gone", 1, "Eileen Collins")]
    assert signal.getsignal(signal.SIGTERM) == before


def test_systemd_is_told_that_it_is_ready_alive_and_stopping(watch, enrolled: Path, video: Path, tmp_path: Path, monkeypatch):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "60000000")
        monkeypatch.delenv("WATCHDOG_PID", raising=False)
        watch("--source", video)
        assert [manager.recv(100) for _ in range(3)] == [b"READY=1", b"WATCHDOG=1", b"STOPPING=1"]


@pytest.mark.slow
@pytest.mark.parametrize("clip", ["two-p1-p2.mp4", "two-p4-p5.mp4", "crowd.mp4"])
def test_faces_side_by_side_never_share_a_name(clip, bundle_path: Path, data: Path, yunet: Path, tmp_path: Path, validate):
    """Real clips, the shipped bundle: two tracks for two faces, the right names, and none for strangers."""
    options = ["--gallery", str(tmp_path / "people.db"), "--encoder", str(bundle_path), "--detector-model", str(yunet)]
    for person in ("p1", "p2", "p4"):
        demo.call(enroll.main, "add", person, data / "clips" / f"{person}-a.mp4", *options)
    told, _ = demo.recognise(data / "clips" / clip, *options)
    for event in told:
        validate(event, "event")
    names = sorted(event["name"] or "" for event in told if event["event"] == "gone")
    if clip == "crowd.mp4":
        assert set(names) == {""}
    else:
        assert names == (["p1", "p2"] if "p1" in clip else ["", "p4"])
