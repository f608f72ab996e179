"""The gallery: who is known, in one SQLite file. Embeddings, and pictures only where the user keeps crops."""

import contextlib
import json
import os
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import cv2
import numpy as np

from device.bundle import Bundle
from device.coverage import SAME, Look, choose
from device.program import InputError, OmokageError, StoredError
from device.vault import Plain, Sealer, Vault
from device.visitors import Visitors, packed, stamp, unknown_name

VARIABLE = "OMOKAGE_GALLERY"
LONGEST = 200  # characters of a name
FAR = "far"  # the setting
GRACE = 10.0  # minutes for which a withdrawal can be undone
FEW = 256  # templates that are read one by one
EMBEDDED = "id, person, embedding, encoder, preprocessing"
COLUMNS = "template.id, person, denies, embedding, encoder, preprocessing, detector, quality, source, created, yaw, pitch, light, side"


@dataclass(frozen=True, eq=False)
class Template:
    """One embedding of a person, float32 unit [D], and how it came about: encoder id, preprocessing version, ...

    `crop` is the RGB crop uint8 [112, 112, 3] where it is kept. One that `denies` shows somebody who is not that person.
    """

    embedding: np.ndarray
    encoder: str
    preprocessing: int
    detector: str
    quality: float
    source: str
    look: Look | None = None
    crop: np.ndarray | None = None
    denies: bool = False


@dataclass(frozen=True, eq=False)
class Entry:
    """A stored `template`, its number, and when it came (UTC, ISO 8601). `kept`: there is a crop."""

    number: int
    template: Template
    created: str
    kept: bool


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


@dataclass(frozen=True, eq=False)
class _Read:
    """What was read of the templates of one encoder and preprocessing up to a change: their numbers [N] and embeddings [N, D]."""

    maker: tuple[str, int] | None
    change: int
    numbers: np.ndarray
    embeddings: np.ndarray


class Gallery(Visitors):
    """The people of an open gallery. Each verb is one transaction, and all but `remove` can be undone (device/store.py)."""

    def __init__(self, path: Path, create: bool = False, key: bytes | None = None, patience: float | None = None):
        super().__init__(path, create, key, patience)
        self._read = _Read(None, 0, np.zeros(0, int), np.zeros((0, 0), np.float32))

    def __enter__(self) -> "Gallery":
        return self

    def people(self) -> list[Person]:
        """Everybody, sorted by name."""
        with self._reading():
            rows = self._db.execute(
                "SELECT name, sealed, (SELECT count(*) FROM template WHERE person = person.id AND NOT denies), created, updated FROM person"
            ).fetchall()
        people = [Person(self._name(tag, sealed), *rest) for tag, sealed, *rest in rows]
        return sorted(people, key=lambda person: person.name)

    def encoder(self) -> str | None:
        """The id of the encoder that made the templates; None where there are none."""
        with self._reading():
            return next((encoder for (encoder,) in self._db.execute("SELECT encoder FROM template LIMIT 1")), None)

    def detectors(self) -> dict[str, int]:
        """How many templates were made with each detector."""
        with self._reading():
            return dict(self._db.execute("SELECT detector, count(*) FROM template WHERE NOT denies GROUP BY detector"))

    def templates(self, bundle: Bundle) -> tuple[np.ndarray, list[str]]:
        """All embeddings, float32 [N, D], and whose they are, N names, sorted by name. After a change only what is new is read.

        Raises StoredError where a template was made by another encoder or preprocessing than those of `bundle`.
        """
        with self._snapshot():
            numbers, owners = self._owners()
            names = self._names()
            old = self._still_valid(bundle)
            places = {person: place for place, person in enumerate(sorted(set(owners.tolist()), key=names.__getitem__))}
            order = np.argsort([places[owner] for owner in owners.tolist()], kind="stable")
            numbers, owners = numbers[order], owners[order]
            known = np.isin(numbers, old.numbers)
            new = self._numbered(bundle, numbers[~known])
            embeddings = new
            if known.any():
                ascending = np.argsort(old.numbers)
                there = np.searchsorted(old.numbers, numbers, sorter=ascending)
                embeddings = old.embeddings[ascending[np.minimum(there, len(ascending) - 1)]]
                embeddings[~known] = new
            self._read = _Read((bundle.encoder, bundle.preprocessing), self.change(), numbers, embeddings)
        embeddings.flags.writeable = False  # they are kept
        return embeddings, [names[owner] for owner in owners.tolist()]

    def denied(self, bundle: Bundle) -> tuple[np.ndarray, list[str | None]]:
        """Embeddings of faces that are not who they seem to be, float32 [N, D], and who that is; None: to be ignored altogether."""
        with self._snapshot():
            rows = self._db.execute(f"SELECT {EMBEDDED} FROM template WHERE denies ORDER BY id").fetchall()
            names = self._names() if rows else {}
            return self._embeddings(bundle, rows), [None if person is None else names[person] for _, person, *_ in rows]

    def entries(self, name: str | None, crops: bool = False) -> list[Entry]:
        """The templates of a person, in the order in which they came, those that deny last; with their pictures if `crops`.

        Without a name those of the faces to ignore. Raises InputError.
        """
        with self._reading():
            rows = self._db.execute(
                f"SELECT {COLUMNS}, {'picture' if crops else 'crop.template IS NOT NULL'} FROM template"
                " LEFT JOIN crop ON crop.template = template.id WHERE person IS ? ORDER BY denies, template.id",
                (None if name is None else self._known(name),),
            ).fetchall()
        return [self._entry(row[:-1], row[-1]) for row in rows]

    def picture(self, number: int) -> np.ndarray | None:
        """The RGB crop of the template with this number, uint8 [112, 112, 3]; None where none is kept."""
        with self._reading():
            row = self._db.execute("SELECT picture FROM crop WHERE template = ?", (number,)).fetchone()
        return None if row is None else self._crop(row[0])

    def far(self) -> float | None:
        """The false-accept rate that its owner has set, None where none is."""
        word = self.setting(FAR)
        return None if word is None else float(word)

    def set_far(self, share: float) -> None:
        """Set the false-accept rate, between 0 and 1, that a recogniser goes by which was given none."""
        self.set(FAR, f"{share:g}")

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

    def add(self, name: str, templates: Sequence[Template], more: bool = False, most: int | None = None) -> int:
        """Store `templates` for a new person, or with `more` for one who is there; returns how many there are now.

        Where these are more than `most`, the most redundant go (device/coverage.py).
        Raises InputError (`accept` says when; no template) or StoredError (another encoder).
        """
        name = self.accept(name, more)
        if not templates:
            raise InputError(f"there is no template for {name}", "name at least one picture")
        with self._writing("add", detail=f"{len(templates)} templates") as now:
            self.accept(name, more)  # again: somebody else may have added it meanwhile
            self._fits(templates)
            person = self._touched(name, now)
            self._insert(person, templates, now)
            if most is not None:
                self._thin(person, most)
            self._describe(person, f"{len(templates)} templates")
            return self._count(person)

    def load(self, people: Sequence[tuple[str | None, Sequence[Template]]], more: bool = False) -> int:
        """Store many people at once, or nobody; None has the faces to ignore. Returns how many templates there are now.

        With `more` those who are there get further templates. Raises what `add` raises.
        """
        named = [(None if name is None else self.accept(name, more and self._has(name)), templates) for name, templates in people]
        with self._writing("import", detail=f"{len(named)} people") as now:
            for name, templates in named:
                if name is not None:
                    self.accept(name, more and self._has(name))
                self._fits(templates)
                self._insert(None if name is None else self._touched(name, now), templates, now)
            return self._db.execute("SELECT count(*) FROM template").fetchone()[0]

    def rename(self, old: str, new: str) -> str:
        """Give a person another name; returns it as it is stored. Raises InputError (nobody, or somebody has it)."""
        new = valid_name(new)
        with self._writing("rename") as now:
            person = self._known(old)
            if self._id(new) not in (None, person):
                raise InputError(f"{new} is in the gallery already", "choose another name, or make one person of both with merge")
            tag, sealed = self._named(new)
            self._db.execute("UPDATE person SET name = ?, sealed = ?, updated = ? WHERE id = ?", (tag, sealed, now, person))
            self._describe(person, "")
        return new

    def merge(self, name: str, into: str) -> int:
        """Give all templates of a person to another one, and end the first; returns how many the other one has now."""
        with self._writing("merge") as now:
            source, target = self._known(name), self._known(into)
            if source == target:
                raise InputError(f"{name} cannot be merged with itself", "name two people")
            rows = self._db.execute("SELECT id FROM template WHERE person = ?", (source,)).fetchall()
            self._move([number for (number,) in rows], target)
            self._db.execute("DELETE FROM person WHERE id = ?", (source,))
            self._db.execute("UPDATE person SET updated = ? WHERE id = ?", (now, target))
            self._describe(target, f"with {source}")
            return self._count(target)

    def split(self, name: str, new: str, numbers: Sequence[int]) -> int:
        """Make a new person of some templates of another one; returns how many that are. `numbers` are those of `entries`."""
        new = self.accept(new)
        with self._writing("split") as now:
            source = self._known(name)
            self.accept(new)
            query = "SELECT id FROM template WHERE person = ? AND NOT denies"
            own = {number for (number,) in self._db.execute(query, (source,))}
            strange = sorted(set(numbers) - own)
            if strange or not numbers:
                wrong = f"{name} has no template {strange[0]}" if strange else f"no template of {name} is named"
                raise InputError(wrong, "see enroll.py show for their numbers")
            if own == set(numbers):
                raise InputError(f"these are all templates of {name}", "use rename")
            target = self._touched(new, now)
            self._move(sorted(set(numbers)), target)
            self._db.execute("UPDATE person SET updated = ? WHERE id = ?", (now, source))
            self._describe(source, f"{len(set(numbers))} templates to {target}")
            return len(set(numbers))

    def deny(self, name: str | None, templates: Sequence[Template]) -> int:
        """Remember that these show somebody else than `name`, or with None nobody who matters. Returns how many templates of
        that person (of anybody) went, because they were of the same pictures."""
        with self._writing("ignore" if name is None else "not") as now:
            person = None if name is None else self._known(name)
            self._fits(templates)
            gone = [number for number, embedding in self._rows(person) if any(embedding @ t.embedding >= SAME for t in templates)]
            self._db.executemany("DELETE FROM template WHERE id = ?", [(number,) for number in gone])
            self._insert(person, [replace(template, denies=True) for template in templates], now)
            self._describe(person, f"{len(templates)} templates, {len(gone)} deleted")
            return len(gone)

    def remove(self, name: str) -> int:
        """Delete a person with all templates, so that the files hold neither any more; returns how many there were.

        Not undone: all that could bring the person back goes too, the copies that migrations made among it.
        """
        with self._writing("remove") as now:
            _, count = self._take_out(name)
            self._db.execute("DELETE FROM undo")
            self._leave_nothing(now)
        self._forget()
        return count

    def withdraw(self, name: str, minutes: float = GRACE) -> int:
        """Like `remove`, but for so many minutes `undo` brings the person back. Whoever opens the gallery next finishes the removal."""
        with self._writing("withdraw") as now:
            person, count = self._take_out(name)
            due = stamp(datetime.fromisoformat(now.replace("Z", "+00:00")) + timedelta(minutes=minutes))
            step = self._db.execute("SELECT max(id) FROM audit").fetchone()[0]
            self._db.execute("INSERT INTO state VALUES (?, ?)", (f"withdrawn {step}", json.dumps([due, person, count])))
        return count

    def withdrawn(self) -> list[str]:
        """When those who are withdrawn go for good (UTC, ISO 8601), the next one first."""
        with self._reading():
            rows = self._db.execute("SELECT value FROM state WHERE key LIKE 'withdrawn %'").fetchall()
        return sorted(json.loads(value)[0] for (value,) in rows)

    def finish_removals(self, now: datetime | None = None) -> int:
        """Remove for good who was withdrawn and whose time is over; returns how many that were."""
        moment = stamp(now or datetime.now(timezone.utc))
        if not any(due <= moment for due in self.withdrawn()):
            return 0
        gone = 0
        with self._transaction():
            for key, value in self._db.execute("SELECT key, value FROM state WHERE key LIKE 'withdrawn %'").fetchall():
                due, person, count = json.loads(value)
                back = self._db.execute("SELECT 1 FROM person WHERE id = ?", (person,)).fetchone()
                if due > moment and not back:
                    continue
                self._db.execute("DELETE FROM state WHERE key = ?", (key,))
                if not back:  # else it was undone
                    self._db.execute("DELETE FROM undo WHERE step <= ?", (int(key.split()[1]),))
                    row = (moment, "remove", person, f"{count} templates")
                    self._db.execute("INSERT INTO audit (time, verb, person, detail) VALUES (?, ?, ?, ?)", row)
                    gone += 1
            if gone:
                self._leave_nothing(moment)
        self._finish_forgetting()
        return gone

    def _take_out(self, name: str) -> tuple[int, int]:
        """Delete a person within a transaction; the person's number, and how many templates went too."""
        person = self._known(name)
        count = self._count(person)
        self._db.execute("DELETE FROM person WHERE id = ?", (person,))
        self._describe(person, f"{count} templates")
        return person, count

    def _leave_nothing(self, now: str) -> None:
        """What was made of the people who are gone goes too, and the copies that migrations left; the file's free pages follow."""
        self._db.execute("DELETE FROM state WHERE key LIKE 'derived %'")
        self._to_forget(now)
        for copy in self.old_copies():
            copy.unlink()

    def _expire(self) -> None:
        super()._expire()
        with contextlib.suppress(OmokageError):  # what is in the way is left to the next time
            self.finish_removals()

    def reembed(self, bundle: Bundle, embed: Callable[[np.ndarray], np.ndarray], drop: bool = False) -> tuple[int, int]:
        """Make every template again with the encoder of `bundle`, from the crops that are kept: how many, and how many were dropped.

        `embed` maps RGB crops uint8 [N, 112, 112, 3] to unit rows [N, D]. Raises InputError where a template has no crop of that
        bundle's preprocessing, unless these are to `drop`.
        """
        with self._reading():
            rows = self._db.execute(
                "SELECT template.id, picture, preprocessing, person FROM template LEFT JOIN crop ON crop.template = template.id"
            ).fetchall()
        whole = [row for row in rows if row[1] is not None and row[2] == bundle.preprocessing]
        if len(whole) < len(rows) and not drop:
            raise InputError(
                f"{len(rows) - len(whole)} of {len(rows)} templates have no crop to make them from",
                "drop those with --drop, or enrol again with --keep-crops",
            )
        crops = [self._crop(picture) for _, picture, _, _ in whole]
        embeddings = embed(np.stack(crops)) if crops else np.zeros((0, bundle.dimension), np.float32)
        with self._writing("reembed", detail=f"{len(whole)} templates, {len(rows) - len(whole)} dropped"):
            current = {number for (number,) in self._db.execute("SELECT id FROM template")}
            if current != {row[0] for row in rows}:
                raise StoredError(f"{self.path} was changed meanwhile", "try again")
            self._db.executemany("DELETE FROM template WHERE id = ?", [(number,) for number in current - {row[0] for row in whole}])
            for (number, _, preprocessing, person), embedding in zip(whole, embeddings, strict=True):
                sealed = self._sealer.seal(packed(embedding), _about(person, bundle.encoder, preprocessing))
                self._db.execute("UPDATE template SET embedding = ?, encoder = ? WHERE id = ?", (sealed, bundle.encoder, number))
        return len(whole), len(rows) - len(whole)

    def enrol(self, numbers: int | Sequence[int], name: str, more: bool = False, most: int | None = None) -> int:
        """Make a person of the unknown with this number (of all with these, if they are one), from what was seen, or with `more` give
        it to one who is there.

        Returns how many templates that person has now. Raises InputError (nobody has that number; `accept` says what else) or
        StoredError (seen by another encoder).
        """
        with self._writing("name") as now:
            name = self.accept(name, more)
            templates, told = self._ended(numbers)
            self._fits(templates)
            person = self._touched(name, now)
            self._insert(person, templates, now)
            if most is not None:
                self._thin(person, most)
            self._describe(person, f"{told}, {len(templates)} templates")
            return self._count(person)

    def dismiss(self, numbers: int | Sequence[int]) -> int:
        """Remember that these unknowns are nobody who matters, as `deny` does of a photo; returns how many templates say so.

        Raises what `enrol` raises.
        """
        with self._writing("ignore") as now:
            templates, told = self._ended(numbers)
            self._fits(templates)
            self._insert(None, [replace(template, denies=True) for template in templates], now)
            self._describe(None, f"{told}, {len(templates)} templates")
            return len(templates)

    def _ended(self, numbers: int | Sequence[int]) -> tuple[list[Template], str]:
        """Take unknowns out of those who are remembered, within a verb: what was seen of them, and their names."""
        chosen = [numbers] if isinstance(numbers, int) else sorted(set(numbers))
        if not chosen:
            raise InputError("no unknown is named", "choose one at least")
        templates = [
            Template(t.embedding, t.encoder, t.preprocessing, t.detector, t.quality, unknown_name(number))
            for number in chosen
            for t in self.seen(number)
        ]
        with self._undoably():
            for number in chosen:
                self._db.execute("DELETE FROM trace WHERE unknown = ?", (number,))
                self._db.execute("DELETE FROM unknown WHERE id = ?", (number,))
        return templates, ", ".join(map(unknown_name, chosen))

    def encrypt(self, key: bytes | None) -> None:
        """Seal all under `key`, or with None under none, and wipe what was there. Cannot be undone."""
        sealer: Sealer = Plain() if key is None else Vault(key, os.urandom(16))
        before = self._sealer
        try:
            with self._writing("decrypt" if key is None else "encrypt") as now:
                self._reseal(sealer)
                self._db.execute("DELETE FROM undo")
                self._db.execute("DELETE FROM state WHERE key LIKE 'derived %'")
                self._lock(sealer)
                self._to_forget(now)
                for copy in self.old_copies():
                    copy.unlink()
        except BaseException:
            self._sealer = before
            raise
        self._forget()

    def _reseal(self, sealer: Sealer) -> None:
        for number, tag, sealed in self._db.execute("SELECT id, name, sealed FROM person").fetchall():
            self._db.execute("UPDATE person SET name = ?, sealed = ? WHERE id = ?", (*_named(sealer, self._name(tag, sealed)), number))
        query = "SELECT id, person, encoder, preprocessing, embedding, source FROM template"
        for number, person, encoder, preprocessing, embedding, source in self._db.execute(query).fetchall():
            about = _about(person, encoder, preprocessing)
            sealed, origin = sealer.seal(self._open(embedding, about), about), sealer.seal(self._open(source, "source"), "source")
            self._db.execute("UPDATE template SET embedding = ?, source = ? WHERE id = ?", (sealed, origin, number))
        for number, picture in self._db.execute("SELECT template, picture FROM crop").fetchall():
            sealed = sealer.seal(self._open(picture, "crop"), "crop")
            self._db.execute("UPDATE crop SET picture = ? WHERE template = ?", (sealed, number))
        self._reseal_traces(sealer)

    def _owners(self) -> tuple[np.ndarray, np.ndarray]:
        """The numbers of all templates, ascending, and of the people whose they are. In one row: 10,000 would take SQLite as long as
        all the rest."""
        row = self._db.execute("SELECT group_concat(id), group_concat(person) FROM template WHERE NOT denies").fetchone()
        numbers, owners = (np.array([] if text is None else str(text).split(","), np.int64) for text in row)
        order = np.argsort(numbers)
        return numbers[order], owners[order]

    def _still_valid(self, bundle: Bundle) -> _Read:
        """What was read and is as it was. Templates never change under their number, but by these verbs."""
        altered = "SELECT 1 FROM audit WHERE id > ? AND verb IN ('reembed', 'undo') LIMIT 1"
        if self._read.maker == (bundle.encoder, bundle.preprocessing) and not self._db.execute(altered, (self._read.change,)).fetchone():
            return self._read
        return _Read(None, 0, np.zeros(0, int), np.zeros((0, bundle.dimension), np.float32))

    def _numbered(self, bundle: Bundle, numbers: np.ndarray) -> np.ndarray:
        """The embeddings [N, D] of the templates with these numbers."""
        query = f"SELECT {EMBEDDED} FROM template WHERE"
        if len(numbers) < FEW:
            rows = [self._db.execute(f"{query} id = ?", (number,)).fetchone() for number in numbers.tolist()]
        else:
            places = {number: place for place, number in enumerate(numbers.tolist())}
            everything = self._db.execute(f"{query} NOT denies").fetchall()
            rows = sorted((row for row in everything if row[0] in places), key=lambda row: places[row[0]])
        return self._embeddings(bundle, rows)

    def _embeddings(self, bundle: Bundle, rows: Sequence[Sequence]) -> np.ndarray:
        """The embeddings [N, D] in these rows of EMBEDDED."""
        _, owners, sealed, encoders, versions = zip(*rows, strict=True) if rows else ((),) * 5
        for encoder, preprocessing in set(zip(encoders, versions, strict=True)):
            self._check_maker(encoder, preprocessing, bundle.encoder, bundle.preprocessing)
        blobs: Sequence[bytes] = sealed
        if self.encrypted:
            blobs = [self._open(blob, _about(*about)) for blob, *about in zip(sealed, owners, encoders, versions, strict=True)]
        for size in set(map(len, blobs)) - {4 * bundle.dimension}:
            raise self._damaged(f"an embedding of {size} bytes")
        embeddings = np.frombuffer(b"".join(blobs), "<f4").astype(np.float32).reshape(-1, bundle.dimension)
        self._check_unit(embeddings)
        return embeddings

    def _rows(self, person: int | None) -> list[tuple[int, np.ndarray]]:
        """Numbers and embeddings of a person's templates, or of everybody's."""
        query = f"SELECT {COLUMNS} FROM template WHERE NOT denies AND {'person = ?' if person is not None else '? IS NULL'} ORDER BY id"
        entries = [self._entry(row, None) for row in self._db.execute(query, (person,)).fetchall()]
        return [(entry.number, entry.template.embedding) for entry in entries]

    def _entry(self, row: Sequence, picture: bytes | int | None) -> Entry:
        number, person, denies, blob, encoder, preprocessing, detector, quality, source, created, *angles = row
        embedding = np.frombuffer(self._open(blob, _about(person, encoder, preprocessing)), "<f4").astype(np.float32)
        self._check_unit(embedding[None])
        look = None if None in angles else Look(*angles)
        crop = self._crop(picture) if isinstance(picture, bytes) else None
        origin = self._open(source, "source").decode(errors="replace")
        template = Template(embedding, encoder, preprocessing, detector, quality, origin, look, crop, bool(denies))
        return Entry(number, template, created, bool(picture))

    def _crop(self, picture: bytes) -> np.ndarray:
        image = cv2.imdecode(np.frombuffer(self._open(picture, "crop"), np.uint8), cv2.IMREAD_COLOR)
        if image is None:
            raise self._damaged("a crop is no picture")
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)

    def _insert(self, person: int | None, templates: Iterable[Template], now: str) -> None:
        for t in templates:
            about = _about(person, t.encoder, t.preprocessing)
            look = (None,) * 4 if t.look is None else (t.look.yaw, t.look.pitch, t.look.light, t.look.side)
            sealed, source = (
                self._sealer.seal(packed(t.embedding), about),
                self._sealer.seal(t.source.encode(errors="backslashreplace"), "source"),
            )
            row = (person, t.denies, sealed, t.encoder, t.preprocessing, t.detector, t.quality, source, now, *look)
            columns = COLUMNS.removeprefix("template.id, ")
            number = self._db.execute(f"INSERT INTO template ({columns}) VALUES ({', '.join('?' * len(row))})", row).lastrowid
            if t.crop is not None:
                picture = cv2.imencode(".png", cv2.cvtColor(t.crop, cv2.COLOR_RGB2BGR))[1].tobytes()
                self._db.execute("INSERT INTO crop VALUES (?, ?)", (number, self._sealer.seal(picture, "crop")))

    def _thin(self, person: int, most: int) -> None:
        """Delete the most redundant templates of a person beyond `most`."""
        query = f"SELECT {COLUMNS} FROM template WHERE person = ? AND NOT denies ORDER BY id"
        entries = [self._entry(row, None) for row in self._db.execute(query, (person,)).fetchall()]
        embeddings = np.stack([entry.template.embedding for entry in entries])
        kept = set(choose(embeddings, [entry.template.quality for entry in entries], most))
        gone = [(entry.number,) for index, entry in enumerate(entries) if index not in kept]
        self._db.executemany("DELETE FROM template WHERE id = ?", gone)

    def _move(self, numbers: Iterable[int], target: int) -> None:
        """Give templates to the person `target`: what is sealed is sealed for its owner."""
        for number in numbers:
            query = "SELECT embedding, person, encoder, preprocessing FROM template WHERE id = ?"
            blob, person, *maker = self._db.execute(query, (number,)).fetchone()
            sealed = self._sealer.seal(self._open(blob, _about(person, *maker)), _about(target, *maker))
            self._db.execute("UPDATE template SET person = ?, embedding = ? WHERE id = ?", (target, sealed, number))

    def _touched(self, name: str, now: str) -> int:
        """The number of the person, who is new or has changed now."""
        tag, sealed = self._named(name)
        self._db.execute(
            "INSERT INTO person (name, sealed, created, updated) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (name) DO UPDATE SET updated = excluded.updated",
            (tag, sealed, now, now),
        )
        return self._known(name)

    def _named(self, name: str) -> tuple[str, bytes | None]:
        return _named(self._sealer, name)

    def _names(self) -> dict[int, str]:
        """Everybody's name, by number."""
        if not self.encrypted:  # in one row, as in `_owners`
            numbers, names = self._db.execute("SELECT group_concat(id), json_group_array(name) FROM person").fetchone()
            return dict(zip(map(int, str(numbers or "").split(",")), json.loads(names), strict=True)) if numbers is not None else {}
        return {number: self._name(tag, sealed) for number, tag, sealed in self._db.execute("SELECT id, name, sealed FROM person")}

    def _name(self, tag: str, sealed: bytes | None) -> str:
        if not self.encrypted:
            return tag
        return self._open(sealed or b"", tag).decode()

    def _has(self, name: str) -> bool:
        with self._reading():
            return self._id(valid_name(name)) is not None

    def _known(self, name: str) -> int:
        """The number of a person who is there. Raises InputError."""
        name = valid_name(name)
        person = self._id(name)
        if person is None:
            raise InputError(f"{name} is not in the gallery", "see enroll.py list")
        return person

    def _id(self, name: str) -> int | None:
        tag = self._sealer.tag(name)
        return next((number for (number,) in self._db.execute("SELECT id FROM person WHERE name = ?", (tag,))), None)

    def _count(self, person: int) -> int:
        return self._db.execute("SELECT count(*) FROM template WHERE person = ? AND NOT denies", (person,)).fetchone()[0]

    def _fits(self, templates: Sequence[Template]) -> None:
        """All templates of a gallery are of one encoder and preprocessing."""
        stored = self._db.execute("SELECT encoder, preprocessing FROM template LIMIT 1").fetchone()
        for template in templates:
            encoder, preprocessing = stored or (templates[0].encoder, templates[0].preprocessing)
            self._check_maker(encoder, preprocessing, template.encoder, template.preprocessing)

    def _check_maker(self, encoder: str, preprocessing: int, wanted: str, wanted_preprocessing: int) -> None:
        if (encoder, preprocessing) != (wanted, wanted_preprocessing):
            raise StoredError(
                f"{self.path} holds templates of encoder {encoder} (preprocessing {preprocessing}),"
                f" this is {wanted} (preprocessing {wanted_preprocessing})",
                "name that encoder's bundle with --encoder, make the templates again with enroll.py reembed,"
                " or enrol into another --gallery",
            )


def _named(sealer: Sealer, name: str) -> tuple[str, bytes | None]:
    """What a person is found by, and the name sealed, where it is."""
    tag = sealer.tag(name)
    return tag, None if isinstance(sealer, Plain) else sealer.seal(name.encode(), tag)


def _about(person: int | None, encoder: str, preprocessing: int) -> str:
    """What a sealed embedding belongs to."""
    return f"embedding {person} {encoder} {preprocessing}"
