import itertools
import json
import random
import tempfile
import threading
import time
import unittest.mock
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device import courier, events
from device.courier import Courier, Lost, Refused
from device.outbox import Letter, Outbox


class Carrier:
    """Does with each opening and each event what `script` says next: nothing, or raise it. In the end all goes well."""

    name, address = "test", "the receiver"

    def __init__(self, *script: Exception | None):
        self.script = list(script)
        self.got: list[str] = []
        self.opened = self.closed = 0
        self.all = threading.Event()
        self.wanted = 0

    def _next(self) -> None:
        if self.script and (trouble := self.script.pop(0)) is not None:
            raise trouble

    def open(self) -> None:
        self.opened += 1
        self._next()

    def deliver(self, letter: Letter) -> None:
        self._next()
        self.got.append(json.loads(letter.body)["message"])
        if len(self.got) == self.wanted:
            self.all.set()

    def tend(self) -> float:
        return 0.01

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def outbox(tmp_path: Path):
    made = Outbox(tmp_path / "outbox.db")
    yield made
    made.close()


@pytest.fixture
def carry(outbox: Outbox, monkeypatch):
    """carry(carrier, "a", "b") -> notices and pauses, after a courier has brought these messages."""
    pauses: list[float] = []
    monkeypatch.setattr(random, "uniform", lambda low, high: pauses.append((low, high)) or 1e-3)

    def run(carrier: Carrier, *texts: str, wanted: int | None = None) -> tuple[list, list]:
        notices: list[tuple[str, str, str]] = []
        carrier.wanted = len(texts) if wanted is None else wanted
        for text in texts:
            outbox.put(["test"], events.notice("test", "info", text))
        made = Courier(carrier, outbox, lambda *told: notices.append(told))
        assert carrier.all.wait(10)
        made.end(5.0)
        made.join()
        assert not made._thread.is_alive()
        return notices, pauses

    return run


def test_all_is_brought_in_order_and_nothing_is_said(outbox: Outbox, carry):
    carrier = Carrier()
    notices, pauses = carry(carrier, "a", "b", "c")
    assert (carrier.got, notices, pauses, outbox.waiting("test")) == (["a", "b", "c"], [], [], 0)
    assert (carrier.opened, carrier.closed) == (1, 1)


def test_a_loss_is_told_once_for_each_reason_and_so_is_the_return(carry):
    carrier = Carrier(Lost("x"), Lost("x"), Lost("y"), None, None, Lost("z"))
    notices, _ = carry(carrier, "a", "b")
    assert carrier.got == ["a", "b"]
    assert [(code, level) for code, _, level in notices] == [
        ("test-lost", "warning"),
        ("test-lost", "warning"),
        ("test-back", "info"),
        ("test-lost", "warning"),
        ("test-back", "info"),
    ]
    assert notices[0][1].startswith("the receiver is lost (x): events wait in ")
    assert (carrier.opened, carrier.closed) == (5, 5)


def test_whatever_a_library_raises_deliveries_go_on(carry):
    carrier = Carrier(None, RuntimeError("a fault of\nits own"))
    notices, _ = carry(carrier, "a")
    assert carrier.got == ["a"]
    assert "(RuntimeError a fault of its own)" in notices[0][1]


def test_pauses_grow_and_are_never_the_same_for_two(carry, monkeypatch):
    waited = []
    original = threading.Event.wait
    monkeypatch.setattr(
        threading.Event, "wait", lambda self, seconds=None: waited.append(seconds) or original(self, min(seconds or 10, 10))
    )
    monkeypatch.setattr(courier, "FIRST", 1e-3)
    monkeypatch.setattr(courier, "LONGEST", 4e-3)
    monkeypatch.setattr(random, "uniform", lambda low, high: high)
    carry(Carrier(*[Lost("x")] * 5), "a")
    assert [seconds for seconds in waited if seconds in (1e-3, 2e-3, 4e-3, 8e-3)] == [1e-3, 2e-3, 4e-3, 4e-3, 4e-3]


def test_the_pause_is_drawn_from_its_upper_half(carry):
    _, pauses = carry(Carrier(Lost("x")), "a")
    assert pauses == [(0.5, 1.0)]


def test_what_is_refused_is_logged_and_does_not_hold_up_the_rest(outbox: Outbox, carry, caplog):
    carrier = Carrier(None, Refused("it answers 400"))
    notices, _ = carry(carrier, "a", "b", wanted=1)
    assert carrier.got == ["b"]
    assert notices == []  # which would be events, refused again
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert line.startswith("the receiver refuses event ") and line.endswith(", which is given up: it answers 400")
    assert outbox.waiting("test") == 0


def test_it_ends_at_once_where_the_receiver_is_away(outbox: Outbox):
    told = threading.Event()
    made = Courier(Carrier(*[Lost("x")] * 1000), outbox, lambda *_: told.set())
    outbox.put(["test"], events.notice("test", "info", "a"))
    assert told.wait(10)
    began = time.monotonic()
    made.end(60.0)
    made.join()
    assert time.monotonic() - began < 30
    assert outbox.waiting("test") == 1


def test_what_came_last_is_delivered_before_the_end(outbox: Outbox):
    carrier = Carrier()
    made = Courier(carrier, outbox, lambda *_: None)
    for number in range(50):
        outbox.put(["test"], events.notice("test", "info", str(number)))
    made.end(30.0)
    made.join()
    assert carrier.got == [str(number) for number in range(50)]
    assert made.delivered == 50


class Unreliable(Carrier):
    """Its script is of what happens to each event: "no" (lost before it arrived), "once" (it arrived, and nobody heard), "yes"."""

    def open(self) -> None:
        self.opened += 1

    def deliver(self, letter: Letter) -> None:
        luck = self.script.pop(0) if self.script else "yes"
        if luck != "no":
            self.got.append(letter.id)
        if luck != "yes":
            raise Lost(luck)


@settings(max_examples=25, deadline=None)
@given(script=st.lists(st.sampled_from(["no", "once", "yes"]), max_size=20), count=st.integers(1, 6), restarts=st.lists(st.integers(0, 5)))
def test_whatever_goes_wrong_all_arrive_in_order_and_doubles_follow_at_once(script: list[str], count: int, restarts: list[int]):
    with tempfile.TemporaryDirectory() as folder, unittest.mock.patch.multiple(courier, FIRST=1e-4, LONGEST=1e-3):
        carrier, told = Unreliable(*script), []
        outbox = Outbox(Path(folder) / "outbox.db")
        for number in range(count):
            told.append(events.notice("test", "info", str(number)))
            outbox.put(["test"], told[-1])
            if number in restarts:  # the recogniser ends and starts anew, whatever has arrived by then
                ended = Courier(carrier, outbox, lambda *_: None)
                ended.end(0.01)
                ended.join()
                outbox.close()
                outbox = Outbox(Path(folder) / "outbox.db")
        made = Courier(carrier, outbox, lambda *_: None)
        while outbox.waiting("test"):
            assert made._thread.is_alive()
            time.sleep(1e-3)
        made.end(5.0)
        made.join()
        outbox.close()
    assert [id for id, _ in itertools.groupby(carrier.got)] == [event["id"] for event in told]
