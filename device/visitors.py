"""Strangers who are remembered by a number, for a time that was chosen: the part of a gallery's file that nobody enrolled."""

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

import numpy as np

from device.bundle import Bundle
from device.coverage import choose
from device.program import InputError, OmokageError
from device.store import Store
from device.vault import Sealer

MOST = 200  # strangers who are remembered: the one who was not seen for longest goes
TRACES = 8  # templates of each, the best and most different
GAP = timedelta(minutes=10)  # who comes back later than that has come again
PREFIX = "unknown-"
_COLUMNS = "unknown, embedding, encoder, preprocessing, detector, quality, created"


@dataclass(frozen=True)
class Unknown:
    """A stranger: how often and when seen, until when remembered (UTC, ISO 8601), and the number of templates."""

    number: int
    visits: int
    first: str
    last: str
    expires: str
    templates: int

    @property
    def name(self) -> str:
        return unknown_name(self.number)


@dataclass(frozen=True, eq=False)
class Trace:
    """What one visit left: an embedding, float32 unit [D], and how it came about."""

    embedding: np.ndarray
    encoder: str
    preprocessing: int
    detector: str
    quality: float


@dataclass(frozen=True)
class Stranger:
    """Who a track is: the `number`, how many visits that makes, and the number of what this one `left`."""

    number: int
    visits: int
    left: int

    @property
    def name(self) -> str:
        return unknown_name(self.number)


def unknown_name(number: int) -> str:
    return f"{PREFIX}{number}"


def unknown_number(word: str) -> int:
    """7 of "unknown-7" or "7". Raises InputError."""
    digits = word.removeprefix(PREFIX)
    if not (digits.isascii() and digits.isdigit() and len(digits) < 19):
        raise InputError(f"{word!r} is no number of an unknown", f"write it like {unknown_name(7)}; enroll.py unknowns tells who is there")
    return int(digits)


class Visitors(Store):
    """Those whom a recogniser has seen, does not know, and was asked to remember. They are in no undo and no audit log until a verb
    names or forgets them, and are gone from the files when their time is over."""

    def unknowns(self) -> list[Unknown]:
        """All of them, who was seen last first."""
        query = (
            "SELECT id, visits, first, last, expires, (SELECT count(*) FROM trace WHERE unknown = unknown.id) FROM unknown"
            " ORDER BY last DESC, id DESC"
        )
        with self._reading():
            return [Unknown(*row) for row in self._db.execute(query)]

    def seen(self, number: int) -> list[Trace]:
        """What is known of one of them. Raises InputError where nobody has that number."""
        with self._reading():
            rows = self._db.execute(f"SELECT {_COLUMNS} FROM trace WHERE unknown = ? ORDER BY id", (number,)).fetchall()
        if not rows:
            raise InputError(f"there is no {unknown_name(number)}", "enroll.py unknowns tells who is there")
        return [self._trace(row) for row in rows]

    def traces(self, bundle: Bundle) -> tuple[np.ndarray, list[int]]:
        """The embeddings, float32 [N, D], that the encoder of `bundle` made, and the numbers of those whose they are."""
        query = f"SELECT {_COLUMNS} FROM trace WHERE encoder = ? AND preprocessing = ? ORDER BY unknown, id"
        with self._reading():
            rows = self._db.execute(query, (bundle.encoder, bundle.preprocessing)).fetchall()
        embeddings = [self._trace(row).embedding for row in rows]
        return np.stack(embeddings) if embeddings else np.zeros((0, bundle.dimension), np.float32), [row[0] for row in rows]

    def visit(self, number: int | None, trace: Trace, time: datetime, days: float) -> tuple[Unknown, int]:
        """Note that the stranger with this `number` is there, or with None a new one; `days` to remember. Returns who that is, and the
        number of the `trace` that it left.

        It is another visit where the last one was over for GAP.
        """
        now, expires = stamp(time), stamp(time + timedelta(days=days))
        with self._transaction():
            row = self._db.execute("SELECT last FROM unknown WHERE id IS ?", (number,)).fetchone()
            if number is None or row is None:  # it was named or forgotten just now
                insert = "INSERT INTO unknown (visits, first, last, expires) VALUES (1, ?, ?, ?)"
                number = self._db.execute(insert, (now, now, expires)).lastrowid or 0
            else:
                again = abs(time - moment(row[0])) > GAP
                update = "UPDATE unknown SET visits = visits + ?, last = max(last, ?), expires = max(expires, ?) WHERE id = ?"
                self._db.execute(update, (again, now, expires, number))
            left = self._leave(number, trace, now)
            self._thin_out(number)
            surplus = "SELECT id FROM unknown WHERE id != ? ORDER BY last DESC, id DESC LIMIT -1 OFFSET ?"
            self._let_go([old for (old,) in self._db.execute(surplus, (number, MOST - 1)).fetchall()])
        return next(unknown for unknown in self.unknowns() if unknown.number == number), left

    def stay(self, number: int, left: int, trace: Trace, time: datetime) -> None:
        """The visit is over at `time`, and `trace` is better than the one it `left` at first."""
        with self._transaction():
            self._db.execute("UPDATE unknown SET last = max(last, ?) WHERE id = ?", (stamp(time), number))
            sealed = self._sealer.seal(packed(trace.embedding), _about(number, trace.encoder, trace.preprocessing))
            self._db.execute(
                "UPDATE trace SET embedding = ?, quality = ? WHERE id = ? AND encoder = ?", (sealed, trace.quality, left, trace.encoder)
            )

    def mistaken(self, number: int, left: int) -> None:
        """It was no stranger after all: take the visit back."""
        with self._transaction():
            if self._db.execute("DELETE FROM trace WHERE id = ? AND unknown = ?", (left, number)).rowcount:
                self._db.execute("UPDATE unknown SET visits = max(visits - 1, 1) WHERE id = ?", (number,))
            self._db.execute("DELETE FROM unknown WHERE id = ? AND id NOT IN (SELECT unknown FROM trace)", (number,))

    def forget(self, numbers: Iterable[int] | None = None) -> int:
        """Delete these, or with None all, so that the files do not hold them any more; how many. Raises InputError. Not undone."""
        with self._writing("forget"):
            there = {number for (number,) in self._db.execute("SELECT id FROM unknown")}
            gone = there if numbers is None else set(numbers)
            for number in sorted(gone - there):
                raise InputError(f"there is no {unknown_name(number)}", "enroll.py unknowns tells who is there")
            self._let_go(gone)
            self._describe(None, f"{len(gone)} unknowns")
        self._forget()
        return len(gone)

    def expire(self, now: datetime | None = None) -> None:
        """Delete those whose time is over, so that the files do not hold them any more. What is in the way is left to the next time."""
        with contextlib.suppress(OmokageError):
            moment = stamp(now or datetime.now(timezone.utc))
            with self._reading():
                due = [number for (number,) in self._db.execute("SELECT id FROM unknown WHERE expires <= ?", (moment,))]
            if due:
                with self._transaction():
                    self._let_go(due)
                self._finish_forgetting()

    def _expire(self) -> None:
        self.expire()

    def _let_go(self, numbers: Iterable[int]) -> None:
        """Delete, inside a transaction, and note that they are to be wiped."""
        rows = [(number,) for number in numbers]
        self._db.executemany("DELETE FROM unknown WHERE id = ?", rows)
        if rows:
            self._to_forget(stamp(datetime.now(timezone.utc)))

    def _leave(self, number: int, trace: Trace, now: str) -> int:
        sealed = self._sealer.seal(packed(trace.embedding), _about(number, trace.encoder, trace.preprocessing))
        row = (number, sealed, trace.encoder, trace.preprocessing, trace.detector, trace.quality, now)
        return self._db.execute(f"INSERT INTO trace ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)", row).lastrowid or 0

    def _thin_out(self, number: int) -> None:
        """Delete the most redundant traces beyond TRACES, and those of other encoders; the newest stays."""
        rows = self._db.execute(f"SELECT {_COLUMNS}, id FROM trace WHERE unknown = ? ORDER BY id", (number,)).fetchall()
        *older, newest = [(self._trace(row), row[-1]) for row in rows]
        fitting = [(trace, place) for trace, place in older if trace.encoder == newest[0].encoder]
        embeddings, qualities = [trace.embedding for trace, _ in fitting], [trace.quality for trace, _ in fitting]
        kept = {fitting[index][1] for index in choose(np.stack(embeddings), qualities, TRACES - 1)} if fitting else set()
        self._db.executemany("DELETE FROM trace WHERE id = ?", [(place,) for _, place in older if place not in kept])

    def _trace(self, row: Sequence) -> Trace:
        number, sealed, encoder, preprocessing, detector, quality, *_ = row
        blob = self._open(sealed, _about(number, encoder, preprocessing))
        if not blob or len(blob) % 4:
            raise self._damaged(f"an embedding of {len(blob)} bytes")
        embedding = np.frombuffer(blob, "<f4").astype(np.float32)
        self._check_unit(embedding[None])
        return Trace(embedding, encoder, preprocessing, detector, quality)

    def _reseal_traces(self, sealer: Sealer) -> None:
        for trace, number, encoder, preprocessing, sealed in self._db.execute(
            "SELECT id, unknown, encoder, preprocessing, embedding FROM trace"
        ).fetchall():
            about = _about(number, encoder, preprocessing)
            self._db.execute("UPDATE trace SET embedding = ? WHERE id = ?", (sealer.seal(self._open(sealed, about), about), trace))

    def _check_unit(self, embeddings: np.ndarray) -> None:
        """A changed byte mostly shows in an embedding's length."""
        with np.errstate(all="ignore"):
            lengths = np.einsum("nd,nd->n", embeddings, embeddings)
        if not (np.abs(lengths - 1) < 1e-3).all():
            raise self._damaged("an embedding is not of length 1")


def packed(embedding: np.ndarray) -> bytes:
    """An embedding as it is stored."""
    return np.asarray(embedding, "<f4").tobytes()


def _about(number: int | None, encoder: str, preprocessing: int) -> str:
    """What a sealed embedding of a stranger belongs to."""
    return f"unknown {number} {encoder} {preprocessing}"


def stamp(time: datetime) -> str:
    """A time as the gallery has it: UTC, ISO 8601, milliseconds."""
    return time.astimezone(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def moment(stamp: str) -> datetime:
    """The moment that `stamp` wrote down."""
    return datetime.fromisoformat(stamp.replace("Z", "+00:00"))
