"""An MQTT broker as a receiver of events (device/courier.py), and of what Home Assistant wants to know (device/homeassistant.py).

MQTT 5 (OASIS 2019), because its acknowledgements tell where a broker takes a message and throws it away. paho-mqtt moves the bytes in
a thread of its own; when to connect, what to send and when to send it again is decided here, with one connection after the other.
"""

import json
import logging
import re
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

from device.courier import Lost
from device.homeassistant import FRESH, OFFLINE, UNKNOWN, Presence, Topics, rings
from device.outbox import Letter, Outbox
from device.program import InputError, MissingError

PORTS = {"mqtt": 1883, "mqtts": 8883}
KEEPALIVE = 20  # seconds; a broker that says nothing for one and a half of that is lost
LIMIT = 10.0  # seconds for an answer
TICK = 1.0  # second between two looks at who has left, and whether the connection is still there
MAY = "Check what its user may write"
WORD = re.compile("[A-Za-z0-9_-]{1,64}")
LEVELS = re.compile("[A-Za-z0-9_-]{1,64}(/[A-Za-z0-9_-]{1,64}){0,8}")


@dataclass(frozen=True)
class Address:
    """A broker: `mqtt://USER@HOST:PORT`, or `mqtts` for TLS."""

    host: str
    port: int
    user: str | None = None
    tls: bool = False

    def __str__(self) -> str:
        return f"the broker {self.host}:{self.port}"


def address(url: str) -> Address:
    """Raises InputError, which does not repeat what might be a password."""
    example = "write mqtt://USER@HOST, or mqtts://USER@HOST for TLS"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise InputError("the address of the broker is not understood", example) from error
    if parts.scheme not in PORTS:
        raise InputError(f"a broker's address begins with mqtt:// or mqtts://, not {parts.scheme or 'without either'}", example)
    if parts.password is not None:
        raise InputError("the password in the broker's address can be seen by everybody on this machine", "use --mqtt-password-file")
    if not parts.hostname or parts.path.strip("/") or parts.query or parts.fragment:
        raise InputError("the address of the broker is not understood", example)
    return Address(
        parts.hostname, port or PORTS[parts.scheme], unquote(parts.username) if parts.username else None, parts.scheme == "mqtts"
    )


def device_name(word: str) -> str:
    """`word`, if topics may hold it. Raises InputError."""
    if not WORD.fullmatch(word):
        raise InputError(f"{word!r} cannot stand in a topic", "use up to 64 letters, digits, - and _ for --device-name")
    return word


def prefix(word: str) -> str:
    """`word`, if topics may begin with it. Raises InputError."""
    if not LEVELS.fullmatch(word):
        raise InputError(f"topics cannot begin with {word!r}", "give --mqtt-discovery what Home Assistant's MQTT options have, or none")
    return word


class Broker:
    """Publishes events with QoS 1, one after the other, and what is retained: presence, discovery, availability.

    An event counts as delivered when the broker has acknowledged it. If a connection breaks before, it is sent again with the same id.
    Raises MissingError where paho-mqtt is not installed.
    """

    name = "mqtt"

    def __init__(
        self,
        where: Address,
        password: bytes | None,
        presence: Presence,
        topics: Topics,
        outbox: Outbox,
        clock: Callable[[], float] = time.time,
    ):
        try:
            from paho.mqtt import client
        except ImportError as error:
            raise MissingError("the package paho-mqtt is not installed", "pip install 'omokage[mqtt]'") from error
        self.address = str(where)
        self._paho: Any = client
        self._where, self._password, self._presence, self._topics = where, password, presence, topics
        self._outbox, self._clock = outbox, clock
        self._client: Any = None
        self._sent: dict[str, str | None] = dict.fromkeys(outbox.recall("retained", []))  # topic: what the broker keeps, None: unknown
        self._complained = False  # that it does not take what is retained
        self._last: dict[str, float] | None = None
        self._news = threading.Condition()  # about the three that follow, which paho's thread writes
        self._answer: Any = None
        self._broken: str | None = None
        self._acknowledged: dict[int, Any] = {}

    def open(self) -> None:
        """Connect and tell what is retained, from the beginning: the broker may be another one, or have forgotten."""
        self._answer, self._broken, self._acknowledged = None, None, {}
        self._sent = dict.fromkeys(self._sent)
        self._client = self._new_client()
        try:
            self._client.connect(self._where.host, self._where.port, KEEPALIVE)
        except (OSError, ValueError) as error:
            raise Lost(_reason(error)) from error
        self._client.loop_start()
        self._await(lambda: self._answer is not None, "it does not answer")
        if self._answer.is_failure:
            raise Lost(f"it refuses: {self._answer}. Check the user and --mqtt-password-file")

    def deliver(self, letter: Letter) -> None:
        messages = [(self._topics.events, letter.body, False)]
        if self._clock() - letter.time < FRESH and rings(json.loads(letter.body)):
            messages.append((self._topics.doorbell, UNKNOWN, False))
        if (why := self._publish(messages).get(self._topics.events)) is not None:
            raise Lost(f"it does not take {self._topics.events}: {why}. {MAY}")

    def tend(self) -> float:
        """Bring what is retained up to date."""
        self._check()
        states = self._presence.states()
        gone = [(topic, "", True) for topic in self._sent if topic not in states]  # an empty payload takes a retained message back
        news = [(topic, payload, True) for topic, payload in states.items() if self._sent.get(topic) != payload]
        changed = states.keys() != self._sent.keys()
        if changed:  # first, so that nothing is ever retained that is not known of
            self._outbox.keep("retained", list(self._sent | states))
        self._complain(self._publish(gone + news))
        if changed:
            self._outbox.keep("retained", list(states))
        self._sent = dict(states)
        last = self._presence.last()
        if last != self._last:
            self._outbox.keep("last seen", last)
            self._last = last
        return TICK

    def close(self) -> None:
        client, self._client = self._client, None
        if client is None:
            return
        if client.is_connected():
            client.publish(self._topics.status, OFFLINE, qos=1, retain=True)  # what the last will says where there is no farewell
            client.disconnect()
        client.loop_stop()

    def _new_client(self) -> Any:
        paho = self._paho
        client = paho.Client(
            paho.CallbackAPIVersion.VERSION2, f"omokage-{self._topics.device}", protocol=paho.MQTTv5, reconnect_on_failure=False
        )
        if self._where.user is not None or self._password is not None:
            client.username_pw_set(self._where.user or "", self._password)
        if self._where.tls:
            client.tls_set_context(ssl.create_default_context())
        client.will_set(self._topics.status, OFFLINE, qos=1, retain=True)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        return client

    def _publish(self, messages: Sequence[tuple[str, str, bool]]) -> dict[str, Any]:
        """Send messages (topic, payload, retain) and wait until the broker has them all. Which topics it does not take, and why.

        Raises Lost.
        """
        sent = {self._client.publish(topic, payload, 1, retain).mid: topic for topic, payload, retain in messages}
        self._await(lambda: sent.keys() <= self._acknowledged.keys(), "it does not acknowledge")
        with self._news:
            answers = {topic: self._acknowledged.pop(mid) for mid, topic in sent.items()}
        return {topic: code for topic, code in answers.items() if code.is_failure}

    def _complain(self, refused: dict[str, Any]) -> None:
        """Say once that something that is retained is not taken: without it there still are events."""
        if refused and not self._complained:
            topic, why = next(iter(refused.items()))
            logging.getLogger("omokage").warning(f"{self.address} does not take {topic}: {why}. {MAY}")
            self._complained = True

    def _await(self, done: Callable[[], bool], otherwise: str) -> None:
        with self._news:
            there = self._news.wait_for(lambda: done() or self._broken is not None, LIMIT)
            if not done():
                raise Lost(self._broken if there and self._broken else otherwise)

    def _check(self) -> None:
        with self._news:
            if self._broken is not None:
                raise Lost(self._broken)

    def _on_connect(self, client: Any, data: Any, flags: Any, code: Any, properties: Any) -> None:
        with self._news:
            self._answer = code
            self._news.notify_all()

    def _on_disconnect(self, client: Any, data: Any, flags: Any, code: Any, properties: Any) -> None:
        with self._news:
            self._broken = "the connection broke"
            self._news.notify_all()

    def _on_publish(self, client: Any, data: Any, mid: int, code: Any, properties: Any) -> None:
        with self._news:
            self._acknowledged[mid] = code
            self._news.notify_all()


def _reason(error: Exception) -> str:
    """Why a connection failed, in a line."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).rstrip(".")
