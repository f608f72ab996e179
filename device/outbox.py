"""Events that are on their way to somebody else, in a file: neither an hour without a broker nor a crash loses one.

SQLite with a write-ahead log. Whoever puts an event in waits for no disk: what is written outlives the process at once, and reaches the
disk with the next checkpoint, which is for the thread that takes events out.
"""

import contextlib
import json
import os
import sqlite3
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from device.events import Event
from device.program import InputError, StoredError
from device.vault import SALT, Broken, Plain, Sealer, Vault

MOST = 20_000  # events that wait for one receiver: about 10 MB, or a day of one every four seconds
PROOF = b"omokage outbox"  # what a key is known by
PATIENCE = 5.0  # seconds to wait while the other thread writes, which takes microseconds
MARK = 0x6F6D6F62  # "omob", the application_id that tells an outbox from other SQLite files
SCHEMA = (
    "CREATE TABLE letter (number INTEGER PRIMARY KEY AUTOINCREMENT, receiver TEXT, id TEXT, time REAL, body BLOB)",
    "CREATE INDEX letter_receiver ON letter (receiver, number)",
    "CREATE TABLE state (key TEXT PRIMARY KEY, value BLOB NOT NULL)",
    "CREATE TABLE seal (salt BLOB, proof BLOB)",  # a row where what tells about people is sealed under a key
    f"PRAGMA application_id = {MARK}",
)


@dataclass(frozen=True)
class Letter:
    """An event for one receiver: the event's id, when it was put in (seconds since 1970), and its JSON.

    `number` is its place in the file, 0 while the file cannot be written.
    """

    receiver: str
    id: str
    time: float
    body: str
    number: int = 0


class Outbox:
    """The outbox in the file at `path`, made for its owner's eyes alone where it is missing. One process at a time.

    With a `key` what tells about people is sealed under it (device/vault.py), as in an encrypted gallery.
    `put` is for any thread, the rest for those who deliver. At most `most` events wait for one receiver, the oldest of more are
    dropped and counted in `dropped`. Where the disk is full or fails, events are held in memory until it works again; `failure` says so.
    Raises InputError (not to be opened, or in use) or StoredError (another file, a damaged one, another key).
    """

    def __init__(self, path: Path, most: int = MOST, key: bytes | None = None, clock: Callable[[], float] = time.time):
        self.path = Path(path)
        self.dropped: Counter[str] = Counter()
        self.failure: str | None = None
        self._most, self._clock = most, clock
        self._held: deque[Letter] = deque()  # not in the file yet
        self._putting, self._taking = threading.Lock(), threading.Lock()
        self._delivered: dict[str, int] = {}  # the last number that each receiver has, whether it could be deleted or not
        self._closed = False
        self._stack = contextlib.ExitStack()
        with self._stack:
            self._stack.enter_context(_alone(self.path))
            try:
                # Two connections, so that whoever puts something in never waits for a checkpoint.
                self._out, self._in = (self._stack.enter_context(contextlib.closing(_connect(self.path))) for _ in range(2))
                self._in.execute("PRAGMA wal_autocheckpoint = 0")
                verdict = self._out.execute("PRAGMA quick_check").fetchone()[0]
                if verdict != "ok":
                    raise sqlite3.DatabaseError(verdict)
                rows = self._out.execute("SELECT receiver, count(*) FROM letter GROUP BY receiver")
                self._count: Counter[str] = Counter(dict(rows.fetchall()))
                self._sealer = _sealer(self._out, key, self.path)
            except sqlite3.DatabaseError as error:
                raise StoredError(
                    f"{self.path} is no outbox, or a damaged one ({error})",
                    "move it away and keep it, events may wait in it, or name another with --outbox",
                ) from error
            self._stack = self._stack.pop_all()

    def put(self, receivers: Iterable[str], event: Event) -> None:
        """Keep `event` for each of `receivers` until it is `done`. Never fails; see `failure` and `dropped`."""
        body = json.dumps(event, ensure_ascii=False)
        with self._putting:
            self._held.extend(Letter(receiver, event["id"], self._clock(), body) for receiver in receivers)
            self._write()

    def first(self, receiver: str) -> Letter | None:
        """The oldest event that `receiver` does not have yet; None where there is none."""
        with contextlib.suppress(sqlite3.Error), self._taking:
            if self._closed:
                return None
            row = self._out.execute(
                "SELECT receiver, id, time, body, number FROM letter WHERE receiver = ? AND number > ? ORDER BY number LIMIT 1",
                (receiver, self._delivered.get(receiver, 0)),
            ).fetchone()
            if row:
                receiver, id, when, body, number = row
                return Letter(receiver, id, when, self._sealer.unseal(body, id).decode(), number)
        with self._putting:
            return next((letter for letter in self._held if letter.receiver == receiver), None)

    def done(self, letter: Letter) -> None:
        """`letter` has arrived, or will never be wanted."""
        with self._putting:
            if letter in self._held:
                self._held.remove(letter)
                return
        gone = 0
        with contextlib.suppress(sqlite3.Error), self._taking:
            if self._closed:
                return
            if letter.number:
                self._delivered[letter.receiver] = letter.number  # also where a full disk does not let it go
            gone = self._out.execute("DELETE FROM letter WHERE receiver = ? AND id = ?", (letter.receiver, letter.id)).rowcount
        with self._putting:
            self._count[letter.receiver] -= gone

    def waiting(self, receiver: str) -> int:
        """How many events wait for `receiver`."""
        with self._putting:
            return self._count[receiver] + sum(letter.receiver == receiver for letter in self._held)

    def settle(self) -> None:
        """Bring everything onto the disk, also what had to be held in memory: worth calling while there is nothing else to do."""
        with self._putting:
            if self._held and not self._closed:
                self._write()
        with contextlib.suppress(sqlite3.Error), self._taking:
            if not self._closed:
                self._out.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def recall(self, key: str, default: Any) -> Any:
        """What was last kept under `key`."""
        with contextlib.suppress(sqlite3.Error), self._taking:
            row = self._out.execute("SELECT value FROM state WHERE key = ?", (key,)).fetchone()
            return default if row is None else json.loads(self._sealer.unseal(row[0], key))
        return default

    def keep(self, key: str, value: Any) -> None:
        """Remember `value` (JSON) across restarts. What cannot be written now is not: it is worked out again."""
        with contextlib.suppress(sqlite3.Error), self._taking:
            if not self._closed:
                self._out.execute("INSERT OR REPLACE INTO state VALUES (?, ?)", (key, self._sealer.seal(json.dumps(value).encode(), key)))

    def close(self) -> None:
        self.settle()
        with self._putting, self._taking:
            self._closed = True
            self._stack.close()

    def _write(self) -> None:
        """Move what is held into the file, all or nothing, and drop the oldest of too many."""
        try:
            if not self._closed:
                with _transaction(self._in):
                    seal = self._sealer.seal
                    rows = [(letter.receiver, letter.id, letter.time, seal(letter.body.encode(), letter.id)) for letter in self._held]
                    self._in.executemany("INSERT INTO letter (receiver, id, time, body) VALUES (?, ?, ?, ?)", rows)
                self._count.update(letter.receiver for letter in self._held)
                self._held.clear()
                self.failure = None
        except sqlite3.Error as error:
            self.failure = str(error)
        for receiver, count in (self._count + Counter(letter.receiver for letter in self._held)).items():
            if count > self._most:
                self._thin(receiver, count - self._most)

    def _thin(self, receiver: str, many: int) -> None:
        gone = 0
        with contextlib.suppress(sqlite3.Error):  # where the file does not let go of them, those in memory have to
            oldest = "SELECT number FROM letter WHERE receiver = ? ORDER BY number LIMIT ?"
            gone = self._in.execute(f"DELETE FROM letter WHERE number IN ({oldest})", (receiver, many)).rowcount
        self._count[receiver] -= gone
        held = [letter for letter in self._held if letter.receiver == receiver][: many - gone]
        for letter in held:
            self._held.remove(letter)
        self.dropped[receiver] += gone + len(held)


def _connect(path: Path) -> sqlite3.Connection:
    """An outbox, made where there is none. Raises sqlite3.DatabaseError where the file is something else."""
    db = sqlite3.connect(path, timeout=PATIENCE, isolation_level=None, check_same_thread=False)
    try:
        db.execute("PRAGMA synchronous = NORMAL")  # with a write-ahead log: at checkpoints
        if db.execute("PRAGMA page_count").fetchone()[0] == 0:
            db.execute("PRAGMA journal_mode = WAL")
            with _transaction(db):
                for statement in SCHEMA:
                    db.execute(statement)
        if db.execute("PRAGMA application_id").fetchone()[0] != MARK:
            raise sqlite3.DatabaseError("it holds something else")
        db.execute("PRAGMA secure_delete = ON")  # names of people are in it
    except BaseException:
        db.close()
        raise
    return db


def _sealer(db: sqlite3.Connection, key: bytes | None, path: Path) -> Sealer:
    """What seals the outbox in `db`. One that was plain is sealed when a key comes. Raises StoredError where the key is another."""
    row = db.execute("SELECT salt, proof FROM seal").fetchone()
    if key is None:
        if row:
            raise StoredError(f"the outbox {path} is encrypted", "give the gallery's key with --key-file, or name another with --outbox")
        return Plain()
    vault = Vault(key, row[0] if row else os.urandom(SALT))
    try:
        if row:
            vault.unseal(row[1], str(MARK))
            return vault
    except Broken as error:
        raise StoredError(f"the outbox {path} is encrypted with another key", "name another with --outbox") from error
    with _transaction(db):
        db.execute("INSERT INTO seal VALUES (?, ?)", (vault.salt, vault.seal(PROOF, str(MARK))))
        for number, id, body in db.execute("SELECT number, id, body FROM letter").fetchall():
            db.execute("UPDATE letter SET body = ? WHERE number = ?", (vault.seal(body, id), number))
        for name, value in db.execute("SELECT key, value FROM state").fetchall():
            db.execute("UPDATE state SET value = ? WHERE key = ?", (vault.seal(value, name), name))
    return vault


@contextlib.contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Makes the file, and holds a lock beside it, so that no two processes deliver the same events."""
    import fcntl  # not on Windows, where the rest of the recogniser runs

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        lock = os.open(path.with_name(path.name + ".lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise InputError(f"the outbox {path} cannot be opened ({error.strerror})", "name another file with --outbox") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise InputError(f"the outbox {path} is in use by another recogniser", "end that one, or name another with --outbox") from error
    finally:
        os.close(lock)
