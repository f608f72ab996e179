"""Figures for the operator: Prometheus metrics, and whether all is well. No names of people, and no addresses with secrets in them.

prometheus-client writes the format (https://prometheus.io/docs/instrumenting/exposition_formats/).
"""

import contextlib
import http.server
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from device.courier import Courier
from device.events import Event
from device.outbox import Outbox
from device.pipeline import STAGES, Recogniser
from device.program import InputError, MissingError

BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)  # seconds of a stage: from a desktop to a Pi in trouble
STALLED = 30.0  # seconds without a frame after which something is amiss
TICK = 0.1  # seconds that closing a server may take
OK, STARTING = "ok", "starting"
THERMAL = Path("/sys/class/thermal")
LOOPBACK = "127.0.0.1"


class Metrics:
    """What a recogniser does, told to whoever asks, from any thread. Raises MissingError where prometheus-client is not installed.

    `frame` is to be called after every frame, `event` with every event, the other two once.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        try:
            import prometheus_client
            from prometheus_client import core, exposition
        except ImportError as error:
            raise MissingError("the package prometheus-client is not installed", "pip install 'omokage[metrics]'") from error
        self.CONTENT_TYPE: str = exposition.CONTENT_TYPE_LATEST
        self._client, self._families, self._clock = prometheus_client, core, clock
        self._registry = prometheus_client.CollectorRegistry()
        self._recogniser: Recogniser | None = None
        self._outbox: Outbox | None = None
        self._couriers: Sequence[Courier] = ()
        self._seen: float | None = None  # when the last frame came
        self._camera = OK
        self._before: dict[str, float] = dict.fromkeys(STAGES, 0.0)
        self._counted: dict[str, int] = {}
        self._verdicts = prometheus_client.Counter("omokage_verdicts", "Verdicts told", ["decision"], registry=self._registry)
        self._events = prometheus_client.Counter("omokage_events", "Events told", ["event"], registry=self._registry)
        self._notices = prometheus_client.Counter("omokage_notices", "Notices told", ["code", "level"], registry=self._registry)
        stages = prometheus_client.Histogram(
            "omokage_stage_seconds", "Time of a stage in a frame that had it", ["stage"], registry=self._registry, buckets=BUCKETS
        )
        self._stages = {stage: stages.labels(stage) for stage in STAGES}
        for decision in ("known", "unknown", "review"):
            self._verdicts.labels(decision)  # a rate of nothing is 0, not nothing
        prometheus_client.ProcessCollector(registry=self._registry)
        self._registry.register(self)

    def follow(self, recogniser: Recogniser) -> None:
        """Tell what this one does from now on."""
        self._recogniser = recogniser
        self._before, self._counted = dict(recogniser.seconds), self._counts(recogniser)

    def deliveries(self, outbox: Outbox, couriers: Sequence[Courier]) -> None:
        """Tell of events on their way too."""
        self._outbox, self._couriers = outbox, couriers

    def frame(self) -> None:
        """The recogniser has processed another frame."""
        self._seen = self._clock()
        if self._recogniser is None:
            return
        counted, seconds = self._counts(self._recogniser), self._recogniser.seconds
        counts = {"detect": "looks", "align": "faces", "embed": "crops", "decide": "frames"}  # a stage runs where this goes up
        for stage, what in counts.items():
            if counted[what] > self._counted[what]:
                self._stages[stage].observe(max(seconds[stage] - self._before[stage], 0.0))
        self._before, self._counted = dict(seconds), counted

    def event(self, event: Event) -> None:
        self._events.labels(event["event"]).inc()
        if event["event"] in ("seen", "changed"):
            self._verdicts.labels(event["decision"]).inc()
        elif event["event"] == "notice":
            self._notices.labels(event["code"], event["level"]).inc()
            self._camera = {"camera-lost": "camera lost", "camera-back": OK}.get(event["code"], self._camera)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format, to be served as CONTENT_TYPE."""
        return self._client.generate_latest(self._registry)

    def health(self) -> dict[str, Any]:
        """`status` is "ok", or what is amiss; the rest says more. Nothing about people."""
        since = None if self._seen is None else self._clock() - self._seen
        stalled = since is not None and since > STALLED
        status = self._camera if self._camera != OK else STARTING if since is None else "no frames" if stalled else OK
        return {
            "ok": status == OK,
            "status": status,
            "seconds_since_frame": None if since is None else round(since, 1),
            "frames": self._recogniser.frames if self._recogniser else 0,
            "backend": self._recogniser.encoder.backend if self._recogniser else None,
            "receivers": {courier.carrier.name: self._delivery(courier) for courier in self._couriers},
        }

    def collect(self) -> Iterator[Any]:
        """For prometheus-client: what is counted elsewhere, at the moment of asking."""
        counter, gauge = self._families.CounterMetricFamily, self._families.GaugeMetricFamily
        if self._recogniser is not None:
            for what, value in self._counts(self._recogniser).items():
                yield counter(f"omokage_{what}", f"{what.capitalize()} so far", value)
            yield counter("omokage_worker_deaths", "Edge TPU workers lost", getattr(self._recogniser.encoder, "deaths", 0))
            backend = gauge("omokage_backend_info", "What computes embeddings, and what finds faces", labels=["backend", "detector"])
            backend.add_metric([self._recogniser.encoder.backend, self._recogniser.detector.name], 1)
            yield backend
        yield gauge("omokage_healthy", "1: frames come, and the camera is there", self.health()["ok"])
        yield from self._mail()
        temperature = gauge("omokage_temperature_celsius", "Of the machine", labels=["zone"])
        for zone, degrees in temperatures().items():
            temperature.add_metric([zone], degrees)
        yield temperature

    def _mail(self) -> Iterator[Any]:
        """Of the outbox."""
        counter, gauge = self._families.CounterMetricFamily, self._families.GaugeMetricFamily
        waiting = gauge("omokage_outbox_events", "Events that wait for a receiver", labels=["receiver"])
        connected = gauge("omokage_receiver_connected", "1: the receiver is there", labels=["receiver"])
        delivered = counter("omokage_delivered", "Events that a receiver has acknowledged", labels=["receiver"])
        dropped = counter("omokage_outbox_dropped", "Events dropped because too many waited", labels=["receiver"])
        for courier in self._couriers:
            told = self._delivery(courier)
            for family, key in ((waiting, "waiting"), (connected, "connected"), (delivered, "delivered"), (dropped, "dropped")):
                family.add_metric([courier.carrier.name], float(told[key]))
        yield from (waiting, connected, delivered, dropped)

    def _delivery(self, courier: Courier) -> dict[str, Any]:
        name, outbox = courier.carrier.name, self._outbox
        return {
            "connected": courier.connected,
            "waiting": outbox.waiting(name) if outbox else 0,
            "delivered": courier.delivered,
            "dropped": outbox.dropped[name] if outbox else 0,
        }

    @staticmethod
    def _counts(recogniser: Recogniser) -> dict[str, int]:
        return {what: getattr(recogniser, what) for what in ("frames", "looks", "faces", "crops")}


def temperatures(root: Path = THERMAL) -> dict[str, float]:
    """Degrees Celsius of the machine's thermal zones, as far as it has some."""
    found = {}
    for zone in sorted(root.glob("thermal_zone*")):
        with contextlib.suppress(OSError, ValueError):  # a zone may be there and not tell
            found[f"{zone.name} {(zone / 'type').read_text().strip()}"] = int((zone / "temp").read_text()) / 1000
    return found


def address(word: str) -> tuple[str, int]:
    """[ADDRESS:]PORT, by default on loopback. Raises ValueError."""
    host, _, port = word.rpartition(":")
    number = int(port)
    if not 0 <= number <= 65535:
        raise ValueError(f"there is no port {number}")
    return host.strip("[]") or LOOPBACK, number


class Server:
    """Serves /metrics and /healthz (200, or 503 where something is amiss) to whoever can reach `host`. Raises InputError."""

    def __init__(self, metrics: Metrics, host: str, port: int):
        class Handler(http.server.BaseHTTPRequestHandler):
            timeout = 10  # seconds; one that asks and does not listen holds no thread for good

            def do_GET(self) -> None:
                self._answer(*answer(metrics, self.path))

            def _answer(self, status: int, kind: str, body: bytes) -> None:
                self.send_response(status)
                for key, value in (("Content-Type", kind), ("Content-Length", str(len(body))), ("Cache-Control", "no-store")):
                    self.send_header(key, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Nobody wants a line for every scrape."""

        class Threads(http.server.ThreadingHTTPServer):
            daemon_threads = True
            address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

            def handle_error(self, *_: object) -> None:
                """Whoever asked has gone."""

        try:
            self._server = Threads((host, port), Handler)
        except OSError as error:
            raise InputError(f"port {port} of {host} cannot be listened on ({error.strerror})", "name another with --metrics") from error
        self.port = self._server.server_address[1]
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{self.port}/metrics"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(TICK,), name="omokage-metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def answer(metrics: Metrics, path: str) -> tuple[int, str, bytes]:
    """Status, content type and body for a GET of `path`."""
    where = path.partition("?")[0]
    if where == "/metrics":
        return 200, metrics.CONTENT_TYPE, metrics.text()
    if where == "/healthz":
        health = metrics.health()
        return (200 if health["ok"] else 503), "application/json", json.dumps(health).encode()
    return 404, "text/plain", b"/metrics or /healthz\n"
