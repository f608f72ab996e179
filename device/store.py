"""The file of a gallery: SQLite with a write-ahead log, migrations, transactions, an audit log and undo.

What is deleted is overwritten: secure_delete while it happens, then VACUUM and an emptied write-ahead log. If a program dies
between the two, whoever opens the file next finishes the work.
"""

import contextlib
import json
import os
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from device.program import InputError, OmokageError, StoredError, replacing
from device.vault import SALT, Broken, Plain, Sealer, Vault, find_key

BUSY = 10.0  # seconds to wait for another program that writes
UNDOABLE = 20  # verbs that can be undone


def _undoable(table: str, key: str, *columns: str) -> tuple[str, str, str]:
    """Triggers that write down how to undo each change of a row, added, changed or deleted (https://www.sqlite.org/undoredo.html)."""
    note = "INSERT INTO undo (step, statement) VALUES ((SELECT max(id) FROM audit),"
    old = " || ', ".join(f"{column} = ' || quote(old.{column})" for column in columns)
    values = " || ',' || ".join(f"quote(old.{column})" for column in (key, *columns))
    return (
        f"CREATE TRIGGER {table}_added AFTER INSERT ON {table} BEGIN {note} 'DELETE FROM {table} WHERE {key} = ' || quote(new.{key})); END",
        f"CREATE TRIGGER {table}_changed AFTER UPDATE ON {table} BEGIN {note}"
        f" 'UPDATE {table} SET {old} || ' WHERE {key} = ' || quote(old.{key})); END",
        f"CREATE TRIGGER {table}_deleted AFTER DELETE ON {table} BEGIN {note}"
        f" 'INSERT INTO {table} ({', '.join((key, *columns))}) VALUES (' || {values} || ')'); END",
    )


_TEMPLATE = ("person", "denies", "embedding", "encoder", "preprocessing", "detector", "quality", "source", "created")
_LOOK = ("yaw", "pitch", "light", "side")
_TRACE = ("unknown", "embedding", "encoder", "preprocessing", "detector", "quality", "created")

# Each brings the schema from its position to the next; PRAGMA user_version counts them. Forward only: append, never edit.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE person (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, created TEXT NOT NULL, updated TEXT NOT NULL)",
        """CREATE TABLE template (
            id INTEGER PRIMARY KEY, person INTEGER NOT NULL REFERENCES person ON DELETE CASCADE,
            embedding BLOB NOT NULL, encoder TEXT NOT NULL, preprocessing INTEGER NOT NULL, detector TEXT NOT NULL,
            quality REAL NOT NULL, source TEXT NOT NULL, created TEXT NOT NULL)""",
        "CREATE INDEX template_person ON template (person)",
        "CREATE TABLE setting (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
        "CREATE TABLE audit (id INTEGER PRIMARY KEY, time TEXT NOT NULL, verb TEXT NOT NULL, person INTEGER, detail TEXT NOT NULL)",
    ),
    (
        # A number is never given twice: the audit log knows removed people by it.
        """CREATE TABLE somebody (
            id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, sealed BLOB, created TEXT NOT NULL, updated TEXT NOT NULL)""",
        "INSERT INTO somebody SELECT id, name, NULL, created, updated FROM person",
        "INSERT INTO sqlite_sequence (name, seq) SELECT 'somebody', 0 WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence)",
        "UPDATE sqlite_sequence SET seq = max(seq, (SELECT coalesce(max(person), 0) FROM audit)) WHERE name = 'somebody'",
        # A template without a person denies: the face of nobody who matters.
        """CREATE TABLE pattern (
            id INTEGER PRIMARY KEY AUTOINCREMENT, person INTEGER REFERENCES somebody ON DELETE CASCADE, denies INTEGER NOT NULL,
            embedding BLOB NOT NULL, encoder TEXT NOT NULL, preprocessing INTEGER NOT NULL, detector TEXT NOT NULL,
            quality REAL NOT NULL, source BLOB NOT NULL, created TEXT NOT NULL, yaw REAL, pitch REAL, light REAL, side REAL)""",
        f"INSERT INTO pattern (id, {', '.join(_TEMPLATE)})"
        f" SELECT id, {', '.join(_TEMPLATE).replace('denies', '0').replace('source', 'CAST(source AS BLOB)')} FROM template",
        "DROP TABLE template",
        "DROP TABLE person",
        "ALTER TABLE somebody RENAME TO person",
        "ALTER TABLE pattern RENAME TO template",
        "CREATE INDEX template_person ON template (person)",
        "CREATE TABLE crop (template INTEGER PRIMARY KEY REFERENCES template ON DELETE CASCADE, picture BLOB NOT NULL)",
        "CREATE TABLE state (key TEXT PRIMARY KEY, value BLOB NOT NULL)",
        "CREATE TABLE undo (id INTEGER PRIMARY KEY, step INTEGER NOT NULL, statement TEXT NOT NULL)",
        "CREATE INDEX undo_step ON undo (step)",
        *_undoable("person", "id", "name", "sealed", "created", "updated"),
        *_undoable("template", "id", *_TEMPLATE, *_LOOK),
        *_undoable("crop", "template", "picture"),
        *_undoable("setting", "key", "value"),
    ),
    (
        "DROP INDEX template_person",
        "CREATE INDEX template_person ON template (person, denies)",  # tells whose a template is without reading it
        "CREATE INDEX template_denies ON template (id) WHERE denies",
        # Strangers who are remembered come and go without a verb. What a verb takes away (`Store._undoably`) can be brought back.
        """CREATE TABLE unknown (
            id INTEGER PRIMARY KEY AUTOINCREMENT, visits INTEGER NOT NULL,
            first TEXT NOT NULL, last TEXT NOT NULL, expires TEXT NOT NULL)""",
        """CREATE TABLE trace (
            id INTEGER PRIMARY KEY AUTOINCREMENT, unknown INTEGER NOT NULL REFERENCES unknown ON DELETE CASCADE, embedding BLOB NOT NULL,
            encoder TEXT NOT NULL, preprocessing INTEGER NOT NULL, detector TEXT NOT NULL, quality REAL NOT NULL, created TEXT NOT NULL)""",
        "CREATE INDEX trace_unknown ON trace (unknown)",
        *(
            deleted.replace(" BEGIN", " WHEN EXISTS (SELECT 1 FROM state WHERE key = 'undoably') BEGIN", 1)
            for _, _, deleted in (_undoable("unknown", "id", "visits", "first", "last", "expires"), _undoable("trace", "id", *_TRACE))
        ),
    ),
)


@dataclass(frozen=True)
class Change:
    """An entry of the audit log. `person` is a number, which outlives the name; `time` is UTC, ISO 8601."""

    number: int
    time: str
    verb: str
    person: int | None
    detail: str


class Store:
    """An open gallery's file; close it, or use it as a context manager. Each verb is one transaction with an audit row.

    With `create` the file is made where it is missing, for its owner's eyes alone, and encrypted if there is a key.
    `key` is the one that the gallery is encrypted with; without it `find_key` looks in the environment. Others who write are
    waited for `patience` seconds.
    Raises InputError (no such file, no key wanted) or StoredError (not a gallery, damaged, written by a newer Omokage, another key).
    """

    def __init__(self, path: Path, create: bool = False, key: bytes | None = None, patience: float | None = None):
        self.path = Path(path)
        self._patience = BUSY if patience is None else patience
        if not self.path.is_file():
            if not create:
                raise InputError(f"the gallery {self.path} is not there", "add a person with enroll.py, or name a gallery with --gallery")
            _create(self.path)
        self._sealer: Sealer = Plain()
        with self._reading():
            self._db = sqlite3.connect(f"{self.path.resolve().as_uri()}?mode=rw", uri=True, timeout=self._patience, isolation_level=None)
            try:
                self._db.execute("PRAGMA foreign_keys = ON")
                self._db.execute("PRAGMA secure_delete = ON")  # what is deleted is overwritten with zeros
                self._db.execute("PRAGMA temp_store = MEMORY")  # nothing of a gallery goes to /tmp
                self._check(create)
                self._db.execute("PRAGMA journal_mode = WAL")
                self._migrate()
                self._unlock(find_key() if key is None else key, create)
                self._expire()
                self._finish_forgetting()
            except BaseException:
                self._db.close()
                raise

    def close(self) -> None:
        self._db.close()

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def encrypted(self) -> bool:
        return isinstance(self._sealer, Vault)

    def version(self) -> tuple[int, int]:
        """Equal to an earlier answer as long as nobody else has changed the file or put another one in its place: microseconds.

        It tells changes by other connections (PRAGMA data_version), and is of use to this one alone.
        """
        try:
            file = self.path.stat().st_ino
        except OSError:
            file = 0  # it is gone
        with self._reading():
            return file, self._db.execute("PRAGMA data_version").fetchone()[0]

    def change(self) -> int:
        """The number of the newest change, 0 for none: the gallery's version for whoever keeps something made from it."""
        with self._reading():
            return self._db.execute("SELECT coalesce(max(id), 0) FROM audit").fetchone()[0]

    def audit(self) -> list[Change]:
        """All changes, the oldest first."""
        with self._reading():
            return [Change(*row) for row in self._db.execute("SELECT id, time, verb, person, detail FROM audit ORDER BY id")]

    def note(self, verb: str) -> None:
        """Enter something into the audit log that leaves the gallery as it is, like an export."""
        with self._writing(verb):
            pass

    def copy(self, path: Path) -> None:
        """Write the whole gallery to the one file `path`, its owner's alone."""
        with self._reading():
            _copy(self._db, path)

    def setting(self, key: str) -> str | None:
        """What the user has set, None where nothing was."""
        with self._reading():
            return next((value for (value,) in self._db.execute("SELECT value FROM setting WHERE key = ?", (key,))), None)

    def set(self, key: str, value: str) -> None:
        with self._writing("set", detail=key):
            self._db.execute("INSERT INTO setting VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value", (key, value))

    def derived(self, key: str) -> tuple[int, bytes] | None:
        """What `keep` stored under `key` and the `change` that it was made from; None where there is nothing."""
        with self._reading():
            row = self._db.execute("SELECT value FROM state WHERE key = ?", (f"derived {key}",)).fetchone()
        if row is None:
            return None
        content = self._open(row[0], key)
        return int.from_bytes(content[:8], "big"), content[8:]

    def keep(self, key: str, change: int, value: bytes) -> None:
        """Keep something made from the people as they were at `change`, like a threshold. It goes when anybody is removed."""
        content = self._sealer.seal(change.to_bytes(8, "big") + value, key)
        with self._transaction():
            if self._current(change):
                self._db.execute("REPLACE INTO state VALUES (?, ?)", (f"derived {key}", content))

    def undo(self) -> Change:
        """Take back the newest change that is not undone yet; returns it. Raises InputError where there is none, or it was `remove`."""
        with self._writing("undo") as now:
            step = self._db.execute("SELECT max(step) FROM undo").fetchone()[0]
            if step is None:
                raise InputError("there is nothing to undo", "a removal and what was before it, or an encryption, cannot be undone")
            change = Change(*self._db.execute("SELECT id, time, verb, person, detail FROM audit WHERE id = ?", (step,)).fetchone())
            self._db.execute("PRAGMA defer_foreign_keys = ON")
            for (statement,) in self._db.execute("SELECT statement FROM undo WHERE step = ? ORDER BY id DESC", (step,)).fetchall():
                self._db.execute(statement)
            self._db.execute("DELETE FROM undo WHERE step >= ?", (step,))
            self._describe(change.person, f"{change.verb} of {change.time}")
            self._to_forget(now)
        self._forget()
        return change

    def _expire(self) -> None:
        """Delete what was to be kept for a time only that is over; device/visitors.py knows what."""

    def _check(self, create: bool) -> None:
        """It is a gallery and not a newer one, or an empty file that is to become one."""
        version = self._version()
        if version > len(MIGRATIONS):
            raise StoredError(f"{self.path} has schema {version}, this program reads up to {len(MIGRATIONS)}", "update Omokage")
        tables = {name for (name,) in self._db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not version and not tables and create:
            return
        if not version or not {"person", "template", "setting", "audit"} <= tables:
            raise StoredError(f"{self.path} is not a gallery", "name another file with --gallery")

    def _migrate(self) -> None:
        """Bring the schema up to date. What held anything before is copied first (`old_copies`)."""
        version = self._version()
        if 0 < version < len(MIGRATIONS):
            _copy(self._db, self.path.with_name(f"{self.path.name}.v{version}"))
        for number in range(version + 1, len(MIGRATIONS) + 1):
            with self._transaction():
                if self._version() < number:  # nobody else was faster
                    for statement in MIGRATIONS[number - 1]:
                        self._db.execute(statement)
                    self._db.execute(f"PRAGMA user_version = {number}")

    def _version(self) -> int:
        return self._db.execute("PRAGMA user_version").fetchone()[0]

    def old_copies(self) -> list[Path]:
        """The copies that migrations have made. They go with the first person who is removed."""
        names = [self.path.with_name(f"{self.path.name}.v{version}") for version in range(1, len(MIGRATIONS))]
        return [path for path in names if path.exists()]

    def _unlock(self, key: bytes | None, create: bool) -> None:
        """Find out whether `key` is the one. A new gallery becomes encrypted where there is one."""
        header = self._db.execute("SELECT value FROM state WHERE key = 'vault'").fetchone()
        if header is None and key is not None and create:
            with self._transaction():
                if not self._db.execute("SELECT 1 FROM audit").fetchone():
                    self._lock(Vault(key, os.urandom(SALT)))
                    return
        if header is None and key is not None:
            raise InputError(f"{self.path} is not encrypted, but a key was given", "encrypt it with enroll.py encrypt, or give no key")
        if header is None:
            return
        if key is None:
            raise StoredError(
                f"{self.path} is encrypted", "give its key with --key-file; if the key is lost, so is what is in it: enrol anew elsewhere"
            )
        try:
            salt, check = (bytes.fromhex(json.loads(header[0])[word]) for word in ("salt", "check"))
        except (ValueError, KeyError, TypeError) as error:
            raise self._damaged("the note about its key has changed") from error
        vault = Vault(key, salt)
        try:
            vault.unseal(check, "check")
        except Broken as error:
            raise StoredError(f"{self.path} was encrypted with another key", "give the right one with --key-file") from error
        self._sealer = vault

    def _lock(self, sealer: Sealer) -> None:
        """Note, inside a transaction, under what the gallery is sealed from now on."""
        self._db.execute("DELETE FROM state WHERE key = 'vault'")
        if isinstance(sealer, Vault):
            header = {"salt": sealer.salt.hex(), "check": sealer.seal(b"omokage", "check").hex()}
            self._db.execute("INSERT INTO state VALUES ('vault', ?)", (json.dumps(header),))
        self._sealer = sealer

    def _open(self, sealed: bytes, about: str) -> bytes:
        try:
            return self._sealer.unseal(sealed, about)
        except Broken as error:
            raise self._damaged("what is sealed in it has changed") from error

    def _to_forget(self, now: str) -> None:
        """Note, inside a transaction, that deleted things are to be wiped from the files when it is over."""
        self._db.execute("REPLACE INTO state VALUES ('forget', ?)", (now,))

    def _forget(self, patience: float | None = None) -> None:
        """Wipe what was deleted from the pages' unused parts and from the write-ahead log, if that is still to be done.

        Waits `patience` seconds for others, or as long as for writers.
        """
        end = time.monotonic() + (self._patience if patience is None else patience)
        try:
            with self._reading():
                due = self._db.execute("SELECT value FROM state WHERE key = 'forget'").fetchone()
                if due is None:
                    return
                self._db.execute("VACUUM")
                # SQLite waits for readers, but not for a checkpoint of somebody else.
                while self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
                    if time.monotonic() > end:
                        raise StoredError(f"another program reads {self.path}", "end it")
                    time.sleep(0.01)
                self._db.execute("DELETE FROM state WHERE key = 'forget' AND value = ?", due)  # and not one that came meanwhile
        except OmokageError as error:
            raise StoredError(
                f"it is done, but {error.wrong}, and so traces of what was deleted are still in its files",
                f"{error.mend}; the traces go when the gallery is opened again",
            ) from error

    def _finish_forgetting(self) -> None:
        """Do what a program left undone that was killed, unless something is in the way: then the next one will."""
        self._db.execute("PRAGMA busy_timeout = 100")
        with contextlib.suppress(OmokageError):
            self._forget(patience=0.1)
        self._db.execute(f"PRAGMA busy_timeout = {round(1000 * self._patience)}")

    def _current(self, change: int) -> bool:
        """There was no removal after `change`: nothing of anybody who has gone may be kept."""
        query = "SELECT 1 FROM audit WHERE id > ? AND verb IN ('remove', 'undo', 'encrypt', 'decrypt')"
        return self._db.execute(query, (change,)).fetchone() is None

    @contextlib.contextmanager
    def _writing(self, verb: str, person: int | None = None, detail: str = "") -> Iterator[str]:
        """The transaction of a verb, with its row in the audit log, which knows people by number: it outlives their names.

        Yields the time, which its rows carry. `_describe` fills in what is known only later.
        """
        with self._transaction():
            now = datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
            self._db.execute("INSERT INTO audit (time, verb, person, detail) VALUES (?, ?, ?, ?)", (now, verb, person, detail))
            yield now
            query = "SELECT DISTINCT step FROM undo ORDER BY step DESC LIMIT 1 OFFSET ?"
            for (step,) in self._db.execute(query, (UNDOABLE,)).fetchall():
                self._db.execute("DELETE FROM undo WHERE step <= ?", (step,))

    def _describe(self, person: int | None, detail: str) -> None:
        self._db.execute("UPDATE audit SET person = ?, detail = ? WHERE id = (SELECT max(id) FROM audit)", (person, detail))

    @contextlib.contextmanager
    def _undoably(self) -> Iterator[None]:
        """Within a verb's transaction: strangers who are deleted in the block come back when the verb is undone."""
        self._db.execute("INSERT INTO state VALUES ('undoably', '')")
        yield
        self._db.execute("DELETE FROM state WHERE key = 'undoably'")

    @contextlib.contextmanager
    def _snapshot(self) -> Iterator[None]:
        """All that is read in the block is of one moment."""
        with self._reading():
            self._db.execute("BEGIN")
            try:
                yield
            finally:
                with contextlib.suppress(sqlite3.Error):
                    self._db.execute("COMMIT")

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """All of the block or nothing."""
        with self._reading():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        """SQLite's errors as Omokage's."""
        try:
            yield
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise StoredError(f"{self.path} is in use by another program", "try again") from error
            raise InputError(f"{self.path} cannot be used ({error})", "check its folder, its permissions and the disk") from error
        except sqlite3.DatabaseError as error:
            raise self._damaged(str(error)) from error

    def _damaged(self, reason: str) -> StoredError:
        return StoredError(f"{self.path} is not a gallery or is damaged ({reason})", "restore a copy, or name another file with --gallery")


def _copy(db: sqlite3.Connection, path: Path) -> None:
    """A copy of an open database in the one file `path`, for its owner alone, in place of what was there."""
    with private(path) as temporary:
        db.execute("VACUUM INTO ?", (str(temporary),))


@contextlib.contextmanager
def private(path: Path) -> Iterator[Path]:
    """Like `replacing`, for a file that is its owner's alone."""
    mask = os.umask(0o077)
    try:
        with replacing(path) as temporary:
            yield temporary
    finally:
        os.umask(mask)


def _create(path: Path) -> None:
    """An empty file for its owner alone, in a folder for its owner alone: embeddings are biometric data."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
    except OSError as error:
        raise InputError(f"the gallery {path} cannot be made ({error.strerror})", "name another file with --gallery") from error
