"""What the pages show: a gallery, the journal beside it, and how the recogniser does. Every call opens what it needs: what others
change meanwhile, remove or put in its place is seen at once."""

import argparse
import contextlib
import json
import logging
import socket
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from device import bundle, detect, doctor
from device.agglomerate import agglomerate
from device.bundle import Bundle
from device.coverage import Coverage, cover
from device.detect import Detector
from device.doctor import Check
from device.gallery import Gallery, Person
from device.journal import SOCKET, Journal, Visit
from device.program import InputError, OmokageError
from device.visitors import GAP, Unknown, moment
from device.web import aside

PATIENCE = 2.0  # seconds to wait for others who write into the gallery
ANSWER = 1.0  # seconds for the recogniser to tell about itself
RATES = (0.05, 0.01, 0.003, 0.001, 0.0003)  # false-accept rates to choose from
T = TypeVar("T")


@dataclass(frozen=True)
class Someone:
    """A person of the gallery, and how well covered."""

    person: Person
    covered: Coverage
    face: int | None  # the number of a template with a crop, the best


@dataclass(frozen=True)
class Group:
    """Strangers who are remembered and look alike, and visits with crops that show them."""

    unknowns: list[Unknown]
    pictures: list[Visit]


@dataclass(frozen=True)
class Stay:
    """Visits of the same person or unknown, one soon after the other: the newest `visit`, since when, and how many they are."""

    visit: Visit
    first: str
    count: int = 1


@dataclass(frozen=True)
class Rate:
    """A false-accept rate and what it costs: the threshold, the share of the pictures of one's own people that it would name (None: too
    few to tell), the rate that is really shown, and how many strangers are lacking to show what was asked for."""

    far: float
    threshold: float
    named: float | None
    bound: float
    lacking: int


@dataclass(frozen=True)
class Checkup:
    """What device.checkup found, for people: pairs who are hardly told apart; of templates by number why they are `weak`, and whom
    `suspects` look like (None: nobody known), and of each person how many are weak."""

    pairs: list[tuple[str, str]]
    weak: dict[int, tuple[str, ...]]
    suspects: dict[int, str | None]
    counts: dict[str, int]


class Memo:
    """Keeps what takes long to find out, as long as the gallery is as it was."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[object, Any]] = {}
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._looking: dict[str, threading.Thread] = {}

    def soon(self, what: str, version: object, make: Callable[[], T], otherwise: T | None = None) -> T | None:
        """What is known now; None where it is being found out, for the next time. `otherwise`: what holds where that fails."""
        known, found = self._kept.get(what, (None, None))
        if known == version:
            return found
        if what not in self._looking or not self._looking[what].is_alive():
            self._looking[what] = threading.Thread(target=self._try, args=(what, version, make, otherwise), daemon=True)
            self._looking[what].start()
        return None

    def _try(self, what: str, version: object, make: Callable[[], Any], otherwise: Any) -> None:
        try:
            self.get(what, version, make)
        except Exception as error:  # nobody waits for it: it is told in the log, and tried again after the next change
            logging.getLogger("omokage").warning("%s: %s", what, error)
            self._kept[what] = version, otherwise

    def get(self, what: str, version: object, make: Callable[[], T]) -> T:
        with self._locks[what]:  # of many who ask at once, one works it out
            if what not in self._kept or self._kept[what][0] != version:
                self._kept[what] = version, make()
            return self._kept[what][1]


@dataclass(frozen=True)
class Home:
    """One gallery and its journal. `options`: those of detect.add_arguments, for the pictures of a new person."""

    gallery: Path
    journal: Path
    used: Bundle
    options: argparse.Namespace
    key: bytes | None = None
    keep_crops: bool = False
    memo: Memo = field(default_factory=Memo)

    def __reduce__(self) -> tuple:
        return Home, (self.gallery, self.journal, self.used, self.options, self.key, self.keep_crops)

    def detector(self) -> Detector:
        return detect.of_arguments(self.options)

    @contextlib.contextmanager
    def opened(self, create: bool = False) -> Iterator[Gallery]:
        """The gallery. Raises what Gallery raises."""
        with Gallery(self.gallery, create, self.key, PATIENCE) as gallery:
            yield gallery

    @contextlib.contextmanager
    def visits(self) -> Iterator[Journal]:
        """The journal. Raises what Journal raises."""
        with Journal(self.journal, self.key) as journal:
            yield journal

    @property
    def is_there(self) -> bool:
        """Whether there is a gallery yet."""
        return self.gallery.is_file()

    def names(self) -> list[str]:
        if not self.is_there:
            return []
        with self.opened() as gallery:
            return [person.name for person in gallery.people()]

    def people(self) -> list[Someone]:
        if not self.is_there:
            return []
        with self.opened() as gallery:
            return self.memo.get("people", self._version(gallery), lambda: [_someone(gallery, person) for person in gallery.people()])

    def checkup(self) -> Checkup | None:
        """What `enroll.py check` finds; None where there is nobody, and after a change for a moment: it is no reason to wait."""
        if not self.is_there:
            return None
        with self.opened() as gallery:
            far, version = self.far(), self._version(gallery)
        return self.memo.soon("checkup", (version, far), lambda: aside.call(_checked, self, far))

    def rates(self) -> list[Rate] | None:
        """What each of RATES costs; empty where there is nobody, or no cohort to tell. None while it is being found out."""
        if not self.is_there:
            return []
        with self.opened() as gallery:
            version = self._version(gallery)
        nothing: list[Rate] = []
        return self.memo.soon("rates", version, lambda: aside.call(_costs, self), nothing)

    def far(self) -> float:
        """The rate that is set, or the usual one."""
        if not self.is_there:
            return bundle.FAR
        with self.opened() as gallery:
            return gallery.far() or bundle.FAR

    def groups(self) -> list[Group]:
        """The strangers who are remembered, those who look alike together, who was seen last first."""
        if not self.is_there:
            return []
        with self.opened() as gallery:
            unknowns, (embeddings, numbers) = gallery.unknowns(), gallery.traces(self.used)
        labels = self._alike(embeddings, numbers)
        groups: dict[object, list[Unknown]] = {}
        for unknown in unknowns:
            groups.setdefault(labels.get(unknown.number, f"alone {unknown.number}"), []).append(unknown)
        return [Group(members, self._pictures(members)) for members in groups.values()]

    def questions(self) -> list[Visit]:
        """The visits of the review band about which nobody has said anything yet."""
        with self._if_kept() as journal:
            return [] if journal is None else journal.open_questions()

    def day(self, start: datetime) -> list[Visit]:
        """Who came by on the day that begins at `start`, the newest first."""
        with self._if_kept() as journal:
            return [] if journal is None else journal.visits(start, start + timedelta(days=1))

    def stays(self, start: datetime) -> list[Stay]:
        """The same, told as people tell it: who came and went a few times within GAP was there."""
        stays: list[Stay] = []
        for visit in self.day(start):
            place = next((place for place, stay in enumerate(stays) if _goes_on(visit, stay)), None)
            if place is None:
                stays.append(Stay(visit, visit.first))
            else:
                stays[place] = replace(stays[place], first=visit.first, count=stays[place].count + 1)
        return stays

    def has_journal(self) -> bool:
        with self._if_kept() as journal:
            return journal is not None

    def state(self) -> str:
        """Another text whenever somebody came by, or the gallery has changed."""
        with self._if_kept() as journal:
            seen = "" if journal is None else journal.state()
        if not self.is_there:
            return seen
        with self.opened() as gallery:
            return f"{seen} {gallery.change()}"

    def ask(self, word: str) -> bytes | None:
        """What the recogniser says about itself ("health" or "metrics"); None where none is running."""
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
                peer.settimeout(ANSWER)
                peer.connect(str(self.journal / SOCKET))
                peer.sendall(word.encode() + b"\n")
                return b"".join(iter(lambda: peer.recv(65536), b""))
        except OSError:
            return None

    def health(self) -> dict[str, Any] | None:
        """Of the recogniser, as device.metrics has it; None where none is running."""
        told = self.ask("health")
        if told is None:
            return None
        try:
            return dict(json.loads(told or b"{}"))
        except ValueError:
            return {}

    def sweep(self) -> None:
        """Finish removals whose time for an undo is over, in the journal too. To be called now and then."""
        with contextlib.suppress(OmokageError):
            if not self.is_there:
                return
            with self.opened() as gallery:  # opening it finishes them
                names, waiting, version = [person.name for person in gallery.people()], gallery.withdrawn(), self._version(gallery)
            with self._if_kept() as journal:
                if journal is not None and not waiting:
                    self.memo.get("pruned", version, lambda: journal.prune(names))

    def _version(self, gallery: Gallery) -> object:
        return self.gallery.stat().st_ino, gallery.change()

    def _alike(self, embeddings: np.ndarray, numbers: list[int]) -> dict[int, int]:
        """The group of each unknown, by average linkage of what was seen of them at the bundle's threshold."""
        own = sorted(set(numbers))
        if len(own) < 2:
            return dict.fromkeys(own, 0)
        rows = np.stack([embeddings[[number == one for number in numbers]].mean(0) for one in own])  # [U, D]
        rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
        others = np.argsort(np.eye(len(own)), axis=1, kind="stable")[:, :-1]  # everybody but oneself
        likeness = np.clip(np.take_along_axis(rows @ rows.T, others, axis=1), 0, 1)
        return dict(zip(own, agglomerate(others, likeness, self.used.threshold()).tolist(), strict=True))

    def _pictures(self, members: list[Unknown]) -> list[Visit]:
        with self._if_kept() as journal:
            return [] if journal is None else [visit for one in members for visit in journal.of_unknown(one.number)]

    @contextlib.contextmanager
    def _if_kept(self) -> Iterator[Journal | None]:
        """The journal, None where there is none."""
        try:
            journal = Journal(self.journal, self.key)
        except InputError:
            yield None
            return
        with journal:
            yield journal


def _someone(gallery: Gallery, person: Person) -> Someone:
    entries = [entry for entry in gallery.entries(person.name) if not entry.template.denies]
    pictured = [entry for entry in entries if entry.kept]
    best = max(pictured, key=lambda entry: entry.template.quality, default=None)
    return Someone(person, cover(entry.template.look for entry in entries), None if best is None else best.number)


def _goes_on(visit: Visit, stay: Stay) -> bool:
    """Whether `stay` is what an earlier `visit` went on to."""
    who = (visit.name, visit.unknown)
    return who != (None, None) and who == (stay.visit.name, stay.visit.unknown) and moment(stay.first) - moment(visit.last) < GAP


def examined(gallery: Path | None, encoder: str | None, key_file: Path | None) -> list[Check]:
    """What doctor.py finds with these options, but for what the recogniser holds."""
    found = doctor.examine(None, gallery, encoder, "cpu", key_file, look_at_camera=False)
    return [check for check in found if check.status != doctor.SKIP]


def _checked(home: Home, far: float) -> Checkup:
    from device import checkup

    with home.opened() as gallery:
        report = checkup.check(gallery, home.used, far)
    counts: dict[str, int] = {}
    for one in report.weak:
        counts[one.person] = counts.get(one.person, 0) + 1
    weak, suspects = {one.template: one.why for one in report.weak}, {one.template: one.other for one in report.mislabelled}
    return Checkup([pair.people for pair in report.pairs], weak, suspects, counts)


def _costs(home: Home) -> list[Rate]:
    from device import openset
    from device.known import Judge

    with home.opened() as gallery:
        embeddings, names = gallery.templates(home.used)
    if not names or openset.load(home.used) is None:
        return []
    judge = Judge.of(home.used)
    _, evidence = judge.rated(judge.train(embeddings, names), embeddings, names)
    rates = []
    for far in RATES:
        found = evidence.threshold(far)
        named = float((evidence.genuine >= found.known).mean()) if len(evidence.genuine) else None
        rates.append(Rate(far, found.known, named, found.bound, found.lacking))
    return rates
