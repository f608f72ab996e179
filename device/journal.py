"""The journal: who came by in the last days, for the page (device/serve.py) to show and to correct. Off unless it is asked for.

A folder for its owner's eyes alone: journal.db (SQLite; sealed with the gallery's key, where that has one) and live.sock
(device/live.py). A recogniser writes it (device/recorder.py), any number of pages read it. A visit is a track: who it was taken
for, when, what its face looks like to the encoder, and its best crop if crops are to be kept. Visits go after some days, the
oldest first if they are too many.
"""

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from device.bundle import Bundle
from device.gallery import Template
from device.program import InputError, StoredError
from device.vault import SALT, Broken, Plain, Sealer, Vault
from device.visitors import packed, stamp

FILE = "journal.db"
SOCKET = "live.sock"
DAYS = 7.0
MOST = 5000  # visits
QUALITY = 88  # of the JPEG of a crop
PATIENCE = 1.0  # seconds for which a camera may wait for others

SCHEMA = (
    """CREATE TABLE visit (
        id INTEGER PRIMARY KEY AUTOINCREMENT, run TEXT NOT NULL, track INTEGER NOT NULL, decision TEXT NOT NULL, unknown INTEGER,
        first TEXT NOT NULL, last TEXT NOT NULL, over INTEGER NOT NULL, answer TEXT,
        facts BLOB NOT NULL, embedding BLOB, crop BLOB, UNIQUE (run, track))""",
    "CREATE INDEX visit_last ON visit (last)",
    "CREATE TABLE fact (key TEXT PRIMARY KEY, value BLOB NOT NULL)",
)
VERSION = 1
_COLUMNS = "id, decision, unknown, first, last, over, answer, facts, crop IS NOT NULL"


@dataclass(frozen=True)
class Visit:
    """Somebody came by. `decision` and `name` as events have them, `guess` the best other name; times are UTC, ISO 8601.

    `over`: the track has ended. `answer` is what somebody said about it, None: nothing. `crop`: there is a picture.
    """

    number: int
    decision: str
    unknown: int | None
    first: str
    last: str
    over: bool
    answer: str | None
    name: str | None
    guess: str | None
    score: float | None
    quality: float
    source: str
    crop: bool


class Journal:
    """An open journal; with `create` it is made where it is missing. `key`: the gallery's, None where that has none.

    Raises InputError (not there, cannot be made) or StoredError (no journal, another key).
    """

    def __init__(self, folder: Path, key: bytes | None = None, create: bool = False):
        self.path = Path(folder) / FILE
        if create:
            make_folder(Path(folder))
        elif not self.path.is_file():
            raise InputError(f"there is no journal in {folder}", f"start recognize.py with --journal {folder}")
        with self._errors():
            self._db = sqlite3.connect(self.path, timeout=PATIENCE, isolation_level=None)
            try:
                self._db.execute("PRAGMA secure_delete = ON")
                self._db.execute("PRAGMA temp_store = MEMORY")
                self._db.execute("PRAGMA journal_mode = WAL")
                self._db.execute("PRAGMA synchronous = NORMAL")  # the last visits may be lost with the power, the file is not
                self._prepare()
                self._sealer = self._unlocked(key, create)
            except BaseException:
                self._db.close()
                raise

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, run: str, event: Mapping[str, Any], embedding: np.ndarray | None, crop: np.ndarray | None) -> None:
        """Note what an event "seen", "changed" or "gone" says (device/events.py).

        `embedding` float32 unit [D] and `crop` RGB uint8 [112, 112, 3] replace what was there.
        """
        facts = {key: event.get(key) for key in ("name", "score", "quality", "source")} | {"guess": (event["runner_up"] or {}).get("name")}
        sealed = self._sealer.seal(json.dumps(facts, ensure_ascii=False).encode(), "visit")
        face = None if embedding is None else self._sealer.seal(packed(embedding), "face")
        picture = None if crop is None else self._sealer.seal(_jpeg(crop), "crop")
        unknown = event.get("unknown", {}).get("number")
        first, last = event.get("first", event["time"]), event.get("last", event["time"])
        row = (run, event["track"], event["decision"], unknown, first, last, event["event"] == "gone", sealed, face, picture)
        with self._errors():
            self._db.execute(
                "INSERT INTO visit (run, track, decision, unknown, first, last, over, facts, embedding, crop)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (run, track) DO UPDATE SET decision = excluded.decision,"
                " unknown = excluded.unknown, last = excluded.last, over = excluded.over, facts = excluded.facts,"
                " embedding = coalesce(excluded.embedding, embedding), crop = coalesce(excluded.crop, crop)",
                row,
            )

    def visits(self, since: datetime | None = None, until: datetime | None = None, most: int = 200) -> list[Visit]:
        """The newest first, `most` at most."""
        lower, upper = stamp(since) if since else "", stamp(until) if until else "~"
        query = f"SELECT {_COLUMNS} FROM visit WHERE last >= ? AND last < ? ORDER BY first DESC, id DESC LIMIT ?"
        return self._found(query, (lower, upper, most))

    def open_questions(self, most: int = 100) -> list[Visit]:
        """Visits that are over, in the review band, and nobody said anything about; the newest first."""
        query = f"SELECT {_COLUMNS} FROM visit WHERE decision = 'review' AND over AND answer IS NULL ORDER BY first DESC LIMIT ?"
        return [visit for visit in self._found(query, (most,)) if visit.guess is not None]

    def of_unknown(self, number: int, most: int = 4) -> list[Visit]:
        """The visits of a stranger who is remembered, with crops, the newest first."""
        return self._found(
            f"SELECT {_COLUMNS} FROM visit WHERE unknown = ? AND crop IS NOT NULL ORDER BY first DESC LIMIT ?", (number, most)
        )

    def visit(self, number: int) -> Visit:
        """Raises InputError where it is not there (any more)."""
        found = self._found(f"SELECT {_COLUMNS} FROM visit WHERE id = ?", (number,))
        if not found:
            raise InputError(f"visit {number} is not in the journal any more", "choose another one")
        return found[0]

    def template(self, visit: Visit, used: Bundle) -> Template:
        """The face of a visit as a template of `used`. Raises InputError where it was not looked at, or by another encoder."""
        with self._errors():
            row = self._db.execute("SELECT embedding FROM visit WHERE id = ?", (visit.number,)).fetchone()
            kept = dict(self._db.execute("SELECT key, value FROM fact WHERE key IN ('encoder', 'detector')").fetchall())
        if row is None or row[0] is None:
            raise InputError("of this visit no face was kept", "choose another one")
        if kept["encoder"].decode() != used.encoder:
            raise InputError("this visit was seen by another encoder", "choose a newer one")
        detector = kept["detector"].decode()
        embedding = np.frombuffer(self._open(row[0], "face"), "<f4").astype(np.float32)
        return Template(embedding, used.encoder, used.preprocessing, detector, visit.quality, f"seen {visit.first[:16]}")

    def crop(self, number: int) -> bytes | None:
        """The JPEG of a visit, None where there is none."""
        with self._errors():
            row = self._db.execute("SELECT crop FROM visit WHERE id = ?", (number,)).fetchone()
        return self._open(row[0], "crop") if row and row[0] else None

    def state(self) -> str:
        """Another text whenever a visit came or changed."""
        with self._errors():
            return "-".join(
                map(str, self._db.execute("SELECT count(*), max(id), max(last), sum(over), count(answer) FROM visit").fetchone())
            )

    def answer(self, number: int, word: str, change: int) -> None:
        """Remember what was said about a visit, and which change of the gallery that made."""
        with self._errors():
            self._db.execute("UPDATE visit SET answer = ? WHERE id = ?", (f"{word} {change}", number))

    def take_back(self, change: int) -> None:
        """That change of the gallery was undone: ask again."""
        with self._errors():
            self._db.execute("UPDATE visit SET answer = NULL WHERE answer LIKE ?", (f"% {change}",))

    def prune(self, names: Iterable[str]) -> int:
        """Delete the visits of people who are not among `names`, as guess or as name; returns how many went."""
        there = set(names)
        with self._errors():
            rows = self._db.execute("SELECT id, facts FROM visit").fetchall()
            gone = [(number,) for number, facts in rows if not {*self._told(facts)} <= there]
            self._db.executemany("DELETE FROM visit WHERE id = ?", gone)
        return len(gone)

    def rename(self, old: str, new: str) -> None:
        """A person has another name now."""
        with self._errors():
            for number, facts in self._db.execute("SELECT id, facts FROM visit").fetchall():
                if old in self._told(facts):
                    told = {key: new if key in ("name", "guess") and value == old else value for key, value in self._facts(facts).items()}
                    sealed = self._sealer.seal(json.dumps(told, ensure_ascii=False).encode(), "visit")
                    self._db.execute("UPDATE visit SET facts = ? WHERE id = ?", (sealed, number))

    def expire(self, days: float, now: datetime | None = None) -> None:
        """Delete visits that are older than `days`, and the oldest beyond MOST."""
        oldest = stamp((now or datetime.now(timezone.utc)) - timedelta(days=days))
        with self._errors():
            self._db.execute("DELETE FROM visit WHERE last < ?", (oldest,))
            self._db.execute("DELETE FROM visit WHERE id IN (SELECT id FROM visit ORDER BY last DESC LIMIT -1 OFFSET ?)", (MOST,))
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def made_by(self, encoder: str, detector: str) -> None:
        """Note what makes the embeddings from now on; those of another encoder go."""
        with self._errors():
            kept = self._db.execute("SELECT value FROM fact WHERE key = 'encoder'").fetchone()
            if kept is not None and kept[0] != encoder.encode():
                self._db.execute("UPDATE visit SET embedding = NULL")
            facts = [("encoder", encoder.encode()), ("detector", detector.encode())]
            self._db.executemany("REPLACE INTO fact VALUES (?, ?)", facts)

    def end_open(self) -> None:
        """Whoever wrote before has ended, and with it all visits."""
        with self._errors():
            self._db.execute("UPDATE visit SET over = 1")

    def _prepare(self) -> None:
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version > VERSION:
            raise StoredError(f"{self.path} has schema {version}, this program reads {VERSION}", "update Omokage")
        if version == 0:
            self._db.execute("BEGIN IMMEDIATE")
            if self._db.execute("PRAGMA user_version").fetchone()[0] == 0:  # nobody else was faster
                for statement in SCHEMA:
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA user_version = {VERSION}")
            self._db.execute("COMMIT")

    def _unlocked(self, key: bytes | None, create: bool) -> Sealer:
        """How this journal is sealed. Who may create it begins it anew where it is sealed otherwise than the gallery: it is no archive."""
        kept = dict(self._db.execute("SELECT key, value FROM fact WHERE key IN ('salt', 'check')").fetchall())
        if key is None and not kept:
            return Plain()
        if key is not None and kept:
            vault = Vault(key, kept["salt"])
            with contextlib.suppress(Broken):
                vault.unseal(kept["check"], "check")
                return vault
        if not create:
            raise StoredError(f"{self.path} is sealed with another key than the gallery", "start the recogniser again: it is begun anew")
        self._db.execute("BEGIN IMMEDIATE")
        self._db.execute("DELETE FROM visit")
        self._db.execute("DELETE FROM fact")
        sealer: Sealer = Plain()
        if key is not None:
            sealer = vault = Vault(key, os.urandom(SALT))
            self._db.executemany("INSERT INTO fact VALUES (?, ?)", [("salt", vault.salt), ("check", vault.seal(b"omokage", "check"))])
        self._db.execute("COMMIT")
        return sealer

    def _found(self, query: str, values: tuple) -> list[Visit]:
        with self._errors():
            return [self._visit(row) for row in self._db.execute(query, values).fetchall()]

    def _visit(self, row: tuple) -> Visit:
        number, decision, unknown, first, last, over, answer, facts, crop = row
        told = self._facts(facts)
        rest = told["name"], told["guess"], told["score"], told["quality"] or 0.0, told["source"]
        return Visit(number, decision, unknown, first, last, bool(over), answer and answer.split()[0], *rest, bool(crop))

    def _facts(self, sealed: bytes) -> dict[str, Any]:
        return json.loads(self._open(sealed, "visit"))

    def _told(self, sealed: bytes) -> list[str]:
        facts = self._facts(sealed)
        return [name for name in (facts["name"], facts["guess"]) if name is not None]

    def _open(self, sealed: bytes, about: str) -> bytes:
        try:
            return self._sealer.unseal(sealed, about)
        except Broken as error:
            raise self._damaged("what is sealed in it has changed") from error

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """SQLite's errors as Omokage's."""
        try:
            yield
        except sqlite3.OperationalError as error:
            raise StoredError(f"{self.path} cannot be used ({error})", "check its folder, and that the disk is not full") from error
        except sqlite3.DatabaseError as error:
            raise self._damaged(str(error)) from error

    def _damaged(self, reason: str) -> StoredError:
        return StoredError(f"{self.path} is no journal or is damaged ({reason})", "delete it: it is begun anew")


def default_folder(gallery: Path) -> Path:
    """Where the journal is kept that goes with a gallery."""
    return gallery.parent / "journal"


def make_folder(folder: Path) -> None:
    """The journal's folder and an empty file in it, for their owner alone. Raises InputError."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(folder / FILE, os.O_CREAT | os.O_WRONLY, 0o600))
    except OSError as error:
        raise InputError(f"the journal {folder} cannot be made ({error.strerror})", "name another folder with --journal") from error


def _jpeg(crop: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", cv2.cvtColor(crop, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()
