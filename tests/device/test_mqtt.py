import contextlib
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from pretended_broker import NOT_AUTHORIZED, SUCCESS, Pretended

from device import courier, events, mqtt
from device.courier import Courier
from device.homeassistant import Presence, Topics, slug
from device.mqtt import Address, Broker
from device.outbox import Outbox
from device.program import InputError, MissingError

pytest.importorskip("paho.mqtt.client", reason="paho-mqtt is not installed")
MOSQUITTO = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
TOPICS = Topics("door")
ADA = TOPICS.presence(slug("Ada"))


def until(holds: Callable[[], object], patience: float = 15.0) -> None:
    end = time.monotonic() + patience
    while not holds():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.005)


def judged(kind: str, name: str | None, track: int = 1, quality: float = 0.9) -> dict:
    decision = "known" if name else "unknown"
    return events.notice("x", "info", "x") | {"event": kind, "track": track, "name": name, "decision": decision, "quality": quality}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(courier, "FIRST", 0.02)
    monkeypatch.setattr(courier, "LONGEST", 0.05)
    monkeypatch.setattr(mqtt, "TICK", 0.02)


class House:
    """An outbox, who is at home, and a courier to the broker on `port`."""

    def __init__(self, folder: Path, port: int, user: str | None = None, password: bytes | None = None, tls: bool = False):
        self.notices: list[tuple[str, str]] = []
        self.outbox = Outbox(folder / "outbox.db")
        self.presence = Presence(TOPICS, away=10, last=self.outbox.recall("last seen", {}))
        self.presence.people(["Ada"])
        self.broker = Broker(Address("127.0.0.1", port, user, tls), password, self.presence, TOPICS, self.outbox)
        self.courier = Courier(self.broker, self.outbox, lambda code, message, level: self.notices.append((code, message)))

    def tell(self, event: dict) -> str:
        self.presence.note(event)
        self.outbox.put(["mqtt"], event)
        self.courier.wake()
        return event["id"]

    def close(self) -> None:
        self.courier.end(5.0)
        self.courier.join()
        self.outbox.close()


@pytest.fixture
def house(tmp_path: Path, quick):
    """house(port, ...) -> House; it is closed in the end."""
    with contextlib.ExitStack() as stack:

        def build(port: int, **more) -> House:
            built = House(tmp_path, port, **more)
            stack.callback(built.close)
            return built

        yield build


def ids(pretended: Pretended) -> list[str]:
    return [json.loads(payload)["id"] for payload in pretended.payloads(TOPICS.events)]


def test_events_arrive_in_order_and_what_is_retained_comes_first(pretended: Pretended, house):
    home = house(pretended.port)
    told = [home.tell(judged("seen", "Ada")), home.tell(judged("gone", "Ada")), home.tell(judged("seen", None, 2))]
    until(lambda: len(ids(pretended)) == 3)
    home.close()
    assert ids(pretended) == told
    assert home.outbox.waiting("mqtt") == 0
    kept = pretended.retained()
    assert (kept[ADA], kept[TOPICS.camera], kept[TOPICS.status]) == (b"home", b"ok", b"offline")
    assert pretended.payloads(TOPICS.status) == [b"online", b"offline"]
    assert len([topic for topic in kept if topic.startswith("homeassistant/")]) == 4
    assert pretended.payloads(TOPICS.doorbell) == [b"unknown"]
    assert not [topic for topic in kept if topic in (TOPICS.events, TOPICS.doorbell)]
    assert pretended.farewells == 1


def test_who_connects_says_who_it_is_and_leaves_a_will(pretended: Pretended, house):
    home = house(pretended.port, user="omokage", password=b"s3cret")
    until(lambda: home.courier.connected)
    (said,) = pretended.said
    assert (said.client, said.user, said.password, said.will) == ("omokage-door", "omokage", b"s3cret", ("omokage/door/status", b"offline"))


def test_a_broken_connection_loses_nothing_and_keeps_the_order(pretended: Pretended, house):
    """Every third event is answered by hanging up: it comes again, with its id, before the next."""
    count = 0

    def judge(topic: str) -> int | None:
        nonlocal count
        count += topic == TOPICS.events
        if topic == TOPICS.events and count % 3 == 0:
            pretended.hang_up()
            return None
        return SUCCESS

    pretended.judge = judge
    home = house(pretended.port)
    told = [home.tell(judged("seen", "Ada", track)) for track in range(10)]
    until(lambda: home.outbox.waiting("mqtt") == 0)
    arrived = ids(pretended)
    assert list(dict.fromkeys(arrived)) == told
    assert len(arrived) > len(told)  # at least once
    assert [one for one, after in zip(arrived, [*arrived[1:], None], strict=True) if one != after] == told  # a double follows its first


def test_what_is_not_acknowledged_is_sent_again(pretended: Pretended, house, monkeypatch):
    monkeypatch.setattr(mqtt, "LIMIT", 0.2)
    silent = [True]
    pretended.judge = lambda topic: None if topic == TOPICS.events and silent and silent.pop() else SUCCESS
    home = house(pretended.port)
    told = home.tell(judged("seen", "Ada"))
    until(lambda: home.outbox.waiting("mqtt") == 0)
    assert ids(pretended) == [told, told]
    assert [code for code, _ in home.notices] == ["mqtt-lost", "mqtt-back"]
    assert "it does not acknowledge" in home.notices[0][1]


def test_a_wrong_password_is_one_line_and_loses_nothing(pretended: Pretended, house):
    pretended.login = NOT_AUTHORIZED
    home = house(pretended.port, user="omokage", password=b"s3cret")
    told = home.tell(judged("seen", "Ada"))
    until(lambda: len(pretended.said) >= 3)
    assert [code for code, _ in home.notices] == ["mqtt-lost"]
    message = home.notices[0][1]
    assert "refuses: Not authorized. Check the user and --mqtt-password-file" in message and "s3cret" not in message
    pretended.login = SUCCESS
    until(lambda: ids(pretended) == [told])
    until(lambda: len(home.notices) == 2)
    assert home.notices[1] == ("mqtt-back", f"the broker 127.0.0.1:{pretended.port} is back, events that still wait: 0")


def test_a_topic_that_may_not_be_written_is_told(pretended: Pretended, house):
    pretended.judge = lambda topic: NOT_AUTHORIZED if topic == TOPICS.events else SUCCESS
    home = house(pretended.port)
    home.tell(judged("seen", "Ada"))
    until(lambda: home.notices)
    assert "it does not take omokage/door/events: Not authorized. Check what its user may write" in home.notices[0][1]
    assert home.outbox.waiting("mqtt") == 1


def test_without_leave_for_discovery_events_arrive_all_the_same(pretended: Pretended, house, caplog):
    pretended.judge = lambda topic: NOT_AUTHORIZED if topic.startswith("homeassistant/") else SUCCESS
    home = house(pretended.port)
    told = home.tell(judged("seen", "Ada"))
    until(lambda: ids(pretended) == [told] and home.outbox.waiting("mqtt") == 0)
    assert home.notices == []
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "does not take homeassistant/" in line and line.endswith(": Not authorized. Check what its user may write")


def test_who_is_removed_is_withdrawn_also_if_that_happened_meanwhile(pretended: Pretended, house):
    home = house(pretended.port)
    home.tell(judged("seen", "Ada"))
    until(lambda: ADA in pretended.retained())
    until(lambda: home.outbox.recall("retained", []))
    home.close()
    again = house(pretended.port)
    again.presence.people(["Bob"])
    again.courier.wake()
    until(lambda: TOPICS.presence(slug("Bob")) in pretended.retained())
    until(lambda: not [topic for topic in pretended.retained() if slug("Ada") in topic])
    assert [topic for topic in pretended.retained() if slug("Bob") in topic]


def test_people_stay_at_home_when_the_recogniser_starts_anew(pretended: Pretended, house):
    home = house(pretended.port)
    home.tell(judged("seen", "Ada"))
    until(lambda: home.outbox.recall("last seen", {}))
    home.close()
    seen = len(pretended.payloads(ADA))
    again = house(pretended.port)
    until(lambda: len(pretended.payloads(ADA)) > seen)
    again.close()
    assert pretended.payloads(ADA)[seen:] == [b"home"]


def test_a_late_bell_does_not_ring(pretended: Pretended, house):
    pretended.login = NOT_AUTHORIZED
    home = house(pretended.port)
    home.tell(judged("seen", None))
    until(lambda: pretended.said)
    home.broker._clock = lambda: time.time() + 3600
    pretended.login = SUCCESS
    until(lambda: len(ids(pretended)) == 1)
    home.close()
    assert pretended.payloads(TOPICS.doorbell) == []


def test_a_broker_that_is_not_there_does_not_hold_the_end_up(house):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    home = house(port)
    home.tell(judged("seen", "Ada"))
    until(lambda: home.notices)
    assert home.notices[0][0] == "mqtt-lost"
    assert f"the broker 127.0.0.1:{port} is lost (Connection refused): events wait in " in home.notices[0][1]
    home.courier.end(60.0)
    home.courier.join()
    assert not home.courier._thread.is_alive()


def test_a_host_that_no_one_knows_is_one_line(house, monkeypatch):
    def unknown(*_: object, **__: object):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "create_connection", unknown)
    home = house(1883)
    until(lambda: home.notices)
    assert "(Name or service not known)" in home.notices[0][1]


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # paho leaves the socket of a failed handshake to the garbage collector
def test_tls_with_what_is_no_tls_is_one_line(pretended: Pretended, house):
    home = house(pretended.port, tls=True)
    until(lambda: home.notices)
    assert home.notices[0][0] == "mqtt-lost" and "\n" not in home.notices[0][1]


def test_an_untrusted_certificate_says_so():
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_message = "self-signed certificate"
    assert mqtt._reason(error) == "its certificate is not trusted: self-signed certificate"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("mqtt://broker", Address("broker", 1883)),
        ("mqtt://ada%40home@broker:1884/", Address("broker", 1884, "ada@home")),
        ("mqtts://broker", Address("broker", 8883, None, True)),
        ("mqtt://[::1]:1883", Address("::1", 1883)),
    ],
)
def test_addresses(url: str, expected: Address):
    assert mqtt.address(url) == expected


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://broker", "begins with mqtt:// or mqtts://, not http"),
        ("broker:1883", "begins with mqtt:// or mqtts://"),
        ("mqtt://ada:s3cret@broker", "use --mqtt-password-file"),
        ("mqtt://", "not understood"),
        ("mqtt://broker:port", "not understood"),
        ("mqtt://broker/topic", "not understood"),
        ("mqtt://[broker", "not understood"),
    ],
)
def test_what_is_no_address_is_said_without_a_secret(url: str, says: str):
    with pytest.raises(InputError) as error:
        mqtt.address(url)
    assert says in str(error.value) and "s3cret" not in str(error.value)


@pytest.mark.parametrize("word", ["", "a/b", "+", "door #1", "x" * 65, "tür"])
def test_a_device_needs_a_name_that_topics_may_hold(word: str):
    with pytest.raises(InputError, match="--device-name"):
        mqtt.device_name(word)


def test_without_paho_the_extra_is_named(tmp_path: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "paho.mqtt", None)
    with contextlib.closing(Outbox(tmp_path / "outbox.db")) as outbox, pytest.raises(MissingError, match=r"pip install 'omokage\[mqtt\]'"):
        Broker(Address("x", 1), None, Presence(TOPICS), TOPICS, outbox)


class Mosquitto:
    """The real broker, on a free port of loopback."""

    def __init__(self, folder: Path, *lines: str):
        folder.mkdir()
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self._config = folder / "mosquitto.conf"
        kept = f"persistence true\npersistence_location {folder}/\nautosave_on_changes true\nautosave_interval 1\nuser root\n"
        self._config.write_text(f"listener {self.port} 127.0.0.1\n{kept}" + "\n".join(lines or ["allow_anonymous true"]) + "\n")
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen([MOSQUITTO, "-c", self._config], stderr=subprocess.DEVNULL)

        def listens() -> bool:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return True
            return False

        until(listens)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


class Subscriber:
    """A durable session with QoS 1 on everything."""

    def __init__(self, port: int):
        from paho.mqtt import client

        self.messages: list[tuple[str, bytes, bool]] = []
        self._ready = False
        self._client = client.Client(client.CallbackAPIVersion.VERSION2, "subscriber", clean_session=False)
        self._client.reconnect_delay_set(0.02, 0.05)
        self._client.on_connect = lambda mqtt, *_: mqtt.subscribe("#", 1)
        self._client.on_subscribe = lambda *_: setattr(self, "_ready", True)
        self._client.on_message = lambda mqtt, data, message: self.messages.append((message.topic, message.payload, message.retain))
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        until(lambda: self._ready)

    def payloads(self, topic: str) -> list[bytes]:
        return [payload for found, payload, _ in list(self.messages) if found == topic]

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@pytest.fixture
def mosquitto(tmp_path: Path):
    if MOSQUITTO is None:
        pytest.skip("mosquitto is not installed")
    with contextlib.ExitStack() as stack:

        def build(*lines: str) -> Mosquitto:
            broker = Mosquitto(tmp_path / "broker", *lines)
            stack.callback(broker.kill)
            return broker

        yield build


def test_a_real_broker_that_is_killed_over_and_over_loses_nothing(mosquitto, house, validate):
    broker = mosquitto()
    subscriber = Subscriber(broker.port)
    home = house(broker.port)
    told = []
    for turn in range(3):
        told += [home.tell(judged("seen", "Ada", 10 * turn + track)) for track in range(5)]
        broker.kill()
        told += [home.tell(judged("seen", None, 10 * turn + track)) for track in range(5, 8)]
        broker.start()

    def arrived() -> list[str]:
        return [json.loads(payload)["id"] for payload in subscriber.payloads(TOPICS.events)]

    until(lambda: set(arrived()) == set(told), 30)
    subscriber.close()
    assert list(dict.fromkeys(arrived())) == told
    assert subscriber.payloads(ADA)[-1] == b"home"
    for topic, payload, _ in subscriber.messages:
        if topic.startswith("homeassistant/"):
            validate({"component": topic.split("/")[1], "topic": topic, "payload": json.loads(payload)}, "discovery")


def test_a_real_broker_keeps_presence_and_tells_when_the_recogniser_died(mosquitto, house):
    broker = mosquitto()
    home = house(broker.port)
    home.tell(judged("seen", "Ada"))
    until(lambda: home.outbox.waiting("mqtt") == 0)
    home.broker._client._sock.shutdown(socket.SHUT_RDWR)  # no farewell
    home.broker._presence = Presence(TOPICS)
    late = Subscriber(broker.port)
    until(lambda: (TOPICS.status, b"offline", False) in late.messages or (TOPICS.status, b"offline", True) in late.messages)
    assert (ADA, b"home", True) in late.messages
    late.close()


def test_a_real_broker_with_a_wrong_password(mosquitto, house, tmp_path: Path):
    passwords = tmp_path / "passwords"
    if shutil.which("mosquitto_passwd") is None:
        pytest.skip("mosquitto_passwd is not installed")
    subprocess.run(["mosquitto_passwd", "-b", "-c", str(passwords), "omokage", "right"], check=True)
    broker = mosquitto("allow_anonymous false", f"password_file {passwords}")
    home = house(broker.port, user="omokage", password=b"wrong")
    told = home.tell(judged("seen", "Ada"))
    until(lambda: home.notices)
    assert "it refuses: Not authorized. Check the user and --mqtt-password-file" in home.notices[0][1]
    assert home.outbox.first("mqtt").id == told
