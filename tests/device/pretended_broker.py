"""A broker for tests, which does what it is told to: the parts of MQTT 5 (OASIS 2019) that a publisher meets."""

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

CONNECT, CONNACK, PUBLISH, PUBACK, PINGREQ, DISCONNECT = 1, 2, 3, 4, 12, 14
SUCCESS, NOT_AUTHORIZED = 0x00, 0x87


@dataclass
class Said:
    """What a client said when it connected."""

    client: str
    user: str | None
    password: bytes | None
    will: tuple[str, bytes] | None


@dataclass
class Pretended:
    """Listens on a free port of loopback. `messages` is all that was published (topic, payload, retained), `said` who connected.

    `login` is what CONNECT is answered; `judge` gets a topic and tells what PUBLISH is answered, None for not at all, and
    may `hang_up` instead.
    """

    login: int = SUCCESS
    judge: Callable[[str], int | None] = lambda topic: SUCCESS
    messages: list[tuple[str, bytes, bool]] = field(default_factory=list)
    said: list[Said] = field(default_factory=list)
    farewells: int = 0

    def __post_init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self._connections: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def payloads(self, topic: str) -> list[bytes]:
        return [payload for found, payload, _ in list(self.messages) if found == topic]

    def retained(self) -> dict[str, bytes]:
        """What a broker would have kept by now."""
        kept = {topic: payload for topic, payload, retained in list(self.messages) if retained}
        return {topic: payload for topic, payload in kept.items() if payload}

    def hang_up(self) -> None:
        for connection in self._connections:
            with contextlib.suppress(OSError):  # it has gone already
                connection.shutdown(socket.SHUT_RDWR)
        self._connections = []

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self.hang_up()
        self._thread.join()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            self._connections.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as stream:
            try:
                while head := stream.read(1):
                    body = stream.read(_varint(stream))
                    self._take(connection, head[0], body)
            except (OSError, struct.error, LookupError, UnicodeDecodeError):  # no MQTT
                return

    def _take(self, connection: socket.socket, head: int, body: bytes) -> None:
        kind = head >> 4
        if kind == CONNECT:
            self.said.append(_connect(body))
            connection.sendall(bytes([CONNACK << 4, 3, 0, self.login, 0]))
        elif kind == PUBLISH:
            length = struct.unpack(">H", body[:2])[0]
            topic, mid, rest = body[2 : 2 + length].decode(), body[2 + length : 4 + length], body[4 + length :]
            self.messages.append((topic, rest[1 + rest[0] :], bool(head & 1)))
            code = self.judge(topic)
            if code is not None:
                connection.sendall(bytes([PUBACK << 4, 4]) + mid + bytes([code, 0]))
        elif kind == PINGREQ:
            connection.sendall(bytes([13 << 4, 0]))
        elif kind == DISCONNECT:
            self.farewells += 1


def _varint(stream) -> int:
    value = shift = 0
    while True:
        byte = stream.read(1)[0]
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value


def _connect(body: bytes) -> Said:
    """MQTT 5, section 3.1."""
    flags = body[7]
    at = 10 + 1 + body[10]  # the properties

    def field_at(at: int) -> tuple[bytes, int]:
        length = struct.unpack(">H", body[at : at + 2])[0]
        return body[at + 2 : at + 2 + length], at + 2 + length

    client, at = field_at(at)
    will = None
    if flags & 4:
        at += 1 + body[at]
        topic, at = field_at(at)
        payload, at = field_at(at)
        will = (topic.decode(), payload)
    user, at = field_at(at) if flags & 128 else (None, at)
    password = field_at(at)[0] if flags & 64 else None
    return Said(client.decode(), user.decode() if user is not None else None, password, will)
