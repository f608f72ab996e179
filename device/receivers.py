"""Who is told of events besides stdout: an MQTT broker with Home Assistant behind it, a web address, and the operator's metrics."""

import argparse
import contextlib
import json
import logging
import re
import socket
from collections.abc import Callable, Iterable
from pathlib import Path

from device import homeassistant, metrics, mqtt, vault, webhook
from device.courier import Carrier, Courier
from device.events import Event
from device.metrics import Metrics
from device.outbox import Outbox
from device.pipeline import Recogniser
from device.program import InputError, MissingError

GRACE = 5.0  # seconds at the end for what is still to be delivered
LONGEST = 7 * 24 * 60  # minutes after which anybody is away
NO_DISCOVERY = "none"
PASSWORD, SECRET = "omokage-mqtt", "omokage-webhook"  # systemd's credentials


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `Receivers`."""
    group = parser.add_argument_group("who else is told")
    group.add_argument("--mqtt", metavar="URL", help="a broker, mqtt://USER@HOST or mqtts://USER@HOST, for Home Assistant and others")
    group.add_argument("--mqtt-password-file", type=Path, metavar="FILE", help=f"its password (default: systemd's credential {PASSWORD})")
    group.add_argument(
        "--mqtt-discovery",
        default=homeassistant.PREFIX,
        metavar="PREFIX",
        help=f"where Home Assistant looks for devices, {NO_DISCOVERY} for not at all (default: %(default)s)",
    )
    group.add_argument("--device-name", metavar="WORD", help="in topics: omokage/WORD/events (default: the name of this machine)")
    group.add_argument(
        "--away",
        type=_minutes,
        default=homeassistant.AWAY,
        metavar="MINUTES",
        help="somebody not seen for so long is not at home (default: %(default)g)",
    )
    group.add_argument("--webhook", metavar="URL", help="an address that gets each event as a POST of JSON")
    group.add_argument("--webhook-secret-file", type=Path, metavar="FILE", help=f"signs it (default: systemd's credential {SECRET})")
    group.add_argument("--outbox", type=Path, metavar="FILE", help="where events wait for those two (default: beside the gallery)")
    group.add_argument("--metrics", metavar="[ADDRESS:]PORT", help="serve /metrics (Prometheus) and /healthz; on loopback if no ADDRESS")


def _minutes(word: str) -> float:
    minutes = float(word)
    if not 0 < minutes <= LONGEST:
        raise argparse.ArgumentTypeError(f"{word} is not between 0 and {LONGEST}")
    return minutes


class Receivers:
    """Those that `args` names, for a recogniser of the gallery at `gallery`, encrypted with `key`; close them after use.

    `notify` gets a code, a message and a level. All methods return at once and never fail.
    Raises InputError (what cannot be meant, an outbox or a port in use), MissingError (a package) or StoredError (a damaged outbox).
    """

    def __init__(self, args: argparse.Namespace, gallery: Path, notify: Callable[[str, str, str], None], key: bytes | None = None):
        self._notify = notify
        self._presence: homeassistant.Presence | None = None
        self._outbox: Outbox | None = None
        self._carriers: list[Carrier] = []
        self._couriers: list[Courier] = []
        self._told_full = self._told_failure = False
        self._stack = contextlib.ExitStack()
        with self._stack:
            self.metrics = _metrics(bool(args.metrics)) if args.metrics or args.journal else None
            if self.metrics and args.metrics:
                server = metrics.Server(self.metrics, *_listen(args.metrics))
                self._stack.callback(server.close)
                logging.getLogger("omokage").info(f"metrics are at {server.url}")
            if args.mqtt or args.webhook:
                self._outbox = Outbox(args.outbox or gallery.with_name("outbox.db"), key=key)
                self._stack.callback(self._outbox.close)
                self._carriers = self._meant(args, self._outbox)
            self._stack = self._stack.pop_all()

    def tell(self, event: Event) -> None:
        if self.metrics:
            self.metrics.event(event)
        if self._presence:
            self._presence.note(event)
        if self._outbox:
            self._outbox.put([carrier.name for carrier in self._carriers], event)
            self._wake()
            self._complain(self._outbox)

    def people(self, names: Iterable[str]) -> None:
        """Who is enrolled now. The first time it sends the couriers off: before, everybody would be taken for removed."""
        if self._presence:
            self._presence.people(names)
        if self._outbox and not self._couriers:
            self._couriers = [Courier(carrier, self._outbox, self._notify) for carrier in self._carriers]
            if self.metrics:
                self.metrics.deliveries(self._outbox, self._couriers)
        self._wake()

    def answers(self) -> dict[str, Callable[[], bytes]]:
        """What the page asks a recogniser (device/live.py)."""
        told = self.metrics
        return {"health": lambda: json.dumps(told.health()).encode(), "metrics": told.text} if told else {}

    def follow(self, recogniser: Recogniser) -> None:
        """Whose figures the metrics tell."""
        if self.metrics:
            self.metrics.follow(recogniser)

    def frame(self) -> None:
        """A frame was processed."""
        if self.metrics:
            self.metrics.frame()

    def close(self) -> None:
        """Deliver what can be delivered within GRACE; the rest waits for the next time."""
        for courier in self._couriers:
            courier.end(GRACE)
        for courier in self._couriers:
            courier.join()
        self._stack.close()

    def _meant(self, args: argparse.Namespace, outbox: Outbox) -> list[Carrier]:
        carriers: list[Carrier] = []
        if args.mqtt:
            where = mqtt.address(args.mqtt)
            topics = homeassistant.Topics(mqtt.device_name(args.device_name) if args.device_name else _own_name())
            prefix = None if args.mqtt_discovery == NO_DISCOVERY else mqtt.prefix(args.mqtt_discovery)
            self._presence = homeassistant.Presence(topics, args.away, prefix, outbox.recall("last seen", {}))
            password = _secret(args.mqtt_password_file, PASSWORD, "--mqtt-password-file")
            carriers.append(mqtt.Broker(where, password, self._presence, topics, outbox))
        if args.webhook:
            secret = _secret(args.webhook_secret_file, SECRET, "--webhook-secret-file")
            carriers.append(webhook.Webhook(args.webhook, webhook.key_of(secret) if secret else None))
        return carriers

    def _wake(self) -> None:
        for courier in self._couriers:
            courier.wake()

    def _complain(self, outbox: Outbox) -> None:
        """Tell once that events are lost, or may be. What tells is an event too, hence the order."""
        full, failed = bool(outbox.dropped), outbox.failure is not None
        if full and not self._told_full:
            self._told_full = True
            self._notify("outbox-full", f"{outbox.path} holds as many events as it may: the oldest are dropped, and counted", "error")
        if failed and not self._told_failure:
            self._told_failure = True
            held = f"events are held in memory until it works again ({outbox.failure}): free some space"
            self._notify("outbox-failed", f"{outbox.path} cannot be written: {held}", "error")
        self._told_failure = failed


def _metrics(required: bool) -> Metrics | None:
    """For the page they are nice to have. Raises MissingError where they are `required` and their package is not installed."""
    try:
        return Metrics()
    except MissingError:
        if required:
            raise
        return None


def _listen(word: str) -> tuple[str, int]:
    try:
        return metrics.address(word)
    except ValueError as error:
        raise InputError(f"{word} is no address to listen on", "write --metrics PORT, or ADDRESS:PORT") from error


def _own_name() -> str:
    """The name of this machine, as far as topics may hold it."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", socket.gethostname().partition(".")[0])[:64].strip("-") or "device"


def _secret(path: Path | None, credential: str, option: str) -> bytes | None:
    """What is in the file `path`, else in systemd's `credential`, without the line's end; None where there is neither."""
    path = path or vault.credential(credential)
    if path is None:
        return None
    try:
        secret = path.read_bytes().rstrip(b"\r\n")
    except OSError as error:
        raise InputError(f"the file {path} cannot be read ({error.strerror})", f"name another one with {option}") from error
    if not secret or b"\n" in secret:
        raise InputError(f"the file {path} is to hold one line, the secret", f"name another one with {option}")
    return secret
