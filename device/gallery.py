"""The gallery: who is known, in one SQLite file. Embeddings only, no pictures."""

import contextlib
import os
import sqlite3
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from device.bundle import Bundle
from device.program import InputError, StoredError

VARIABLE = "OMOKAGE_GALLERY"
BUSY = 5.0  # seconds to wait for another program that writes
LONGEST = 200  # characters of a name

# Each brings the schema from its position to the next; PRAGMA user_version counts them. Forward only: append, never edit.
MIGRATIONS = (
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
)


@dataclass(frozen=True, eq=False)
class Template:
    """One embedding of a person, float32 unit [D], and how it came about: encoder id, preprocessing version, ..."""

    embedding: np.ndarray
    encoder: str
    preprocessing: int
    detector: str
    quality: float
    source: str


@dataclass(frozen=True)
class Person:
    """`templates` counts them; times are UTC, ISO 8601."""

    name: str
    templates: int
    created: str
    updated: str


def default_path() -> Path:
    """$OMOKAGE_GALLERY, or gallery.db in the user's data folder."""
    return Path(os.environ.get(VARIABLE) or Path.home() / ".local/share/omokage/gallery.db")


def valid_name(name: str) -> str:
    """`name` in NFC and without space around it. Raises InputError unless it is printable and of 1 to 200 characters."""
    name = unicodedata.normalize("NFC", name).strip()
    if not name or not name.isprintable():
        raise InputError("the name is empty" if not name else f"the name {name!r} is not printable text", "write a name of letters")
    if len(name) > LONGEST:
        raise InputError(f"the name has {len(name)} characters", f"use up to {LONGEST}")
    return name


class Gallery:
    """An open gallery; close it, or use it as a context manager. Each verb is one transaction with an audit row.

    With `create` the file is made where it is missing, for its owner's eyes alone. Raises InputError (no such file) or
    StoredError (not a gallery, damaged, or written by a newer Omokage).
    """

    def __init__(self, path: Path, create: bool = False):
        self.path = Path(path)
        if not self.path.is_file():
            if not create:
                raise InputError(f"the gallery {self.path} is not there", "add a person with enroll.py, or name a gallery with --gallery")
            _create(self.path)
        with self._reading():
            self._db = sqlite3.connect(f"{self.path.resolve().as_uri()}?mode=rw", uri=True, timeout=BUSY, isolation_level=None)
            try:
                self._db.execute("PRAGMA foreign_keys = ON")
                self._db.execute("PRAGMA secure_delete = ON")  # what is deleted is overwritten with zeros
                self._check(create)
                self._db.execute("PRAGMA journal_mode = WAL")
                self._migrate()
            except BaseException:
                self._db.close()
                raise

    def people(self) -> list[Person]:
        """Everybody, sorted by name."""
        with self._reading():
            rows = self._db.execute(
                "SELECT name, count(template.id), person.created, updated FROM person"
                " LEFT JOIN template ON template.person = person.id GROUP BY person.id ORDER BY name"
            )
            return [Person(*row) for row in rows]

    def encoder(self) -> str | None:
        """The id of the encoder that made the templates; None where there are none."""
        with self._reading():
            return next((encoder for (encoder,) in self._db.execute("SELECT encoder FROM template LIMIT 1")), None)

    def templates(self, bundle: Bundle) -> tuple[np.ndarray, list[str]]:
        """All embeddings, float32 [N, D], and whose they are, N names.

        Raises StoredError where a template was made by another encoder or preprocessing than those of `bundle`.
        """
        with self._reading():
            rows = self._db.execute(
                "SELECT embedding, name, encoder, preprocessing FROM template JOIN person ON person.id = template.person"
                " ORDER BY name, template.id"
            ).fetchall()
        for blob, _, encoder, preprocessing in rows:
            self._check_maker(encoder, preprocessing, bundle.encoder, bundle.preprocessing)
            if len(blob) != 4 * bundle.dimension:
                raise self._damaged(f"an embedding of {len(blob)} bytes")
        embeddings = np.frombuffer(b"".join(row[0] for row in rows), "<f4").reshape(-1, bundle.dimension)
        return embeddings.astype(np.float32), [row[1] for row in rows]

    def accept(self, name: str, more: bool = False) -> str:
        """`name` as it is stored. Raises InputError where `add` would refuse it: not printable, there already or (more) not."""
        name = valid_name(name)
        with self._reading():
            known = self._id(name) is not None
        if known and not more:
            raise InputError(f"{name} is in the gallery already", "add templates with --more, or choose another name")
        if more and not known:
            raise InputError(f"{name} is not in the gallery", "leave --more out to add a new person")
        return name

    def add(self, name: str, templates: Sequence[Template], more: bool = False) -> int:
        """Store `templates` for a new person, or with `more` for one who is there; returns how many there are now.

        Raises InputError (`accept` says when; no template) or StoredError (another encoder).
        """
        name = self.accept(name, more)
        if not templates:
            raise InputError(f"there is no template for {name}", "name at least one picture")
        with self._writing() as now:
            makers = self._db.execute("SELECT DISTINCT encoder, preprocessing FROM template").fetchall()
            for template in templates:
                for encoder, preprocessing in makers:
                    self._check_maker(encoder, preprocessing, template.encoder, template.preprocessing)
            self.accept(name, more)  # again: somebody else may have added it meanwhile
            self._db.execute(
                "INSERT INTO person (name, created, updated) VALUES (?, ?, ?) ON CONFLICT (name) DO UPDATE SET updated = excluded.updated",
                (name, now, now),
            )
            person = self._id(name)
            self._db.executemany(
                "INSERT INTO template (person, embedding, encoder, preprocessing, detector, quality, source, created)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (person, np.asarray(t.embedding, "<f4").tobytes(), t.encoder, t.preprocessing, t.detector, t.quality, t.source, now)
                    for t in templates
                ],
            )
            self._audit(now, "add", person, f"{len(templates)} templates")
            return self._count(person)

    def remove(self, name: str) -> int:
        """Delete a person with all templates, so that the files hold neither any more; returns how many there were."""
        name = valid_name(name)
        with self._writing() as now:
            person = self._id(name)
            if person is None:
                raise InputError(f"{name} is not in the gallery", "see enroll.py list")
            count = self._count(person)
            self._db.execute("DELETE FROM person WHERE id = ?", (person,))
            self._audit(now, "remove", person, f"{count} templates")
        self._forget()
        return count

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> "Gallery":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

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
        for number in range(self._version() + 1, len(MIGRATIONS) + 1):
            with self._writing():
                if self._version() < number:  # nobody else was faster
                    for statement in MIGRATIONS[number - 1]:
                        self._db.execute(statement)
                    self._db.execute(f"PRAGMA user_version = {number}")

    def _version(self) -> int:
        return self._db.execute("PRAGMA user_version").fetchone()[0]

    def _id(self, name: str) -> int | None:
        return next((number for (number,) in self._db.execute("SELECT id FROM person WHERE name = ?", (name,))), None)

    def _count(self, person: int | None) -> int:
        return self._db.execute("SELECT count(*) FROM template WHERE person = ?", (person,)).fetchone()[0]

    def _audit(self, now: str, verb: str, person: int | None, detail: str) -> None:
        """The person's number, not the name: the audit outlives the person."""
        self._db.execute("INSERT INTO audit (time, verb, person, detail) VALUES (?, ?, ?, ?)", (now, verb, person, detail))

    def _check_maker(self, encoder: str, preprocessing: int, wanted: str, wanted_preprocessing: int) -> None:
        if (encoder, preprocessing) != (wanted, wanted_preprocessing):
            raise StoredError(
                f"{self.path} holds templates of encoder {encoder} (preprocessing {preprocessing}),"
                f" this is {wanted} (preprocessing {wanted_preprocessing})",
                "name that encoder's bundle with --encoder, or enrol into another --gallery",
            )

    def _forget(self) -> None:
        """Empty the write-ahead log, in which older pages still show what was deleted."""
        with self._reading():
            busy = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
            if busy:
                raise StoredError(
                    f"the person is removed, but another program reads {self.path} and keeps traces in {self.path}-wal",
                    "end that program; the traces go when the gallery is opened and closed again",
                )

    @contextlib.contextmanager
    def _writing(self) -> Iterator[str]:
        """A transaction: all of the block or nothing. Yields the time, which its rows carry."""
        with self._reading():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
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


def _create(path: Path) -> None:
    """An empty file for its owner alone, in a folder for its owner alone: embeddings are biometric data."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
    except OSError as error:
        raise InputError(f"the gallery {path} cannot be made ({error.strerror})", "name another file with --gallery") from error
