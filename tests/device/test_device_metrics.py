import json
import re
import sys
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest
from clock import Clock

from device import events, metrics
from device.metrics import Metrics, Server, address, temperatures
from device.pipeline import STAGES
from device.program import InputError, MissingError

parser = pytest.importorskip("prometheus_client.parser", reason="prometheus-client is not installed")


class Recogniser:
    """What of a recogniser the metrics look at."""

    def __init__(self):
        self.frames = self.looks = self.faces = self.crops = 0
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self.encoder, self.detector = SimpleNamespace(backend="cpu", deaths=2), SimpleNamespace(name="mtcnn")

    def frame(self, faces: int, **seconds: float) -> None:
        self.frames += 1
        self.looks += 1
        self.faces += faces
        self.crops += faces
        for stage, taken in seconds.items():
            self.seconds[stage] += taken


@pytest.fixture
def recogniser() -> Recogniser:
    return Recogniser()


@pytest.fixture
def made(clock: Clock, recogniser: Recogniser) -> Metrics:
    told = Metrics(clock)
    told.follow(recogniser)
    return told


def samples(told: Metrics) -> dict[tuple, float]:
    """Name and labels: value, as Prometheus' own parser reads it."""
    families = parser.text_string_to_metric_families(told.text().decode())
    return {(sample.name, *sorted(sample.labels.items())): sample.value for family in families for sample in family.samples}


def judged(kind: str, decision: str, name: str | None = None) -> dict:
    return {"event": kind, "decision": decision, "name": name}


def test_what_is_counted(made: Metrics, recogniser: Recogniser):
    for faces in (1, 2, 0):
        recogniser.frame(faces, decide=0.001)
        made.frame()
    for event in (judged("seen", "known", "Ada"), judged("changed", "unknown"), judged("gone", "unknown"), judged("seen", "review")):
        made.event(event)
    found = samples(made)
    assert [found[(f"omokage_{what}_total",)] for what in ("frames", "looks", "faces", "crops", "worker_deaths")] == [3, 3, 3, 3, 2]
    assert [found["omokage_verdicts_total", ("decision", word)] for word in ("known", "unknown", "review")] == [1, 1, 1]
    assert found["omokage_events_total", ("event", "gone")] == 1
    assert found["omokage_backend_info", ("backend", "cpu"), ("detector", "mtcnn")] == 1
    assert found[("process_resident_memory_bytes",)] > 0


def test_the_time_of_a_stage_is_that_of_the_frames_that_had_it(made: Metrics, recogniser: Recogniser):
    recogniser.frame(1, detect=0.03, align=0.001, embed=0.004, decide=0.002)
    made.frame()
    recogniser.looks -= 1  # a frame that was not looked at: its embedding is the watch over the worker only
    recogniser.frame(0, embed=0.0001, decide=0.001)
    made.frame()
    found = samples(made)
    counts = {stage: found["omokage_stage_seconds_count", ("stage", stage)] for stage in STAGES}
    sums = {stage: round(found["omokage_stage_seconds_sum", ("stage", stage)], 6) for stage in STAGES}
    assert counts == {"detect": 1, "align": 1, "embed": 1, "decide": 2}
    assert sums == {"detect": 0.03, "align": 0.001, "embed": 0.004, "decide": 0.003}
    assert found["omokage_stage_seconds_bucket", ("le", "0.02"), ("stage", "detect")] == 0
    assert found["omokage_stage_seconds_bucket", ("le", "0.05"), ("stage", "detect")] == 1


def test_no_name_of_a_person_is_told(made: Metrics):
    for name in ("Ada Lovelace", 'quo"te\n'):
        made.event(judged("seen", "known", name))
    made.event(events.notice("camera-lost", "warning", "rtsp://ada:s3cret@door is lost"))
    told = made.text().decode() + json.dumps(made.health())
    assert not [word for word in ("Ada", "Lovelace", "quo", "s3cret", "rtsp") if word in told]
    assert samples(made)["omokage_notices_total", ("code", "camera-lost"), ("level", "warning")] == 1


def test_health(made: Metrics, recogniser: Recogniser, clock: Clock):
    assert (made.health()["ok"], made.health()["status"]) == (False, "starting")
    recogniser.frame(1)
    made.frame()
    clock.now += 2
    assert made.health() == {
        "ok": True,
        "status": "ok",
        "seconds_since_frame": 2.0,
        "frames": 1,
        "backend": "cpu",
        "receivers": {},
    }
    made.event(events.notice("camera-lost", "warning", "gone"))
    assert (made.health()["ok"], made.health()["status"]) == (False, "camera lost")
    made.event(events.notice("camera-back", "info", "back"))
    clock.now += metrics.STALLED
    assert (made.health()["ok"], made.health()["status"]) == (False, "no frames")
    assert samples(made)[("omokage_healthy",)] == 0


def test_deliveries_are_told(made: Metrics):
    outbox = SimpleNamespace(waiting=lambda receiver: 7, dropped={"mqtt": 3})
    made.deliveries(outbox, [SimpleNamespace(carrier=SimpleNamespace(name="mqtt"), connected=True, delivered=5)])
    found, where = samples(made), ("receiver", "mqtt")
    names = ("outbox_events", "receiver_connected", "delivered_total", "outbox_dropped_total")
    assert [found[f"omokage_{name}", where] for name in names] == [7, 1, 5, 3]
    assert made.health()["receivers"] == {"mqtt": {"connected": True, "waiting": 7, "delivered": 5, "dropped": 3}}


def test_temperatures(tmp_path: Path):
    for zone, kind, degrees in (("thermal_zone0", "cpu-thermal\n", "48312\n"), ("thermal_zone1", "gpu\n", "broken"), ("cooling", "", "1")):
        (tmp_path / zone).mkdir()
        (tmp_path / zone / "type").write_text(kind)
        (tmp_path / zone / "temp").write_text(degrees)
    assert temperatures(tmp_path) == {"thermal_zone0 cpu-thermal": 48.312}
    assert temperatures(tmp_path / "nowhere") == {}


def fetch(port: int, path: str, method: str = "GET") -> tuple[int, str, bytes]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["Content-Type"], error.read()


def test_served_on_loopback(made: Metrics, recogniser: Recogniser):
    server = Server(made, *address("0"))
    try:
        assert fetch(server.port, "/healthz")[0] == 503
        recogniser.frame(1)
        made.frame()
        status, kind, body = fetch(server.port, "/healthz")
        assert (status, kind, json.loads(body)["status"]) == (200, "application/json", "ok")
        status, kind, body = fetch(server.port, "/metrics?x=1")
        assert (status, kind) == (200, made.CONTENT_TYPE) and b"omokage_frames_total 1.0" in body
        assert fetch(server.port, "/../../etc/passwd")[0] == 404
        assert fetch(server.port, "/metrics", "POST")[0] == 501
        with pytest.raises(InputError, match=f"port {server.port} of 127.0.0.1 cannot be listened on .*: name another with --metrics"):
            Server(made, "127.0.0.1", server.port)
    finally:
        server.close()


@pytest.mark.parametrize(
    ("word", "expected"),
    [("9100", ("127.0.0.1", 9100)), ("0.0.0.0:9100", ("0.0.0.0", 9100)), ("[::1]:9100", ("::1", 9100)), (":9100", ("127.0.0.1", 9100))],
)
def test_addresses(word: str, expected: tuple[str, int]):
    assert address(word) == expected


@pytest.mark.parametrize("word", ["", "localhost", "localhost:", "1:70000", "-1"])
def test_what_is_no_address(word: str):
    with pytest.raises(ValueError):
        address(word)


def test_without_prometheus_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(MissingError, match=r"pip install 'omokage\[metrics\]'"):
        Metrics()


DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("page", ["grafana.json", "home-assistant.md"])
def test_every_metric_in_the_documents_exists(made: Metrics, recogniser: Recogniser, page: str):
    recogniser.frame(1, detect=0.01)
    made.frame()
    made.event(events.notice("test", "warning", ""))
    made.deliveries(
        SimpleNamespace(waiting=lambda receiver: 0, dropped={"mqtt": 0}),
        [SimpleNamespace(carrier=SimpleNamespace(name="mqtt"), connected=True, delivered=0)],
    )
    there = {name for name, *_ in samples(made)} | {"omokage_temperature_celsius", "omokage_stage_seconds"}
    named = set(re.findall(r"\b(?:omokage_[a-z_]+|process_[a-z_]+_bytes)\b", (DOCS / page).read_text("utf-8")))
    named -= {"omokage_door_ada", "omokage_door_camera", "omokage_door_"}
    assert len(named) > 10 and named - there == set()


def test_the_dashboard_is_one_that_grafana_imports():
    board = json.loads((DOCS / "grafana.json").read_text())
    assert board["__inputs"][0]["pluginId"] == "prometheus" and board["title"] == "Omokage"
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) == 12
    taken = [(x, y) for p in panels for g in [p["gridPos"]] for x in range(g["x"], g["x"] + g["w"]) for y in range(g["y"], g["y"] + g["h"])]
    assert len(set(taken)) == len(taken) and max(x for x, _ in taken) < 24
    assert all(target["expr"].count("(") == target["expr"].count(")") for panel in panels for target in panel["targets"])
