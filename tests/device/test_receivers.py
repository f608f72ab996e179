import contextlib
import json
import shutil
import socket
import sys
import urllib.request
from pathlib import Path

import pytest
from pretended_broker import NOT_AUTHORIZED, Pretended

from device import courier, enroll, receivers, recognize, vault
from device.camera import Source, open_source
from device.gallery import default_path
from device.homeassistant import slug
from device.outbox import Outbox

pytest.importorskip("paho.mqtt.client", reason="paho-mqtt is not installed")
PASSWORD, SECRET = "s3cret-pass", "s3cret-hook-0123456789"
EVENTS = "omokage/door/events"


@pytest.fixture
def nobody() -> int:
    """A port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


@pytest.fixture
def enrolled(pixels, astronaut: Path, capsys) -> None:
    assert enroll.main(["add", "Eileen Collins", str(astronaut)]) == 0
    capsys.readouterr()


@pytest.fixture
def call(capsys, pixels):
    """call("--source", ...) -> exit status, the events on stdout, and stderr as lines."""

    def run(*words: object) -> tuple[int, list[dict], list[str]]:
        status = recognize.main(["--json", "--device-name", "door", *map(str, words)])
        out, err = capsys.readouterr()
        return status, [json.loads(line) for line in out.splitlines()], err.splitlines()

    return run


def file(path: Path, text: str) -> Path:
    path.write_text(text + "\n")
    return path


def test_what_is_printed_is_what_the_broker_gets(call, enrolled, pretended: Pretended, astronaut: Path, validate):
    status, told, err = call("--source", astronaut, "--mqtt", f"mqtt://127.0.0.1:{pretended.port}")
    got = [json.loads(payload) for payload in pretended.payloads(EVENTS)]
    assert status == 0
    assert got == told and [event["event"] for event in got] == ["seen", "gone"]
    for event in got:
        validate(event, "event")
    assert pretended.retained()[f"omokage/door/people/{slug('Eileen Collins')}"] == b"home"
    validate(json.loads(err[-1]), "summary")


def test_notices_go_out_without_json_too(enrolled, pretended: Pretended, astronaut: Path, tmp_path: Path, pixels, capsys):
    url = f"mqtt://127.0.0.1:{pretended.port}"
    words = ["--source", str(astronaut), "--mqtt", url, "--device-name", "door", "--gallery", str(tmp_path / "none.db")]
    assert recognize.main(words) == 0
    assert json.loads(pretended.payloads(EVENTS)[0])["code"] == "gallery-empty"
    assert "gallery-empty" not in capsys.readouterr().out


def test_without_a_broker_nothing_is_lost_and_the_next_run_delivers(call, enrolled, pretended: Pretended, nobody: int, astronaut: Path):
    status, told, err = call("--source", astronaut, "--mqtt", f"mqtt://127.0.0.1:{nobody}")
    assert status == 0 and [event["event"] for event in told if event["event"] != "notice"] == ["seen", "gone"]
    assert len([line for line in err if "is lost (Connection refused): events wait in " in line]) <= 1
    _, later, _ = call("--source", astronaut, "--mqtt", f"mqtt://127.0.0.1:{pretended.port}")
    assert [json.loads(payload)["id"] for payload in pretended.payloads(EVENTS)] == [event["id"] for event in told + later]


def test_who_is_enrolled_and_removed_while_it_runs_comes_and_goes_in_home_assistant(
    call, pretended: Pretended, astronaut: Path, monkeypatch
):
    monkeypatch.setattr("device.known.POLL", 0)
    monkeypatch.setattr("device.mqtt.TICK", 0.01)
    config = f"homeassistant/binary_sensor/omokage_door_{slug('Ada')}/config"

    def wait(there: bool) -> None:
        for _ in range(2000):
            if (config in pretended.retained()) == there and (not there or pretended.payloads(config)):
                return
            courier.time.sleep(0.005)

    def source(spec: str, *_: object) -> Source:
        def images():
            image = next(iter(open_source(str(astronaut)))).image
            yield "1", image
            with contextlib.redirect_stdout(sys.stderr):
                assert enroll.main(["add", "Ada", str(astronaut)]) == 0
            yield "2", image
            wait(True)
            with contextlib.redirect_stdout(sys.stderr):
                assert enroll.main(["remove", "Ada", "--yes"]) == 0
            yield "3", image
            wait(False)

        return Source("photos", images(), stills=True)

    monkeypatch.setattr(recognize, "open_source", source)
    call("--source", "x", "--mqtt", f"mqtt://127.0.0.1:{pretended.port}")
    assert len(pretended.payloads(config)) == 2
    assert json.loads(pretended.payloads(config)[0])["name"] == "Ada"
    assert not [topic for topic in pretended.retained() if slug("Ada") in topic]


def test_secrets_are_in_no_log_no_event_and_no_metric(call, enrolled, pretended: Pretended, nobody: int, tmp_path: Path, astronaut: Path):
    """A broker that refuses, a webhook that is not there: all that could be told is."""
    pretended.login = NOT_AUTHORIZED
    scraped: list[str] = []
    told_once = receivers.Receivers.frame

    def frame(self) -> None:
        told_once(self)
        scraped.append(self.metrics.text().decode() + json.dumps(self.metrics.health()))

    receivers.Receivers.frame = frame
    try:
        words = ["--source", astronaut, "--mqtt", f"mqtt://omokage@127.0.0.1:{pretended.port}", "--log", "json", "--metrics", "0"]
        words += ["--mqtt-password-file", file(tmp_path / "password", PASSWORD)]
        words += ["--webhook", f"http://127.0.0.1:{nobody}/hook/{SECRET}", "--webhook-secret-file", file(tmp_path / "key", SECRET)]
        status, told, err = call(*words)
    finally:
        receivers.Receivers.frame = told_once
    assert status == 0 and pretended.said[0].password == PASSWORD.encode()
    everything = "\n".join([*map(json.dumps, told), *err, *scraped, (tmp_path / "outbox.db").read_bytes().decode("latin-1")])
    assert "s3cret" not in everything
    assert scraped and "Eileen" not in "".join(scraped)
    assert all(json.loads(line) for line in err)


@pytest.mark.parametrize("user", ["ada:s3cret@", "ada:s3c@s3cret@", "@"])
@pytest.mark.parametrize("query", ["", "?pwd=s3cret&user=ada@home"])
def test_the_password_of_a_camera_is_in_no_event(call, user: str, query: str, nobody: int):
    status, told, err = call("--source", f"http://{user}127.0.0.1:{nobody}/stream{query}")
    assert (status, told) == (3, [])
    assert f"http://127.0.0.1:{nobody}/stream gives no picture" in err[-1] and "s3cret" not in err[-1]


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (["--mqtt", "http://broker"], 2, "a broker's address begins with mqtt:// or mqtts://"),
        (["--mqtt", f"mqtt://ada:{PASSWORD}@broker"], 2, "use --mqtt-password-file"),
        (["--mqtt", "mqtt://broker", "--mqtt-password-file", "nowhere"], 2, "the file nowhere cannot be read"),
        (["--mqtt", "mqtt://broker", "--mqtt-password-file", "EMPTY"], 2, "is to hold one line"),
        (["--mqtt", "mqtt://broker", "--device-name", "a/b"], 2, "cannot stand in a topic"),
        (["--mqtt", "mqtt://broker", "--mqtt-discovery", "ha/#"], 2, "topics cannot begin with 'ha/#'"),
        (["--webhook", f"site/{SECRET}"], 2, "no http:// or https:// address"),
        (["--webhook", "https://site/", "--webhook-secret-file", "SHORT"], 2, "has less than 16 bytes"),
        (["--mqtt", "mqtt://broker", "--outbox", "SHORT"], 4, "is no outbox, or a damaged one"),
        (["--mqtt", "mqtt://broker", "--outbox", "/dev/null/x"], 2, "cannot be opened"),
        (["--mqtt", "mqtt://broker", "--outbox", "TAKEN"], 2, "is in use by another recogniser"),
        (["--metrics", "PORT"], 2, "cannot be listened on"),
        (["--metrics", "door"], 2, "is no address to listen on"),
    ],
)
def test_a_wrong_call_is_one_line_without_a_secret(words, status, says, astronaut: Path, tmp_path: Path, pixels, capsys):
    with contextlib.closing(Outbox(tmp_path / "taken.db")), socket.create_server(("127.0.0.1", 0)) as taken:
        meant = {
            "EMPTY": file(tmp_path / "empty", ""),
            "SHORT": file(tmp_path / "short", "s3cret"),
            "TAKEN": tmp_path / "taken.db",
            "PORT": taken.getsockname()[1],
        }
        assert recognize.main(["--source", str(astronaut), *(str(meant.get(word, word)) for word in words)]) == status
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert says in err and "s3cret" not in err


@pytest.mark.parametrize("minutes", ["0", "-1", "nan", "inf", "soon"])
def test_nobody_is_away_at_once_or_never(minutes: str, capsys):
    with pytest.raises(SystemExit) as end:
        recognize.main(["--source", "x", "--away", minutes])
    assert end.value.code == 2
    assert "--away" in capsys.readouterr().err


def test_a_full_disk_is_told_once_and_what_is_held_is_delivered(
    call, enrolled, pretended: Pretended, astronaut: Path, grace_hopper: Path, tmp_path: Path, monkeypatch
):
    class Full(Outbox):
        """What SQLite refuses to write, it refuses."""

        def __init__(self, path: Path, **more):
            super().__init__(path, **more)
            self._in.execute("PRAGMA query_only = ON")

    monkeypatch.setattr(receivers, "Outbox", Full)
    folder = tmp_path / "photos"
    folder.mkdir()
    for photo in (astronaut, grace_hopper):
        shutil.copy(photo, folder)
    status, told, err = call("--source", folder, "--mqtt", f"mqtt://127.0.0.1:{pretended.port}")
    assert status == 0
    assert [event["event"] for event in told if event.get("code") != "outbox-failed"] == ["seen", "gone"] * 2
    assert len([event for event in told if event.get("code") == "outbox-failed"]) == 1
    assert len([line for line in err if "cannot be written: events are held in memory until it works again" in line]) == 1
    arrived = [json.loads(payload)["id"] for payload in pretended.payloads(EVENTS)]
    assert sorted(arrived) == sorted(event["id"] for event in told)


def test_metrics_are_served_while_it_runs(call, enrolled, astronaut: Path, nobody: int, monkeypatch):
    answers: list[str] = []

    def source(spec: str, *_: object) -> Source:
        def images():
            image = next(iter(open_source(str(astronaut)))).image
            yield "1", image
            for path in ("metrics", "healthz"):
                with urllib.request.urlopen(f"http://127.0.0.1:{nobody}/{path}", timeout=10) as answer:
                    answers.append(answer.read().decode())
            yield "2", image

        return Source("photos", images(), stills=True)

    monkeypatch.setattr(recognize, "open_source", source)
    assert call("--source", "x", "--metrics", nobody)[0] == 0
    assert 'omokage_verdicts_total{decision="known"} 1.0' in answers[0] and "omokage_frames_total 1.0" in answers[0]
    assert json.loads(answers[1])["status"] == "ok"


def test_a_secret_may_be_a_credential_of_systemd(call, enrolled, pretended: Pretended, tmp_path: Path, astronaut: Path, monkeypatch):
    folder = tmp_path / "credentials"
    folder.mkdir()
    file(folder / receivers.PASSWORD, PASSWORD)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
    assert vault.credential("nothing") is None
    call("--source", astronaut, "--mqtt", f"mqtt://omokage@127.0.0.1:{pretended.port}")
    assert (pretended.said[0].user, pretended.said[0].password) == ("omokage", PASSWORD.encode())


def test_without_being_asked_nobody_is_told_and_no_outbox_is_made(call, enrolled, astronaut: Path):
    assert call("--source", astronaut)[0] == 0
    assert not default_path().with_name("outbox.db").exists()


def test_with_an_encrypted_gallery_the_outbox_is_encrypted_too(
    call, pretended: Pretended, nobody: int, astronaut: Path, tmp_path: Path, capsys
):
    key = tmp_path / "key"
    key.write_bytes(bytes(range(32)))
    assert enroll.main(["add", "Eileen Collins", str(astronaut), "--key-file", str(key)]) == 0
    capsys.readouterr()
    _, told, _ = call("--source", astronaut, "--key-file", key, "--mqtt", f"mqtt://127.0.0.1:{nobody}")
    assert "Eileen Collins" in [event.get("name") for event in told]
    assert b"ileen" not in (tmp_path / "outbox.db").read_bytes()
    _, later, _ = call("--source", astronaut, "--key-file", key, "--mqtt", f"mqtt://127.0.0.1:{pretended.port}")
    assert [json.loads(payload)["id"] for payload in pretended.payloads(EVENTS)] == [event["id"] for event in told + later]


def test_the_default_installation_needs_neither_package(call, enrolled, astronaut: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "paho.mqtt", None)
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    assert call("--source", astronaut)[0] == 0
    for words, extra in ((["--mqtt", "mqtt://broker"], "mqtt"), (["--metrics", "0"], "metrics")):
        status, told, err = call("--source", astronaut, *words)
        assert (status, told, len(err)) == (3, [], 1)
        assert f"pip install 'omokage[{extra}]'" in err[0]


def test_a_name_for_the_machine_is_one_for_topics(monkeypatch):
    for name, expected in (("raspberrypi.local", "raspberrypi"), ("küche", "k-che"), ("日本", "device")):
        monkeypatch.setattr(socket, "gethostname", lambda name=name: name)
        assert receivers._own_name() == expected
