"""Lose the broker over and over while clips play: which events arrive, how often, and in which order; what Home Assistant is told.

  python benchmarks/broker.py --data ../shared/data --kills 8 --away 60

A real broker (Debian's mosquitto) on a free port of loopback, a receiver with a session that outlives its connections, and
recognize.py on scenes of several clips, a second each, played again and again. The broker is killed (SIGKILL) at random moments and
started again after up to three seconds; once it is stopped properly for `--away` seconds; the recogniser is killed too, and started
again. What recognize.py prints was sent; what the receiver gets has arrived. The broker writes its state to disk at every change
(autosave_on_changes), because mosquitto forgets sessions otherwise. Exit status 1: an event is missing, the order of first arrivals
is another one, presence did not flip, or a discovery message does not follow tests/contracts/discovery.schema.json.
"""

import argparse
import contextlib
import itertools
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import cv2

from device.camera import open_source
from device.draw import recording
from device.program import HOLDS_NOT, MissingError, Parser, run

ROOT = Path(__file__).resolve().parents[1]
MOSQUITTO = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
DEVICE = "benchmark"
SHOW_S = 12.0  # seconds that clips play between two misfortunes
SCENES = ("p1-a", "p2-b", "p1-c", "two-p1-p2", "p5-a", "p1-b")  # clips; a cut between two ends every track
PATIENCE_S = 60.0  # for what is still on its way: twice the longest pause between two attempts
SIZE, FPS = (640, 360), 25


class Broker:
    """A mosquitto that can be killed."""

    def __init__(self, folder: Path):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._config = folder / "mosquitto.conf"
        self._config.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\nuser root\nmax_queued_messages 0\n"
            f"persistence true\npersistence_location {folder}/\nautosave_on_changes true\nautosave_interval 1\n"
        )
        self._log = (folder / "mosquitto.log").open("ab")
        self.start()

    def start(self) -> None:
        if MOSQUITTO is None:
            raise MissingError("mosquitto is not installed", "apt install mosquitto")
        self._process = subprocess.Popen([MOSQUITTO, "-c", self._config], stdout=self._log, stderr=self._log)
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            time.sleep(0.05)

    def end(self, number: signal.Signals) -> None:
        self._process.send_signal(number)
        self._process.wait()


class Receiver:
    """Subscribes to everything with QoS 1 and a lasting session, and writes down what comes."""

    def __init__(self, port: int):
        from paho.mqtt import client

        self.messages: list[tuple[str, bytes]] = []
        self._client = client.Client(client.CallbackAPIVersion.VERSION2, "receiver", clean_session=False)
        self._client.reconnect_delay_set(0.05, 0.2)
        self._client.on_connect = lambda mqtt, *_: mqtt.subscribe([("omokage/#", 1), ("homeassistant/#", 1)])
        self._client.on_message = lambda mqtt, data, message: self.messages.append((message.topic, message.payload))
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()

    def events(self) -> list[dict]:
        return [json.loads(payload) for topic, payload in list(self.messages) if topic == f"omokage/{DEVICE}/events"]

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


class Recogniser:
    """recognize.py on a clip without end; `sent` is what it printed."""

    def __init__(self, clip: Path, gallery: Path, port: int, encoder: str | None):
        self.sent: list[dict] = []
        self._call = [sys.executable, str(ROOT / "device" / "recognize.py"), "--source", str(clip), "--loop", "--json"]
        self._call += ["--gallery", str(gallery), "--mqtt", f"mqtt://127.0.0.1:{port}", "--device-name", DEVICE, "--away", "0.02"]
        self._call += ["--encoder", encoder] if encoder else []
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(self._call, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def end(self, number: signal.Signals) -> None:
        self._process.send_signal(number)
        self._process.wait()
        self._reader.join()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with contextlib.suppress(ValueError):  # half a line of one that was killed
                self.sent.append(json.loads(line))


def scenes(clips: Path, film: Path) -> None:
    """The first second of each of SCENES in one video."""
    with recording(film, FPS) as write:
        for scene in SCENES:
            with open_source(str(clips / f"{scene}.mp4")) as source:
                for frame in itertools.islice(source, FPS):
                    write(cv2.resize(frame.image, SIZE, interpolation=cv2.INTER_AREA))


def misfortunes(args: argparse.Namespace, broker: Broker, recogniser: Recogniser, receiver: Receiver) -> None:
    """Everything that is to happen, one after the other."""
    for number in range(args.kills):
        time.sleep(random.uniform(0.2, 1.0) * SHOW_S)
        broker.end(signal.SIGKILL)
        time.sleep(random.uniform(0.0, 3.0))
        broker.start()
        print(f"broker killed, {number + 1} of {args.kills}; {len(recogniser.sent)} events so far", file=sys.stderr)
    for number in range(args.deaths):
        time.sleep(random.uniform(0.8, 1.6) * SHOW_S)
        recogniser.end(signal.SIGKILL)
        recogniser.start()
        print(f"recogniser killed, {number + 1} of {args.deaths}; {len(recogniser.sent)} events so far", file=sys.stderr)
    time.sleep(SHOW_S)
    broker.end(signal.SIGTERM)
    print(f"broker stopped for {args.away:g} s", file=sys.stderr)
    time.sleep(args.away)
    broker.start()
    print(f"what waited arrived {arrived(recogniser, receiver):.0f} s after its return", file=sys.stderr)
    time.sleep(SHOW_S)


def arrived(recogniser: Recogniser, receiver: Receiver) -> float:
    """Wait until everything that was sent up to now is there, for PATIENCE_S at most; the seconds that took."""
    began, sent = time.monotonic(), {event["id"] for event in list(recogniser.sent)}
    while time.monotonic() - began < PATIENCE_S and sent - {event["id"] for event in receiver.events()}:
        time.sleep(0.5)
    return time.monotonic() - began


def verdict(recogniser: Recogniser, receiver: Receiver) -> bool:
    """Print what happened; whether all is as it should be."""
    sent, got = [event["id"] for event in recogniser.sent], [event["id"] for event in receiver.events()]
    first = list(dict.fromkeys(got))
    lost, extra = set(sent) - set(got), Counter(got)
    twice = sum(count - 1 for count in extra.values())
    printed = set(sent)
    in_order = [id for id in first if id in printed] == [id for id in sent if id in set(got)]
    presence = [payload.decode() for topic, payload in receiver.messages if topic.startswith(f"omokage/{DEVICE}/people/p1_") and payload]
    states = [state for state in presence if state in ("home", "not_home")]
    flips = sum(before != after for before, after in itertools.pairwise(states))
    wrong = invalid(receiver)
    print(f"| events sent | arrived | lost | twice | order kept | flips of presence | discovery messages | invalid |\n|{'---|' * 8}")
    told = sum(topic.startswith("homeassistant/") for topic, _ in receiver.messages)
    print(f"| {len(sent)} | {len(set(got) & printed)} | {len(lost)} | {twice} | {in_order} | {flips} | {told} | {wrong} |")
    return not lost and in_order and flips >= 2 and told > 0 and not wrong


def invalid(receiver: Receiver) -> int:
    """How many discovery messages do not follow the contract."""
    import jsonschema

    schema = json.loads((ROOT / "tests" / "contracts" / "discovery.schema.json").read_text())
    validator = jsonschema.Draft202012Validator(schema)
    messages = [(topic, payload) for topic, payload in receiver.messages if topic.startswith("homeassistant/") and payload]
    instances = [{"component": topic.split("/")[1], "topic": topic, "payload": json.loads(payload)} for topic, payload in messages]
    return sum(not validator.is_valid(instance) for instance in instances)


def _main(args: argparse.Namespace) -> int:
    random.seed(args.seed)
    clips = args.data / "clips"
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        gallery = folder / "gallery.db"
        subprocess.run(
            [sys.executable, ROOT / "device" / "enroll.py", "add", "p1", clips / "p1-a.mp4", "--gallery", gallery]
            + (["--encoder", args.encoder] if args.encoder else []),
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        scenes(clips, folder / "scenes.mp4")
        broker = Broker(folder)
        stack.callback(broker.end, signal.SIGTERM)
        receiver = Receiver(broker.port)
        stack.callback(receiver.close)
        recogniser = Recogniser(folder / "scenes.mp4", gallery, broker.port, args.encoder)
        try:
            misfortunes(args, broker, recogniser, receiver)
        finally:
            recogniser.end(signal.SIGTERM)
        arrived(recogniser, receiver)
        return 0 if verdict(recogniser, receiver) else HOLDS_NOT


def main(argv: list[str] | None = None) -> int:
    parser = Parser(__doc__)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="the shared data: its clips are played")
    parser.add_argument("--kills", type=int, default=8, metavar="N", help="how often the broker is killed (default: %(default)s)")
    parser.add_argument("--deaths", type=int, default=3, metavar="N", help="how often the recogniser is (default: %(default)s)")
    parser.add_argument("--away", type=float, default=60.0, metavar="SECONDS", help="how long the broker is stopped (default: %(default)s)")
    parser.add_argument("--encoder", metavar="BUNDLE", help="a bundle (default: the newest shipped one)")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments (default: %(default)s)")
    return run(_main, parser, argv)


if __name__ == "__main__":
    sys.exit(main())
