import json
import os
import sqlite3
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from device import events
from device.outbox import Outbox
from device.program import InputError, StoredError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "outbox.db"


@pytest.fixture
def outbox(path: Path):
    with_five = Outbox(path, most=5)
    yield with_five
    with_five.close()


def event(text: str) -> dict:
    return events.notice("test", "info", text)


def drain(outbox: Outbox, receiver: str = "mqtt") -> list[str]:
    texts = []
    while letter := outbox.first(receiver):
        texts.append(json.loads(letter.body)["message"])
        outbox.done(letter)
    return texts


def test_events_come_out_in_their_order_for_each_receiver(outbox: Outbox):
    for text in "abc":
        outbox.put(["mqtt", "webhook"], event(text))
    assert (outbox.waiting("mqtt"), outbox.waiting("webhook"), outbox.waiting("nobody")) == (3, 3, 0)
    assert drain(outbox) == ["a", "b", "c"]
    assert (outbox.waiting("mqtt"), outbox.waiting("webhook")) == (0, 3)
    assert drain(outbox, "webhook") == ["a", "b", "c"]


def test_what_was_not_done_is_there_after_a_restart_with_the_same_id(path: Path):
    outbox = Outbox(path)
    told = [event(text) for text in "abc"]
    for one in told:
        outbox.put(["mqtt"], one)
    outbox.done(outbox.first("mqtt"))
    outbox.close()
    again = Outbox(path)
    assert again.waiting("mqtt") == 2
    assert (again.first("mqtt").id, again.first("mqtt").body) == (told[1]["id"], json.dumps(told[1]))
    assert drain(again) == ["b", "c"]
    again.close()


def test_of_too_many_the_oldest_are_dropped_and_counted(outbox: Outbox):
    for number in range(8):
        outbox.put(["mqtt"], event(str(number)))
    outbox.put(["webhook"], event("other"))
    assert (outbox.waiting("mqtt"), outbox.dropped) == (5, {"mqtt": 3})
    assert drain(outbox) == ["3", "4", "5", "6", "7"]
    assert drain(outbox, "webhook") == ["other"]


def test_a_full_disk_loses_nothing_and_breaks_no_order(outbox: Outbox):
    outbox.put(["mqtt"], event("before"))
    outbox._in.execute("PRAGMA max_page_count = 1")  # what SQLite says is what it says of a full disk
    big = "x" * 100_000
    for text in ("a", "b"):
        outbox.put(["mqtt"], event(text + big))
    assert outbox.failure == "database or disk is full"
    assert outbox.waiting("mqtt") == 3
    first = outbox.first("mqtt")
    assert json.loads(first.body)["message"] == "before"
    outbox.done(first)
    assert json.loads(outbox.first("mqtt").body)["message"] == "a" + big
    outbox._in.execute("PRAGMA max_page_count = 100000")
    outbox.settle()
    assert outbox.failure is None
    assert [text[0] for text in drain(outbox)] == ["a", "b"]
    assert outbox.waiting("mqtt") == 0


def test_what_is_delivered_from_memory_is_not_delivered_again_from_the_file(outbox: Outbox):
    outbox._in.execute("PRAGMA max_page_count = 1")
    outbox.put(["mqtt"], event("a" + "x" * 100_000))
    letter = outbox.first("mqtt")  # on its way while the disk comes back
    outbox._in.execute("PRAGMA max_page_count = 100000")
    outbox.settle()
    outbox.done(letter)
    assert (outbox.first("mqtt"), outbox.waiting("mqtt")) == (None, 0)


def test_memory_is_bounded_too(outbox: Outbox):
    outbox._in.execute("PRAGMA max_page_count = 1")
    for number in range(9):
        outbox.put(["mqtt"], event(str(number) + "x" * 100_000))
    assert (outbox.waiting("mqtt"), outbox.dropped["mqtt"]) == (5, 4)
    assert [text[0] for text in drain(outbox)] == ["4", "5", "6", "7", "8"]


def test_the_log_beside_the_file_does_not_grow_while_a_long_queue_goes_out(path: Path):
    outbox = Outbox(path)
    for number in range(1500):
        outbox.put(["mqtt"], event(f"{number}" + "x" * 1000))
        if number % 100 == 0:
            outbox.settle()  # as the courier does after each attempt
    drain(outbox)
    assert Path(f"{path}-wal").stat().st_size < 10e6
    outbox.close()


def test_names_are_for_the_owner_alone_and_overwritten_when_they_are_gone(path: Path, outbox: Outbox):
    outbox.put(["mqtt"], event("Zebedee"))
    outbox.settle()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert b"Zebedee" in path.read_bytes()
    drain(outbox)
    outbox.settle()
    assert b"Zebedee" not in path.read_bytes()


def test_under_a_key_nothing_about_people_can_be_read(path: Path):
    key, other = bytes(range(32)), bytes(32)
    plain = Outbox(path)
    plain.put(["mqtt"], event("Zebedee"))
    plain.keep("people", {"zebedee": 1.5})
    plain.close()
    assert b"ebedee" in path.read_bytes()
    sealed = Outbox(path, key=key)  # from now on
    sealed.put(["mqtt"], event("Zebedee again"))
    sealed.close()
    content = path.read_bytes()
    assert b"ebedee" not in content and b"people" in content
    for wrong, says in ((None, "is encrypted: give the gallery's key"), (other, "is encrypted with another key")):
        with pytest.raises(StoredError, match=says):
            Outbox(path, key=wrong)
    assert path.read_bytes() == content
    again = Outbox(path, key=key)
    assert again.recall("people", {}) == {"zebedee": 1.5}
    assert drain(again) == ["Zebedee", "Zebedee again"]
    again.close()


def test_one_process_at_a_time(path: Path, outbox: Outbox):
    with pytest.raises(InputError, match="in use by another recogniser: end that one, or name another with --outbox"):
        Outbox(path)


@pytest.mark.parametrize("content", [b"no database at all" * 100, b"SQLite format 3\0" + bytes(5000)])
def test_what_is_no_outbox_is_left_as_it_is(path: Path, content: bytes):
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(StoredError, match=r"is no outbox, or a damaged one .*: move it away and keep it"):
        Outbox(path)
    assert path.read_bytes() == content


def test_another_database_is_no_outbox(path: Path):
    path.parent.mkdir()
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE person (name)")
    db.close()
    with pytest.raises(StoredError, match="it holds something else"):
        Outbox(path)


def test_a_damaged_outbox_is_told_and_kept(path: Path):
    outbox = Outbox(path)
    for number in range(200):
        outbox.put(["mqtt"], event(f"{number}" + "x" * 200))
    outbox.close()
    content = bytearray(path.read_bytes())
    content[5000:20000] = os.urandom(15000)
    path.write_bytes(content)
    with pytest.raises(StoredError, match="damaged"):
        Outbox(path)
    assert path.read_bytes() == content


def test_a_folder_that_may_not_be_written_is_one_clear_line():
    with pytest.raises(InputError, match="cannot be opened"):
        Outbox(Path("/dev/null/outbox.db"))


def test_state_is_remembered(path: Path):
    outbox = Outbox(path)
    assert outbox.recall("people", {}) == {}
    outbox.keep("people", {"ada": 1.5})
    outbox.close()
    again = Outbox(path)
    assert again.recall("people", {}) == {"ada": 1.5}
    again.close()


def test_after_the_end_it_does_nothing(outbox: Outbox):
    outbox.close()
    outbox.put(["mqtt"], event("late"))
    outbox.settle()
    outbox.keep("people", {})
    assert outbox.first("mqtt") is None


PUTS = """
import itertools, sys
from pathlib import Path
from device import events
from device.outbox import Outbox
outbox = Outbox(Path(sys.argv[1]))
for number in itertools.count():
    outbox.put(["mqtt"], events.notice("test", "info", str(number)))
    print(number, flush=True)
"""


def test_a_killed_process_loses_nothing_that_it_had_put_in(path: Path):
    with subprocess.Popen([sys.executable, "-c", PUTS, str(path)], stdout=subprocess.PIPE, text=True) as process:
        for _ in range(50):
            process.stdout.readline()
        process.kill()
        told = 50 + len(process.stdout.readlines())
    outbox = Outbox(path)
    found = drain(outbox, "mqtt")
    outbox.close()
    assert found[:told] == [str(number) for number in range(told)]
    assert len(found) <= told + 1


class Model(RuleBasedStateMachine):
    """An outbox against two lists, whatever is put in, delivered, dropped, full or restarted."""

    def __init__(self):
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "outbox.db"
        self.outbox = Outbox(self.path, most=4)
        self.expected: dict[str, list[str]] = {"a": [], "b": []}
        self.full = False

    @rule(receivers=st.sets(st.sampled_from(["a", "b"]), min_size=1))
    def put(self, receivers):
        told = event("x" * 5000)
        self.outbox.put(sorted(receivers), told)
        for receiver in receivers:
            self.expected[receiver] = [*self.expected[receiver], told["id"]][-4:]

    @rule(receiver=st.sampled_from(["a", "b"]))
    def deliver(self, receiver):
        letter = self.outbox.first(receiver)
        assert (letter and letter.id) == next(iter(self.expected[receiver]), None)
        if letter:
            self.outbox.done(letter)
            self.expected[receiver].pop(0)

    @rule()
    def restart(self):
        self.outbox.close()
        self.outbox = Outbox(self.path, most=4)

    @invariant()
    def counts(self):
        assert {receiver: self.outbox.waiting(receiver) for receiver in self.expected} == {
            receiver: len(ids) for receiver, ids in self.expected.items()
        }

    def teardown(self):
        self.outbox.close()
        self.folder.cleanup()


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=10, stateful_step_count=20, deadline=None)
