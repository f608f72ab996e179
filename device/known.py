"""Who is known: the people of a gallery as a decider, made anew where somebody changed the gallery."""

import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from device import openset
from device.bundle import FAR, Bundle
from device.classify import Classifier, Neighbours, Planes, rehearse, strongest
from device.decide import OpenSet
from device.gallery import Gallery
from device.openset import Cohort, Evidence, Threshold
from device.program import InputError, OmokageError

CLASSIFIERS = ("knn", "svm")
NEGATIVES = 4  # every fourth of the cohort teaches the SVM who nobody is; the others, whom it never met, make its threshold
POLL = 0.25  # seconds between two looks at the gallery
STORED = "svm"  # what the gallery keeps the trained planes under


class Scores:
    """What strangers, float32 unit [M, D], score at best against a gallery, by nearest neighbours.

    Of a changed gallery only those are searched for who are new or have changed, and, by the strangers who were most like
    somebody who has changed or gone, everybody.
    """

    def __init__(self, strangers: np.ndarray):
        self._strangers = strangers
        self._people: dict[str, np.ndarray] = {}
        self._best = np.full(len(strangers), -np.inf, np.float32)
        self._whose = np.full(len(strangers), "", object)

    def update(self, embeddings: np.ndarray, names: Sequence[str]) -> np.ndarray:
        """The scores float32 [M] against these templates float32 unit [N, D] and whose they are."""
        people = _grouped(embeddings, names)
        changed = {name for name, rows in people.items() if name not in self._people or not np.array_equal(self._people[name], rows)}
        gone = changed | (self._people.keys() - people.keys())
        stale = np.array([name == "" or name in gone for name in self._whose], bool)
        self._best[stale] = -np.inf
        self._search(np.flatnonzero(stale), people)
        self._search(np.flatnonzero(~stale), {name: people[name] for name in changed})
        self._people = people
        return self._best.copy()

    def _search(self, rows: np.ndarray, people: dict[str, np.ndarray]) -> None:
        if not len(rows) or not people:
            return
        names = [name for name, templates in people.items() for _ in templates]
        searched = Neighbours(np.concatenate([*people.values()]), names)
        scores, found = strongest(searched, self._strangers[rows])
        better = scores > self._best[rows]
        self._best[rows[better]] = scores[better]
        self._whose[rows[better]] = np.array(searched.people, object)[found[better]]


def _grouped(embeddings: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The templates [n, D] of each person, in the order given."""
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        rows.setdefault(name, []).append(row)
    return {name: embeddings[own] for name, own in rows.items()}


class Judge:
    """Makes deciders of templates, for one `cohort`, false-accept rate and classifier ("knn" or "svm").

    `usual` is the threshold where there is nobody, or no cohort, to go by.
    """

    def __init__(self, cohort: Cohort, usual: float, far: float = FAR, classifier: str = "knn"):
        self.svm = classifier == "svm"
        self._cohort, self._usual, self._far = cohort, usual, far
        negative = np.arange(len(cohort.embeddings)) % NEGATIVES == 0
        self._negatives = cohort.embeddings[negative]
        self._unmet = cohort.embeddings[~negative] if self.svm else cohort.embeddings
        self._scores = Scores(self._unmet)

    @classmethod
    def of(cls, used: Bundle, far: float = FAR, classifier: str = "knn") -> "Judge":
        """With the cohort of a bundle. Raises InputError for what takes one where the bundle has none."""
        cohort = openset.load(used)
        if cohort is None and classifier == "svm":
            raise InputError(f"{used.path} holds no cohort, which an SVM learns from", "use --classifier knn, or another bundle")
        nobody = Cohort(np.zeros((0, used.dimension), np.float32), 0)
        return cls(cohort or nobody, used.threshold(FAR if cohort else far), far, classifier)

    def train(self, embeddings: np.ndarray, names: Sequence[str]) -> Classifier:
        """A classifier of templates float32 unit [N, D] and whose they are."""
        return Planes.train(embeddings, names, self._negatives) if self.svm else Neighbours(embeddings, names)

    def evidence(self, classifier: Classifier, embeddings: np.ndarray, names: Sequence[str]) -> Evidence:
        """What tells the threshold of `classifier`, which was trained on these templates. Takes a cohort and somebody enrolled."""
        scores = strongest(classifier, self._unmet)[0] if self.svm else self._scores.update(embeddings, names)
        genuine, own = rehearse(self.train, embeddings, names)
        # Synthetic strangers stand for as many real ones, whichever of them are looked at.
        return Evidence(scores, min(self._cohort.strangers, len(self._unmet)), genuine, own)

    def judge(self, embeddings: np.ndarray, names: Sequence[str], classifier: Classifier | None = None) -> tuple[OpenSet, Threshold | None]:
        """The decider on templates float32 unit [N, D] and whose they are; its threshold, or None where it is the usual one.

        `classifier`: one that `train` made of the same templates.
        """
        classifier = classifier or self.train(embeddings, names)
        if not len(names) or not len(self._unmet):
            return OpenSet(classifier, self._usual), None
        evidence = self.evidence(classifier, embeddings, names)
        found = evidence.threshold(self._far)
        return OpenSet(classifier, found.known, found.review, evidence.calibration()), found


class Known:
    """The decider of the gallery at `path`, which others may change at any time, and which may not be there yet.

    `notify` gets a code, a message and a level: of a promise that cannot be shown, a gallery that was loaded again or cannot be.
    Raises what Gallery does where it cannot be opened now.
    """

    def __init__(self, path: Path, used: Bundle, judge: Judge, notify: Callable[..., None], clock: Callable[[], float] = time.monotonic):
        self.people = 0
        self._path, self._used, self._judge, self._notify, self._clock = path, used, judge, notify, clock
        self._gallery: Gallery | None = None
        self._version: tuple[int, int] | None = None
        self._change: int | None = None
        self._told: str | None = None
        self._due = -np.inf
        self._is_new()
        self.decider = self._load()

    def poll(self) -> bool:
        """Whether the gallery has changed, so that there is a new `decider`. Looks every POLL seconds; a look takes microseconds."""
        if self._clock() < self._due:
            return False
        self._due = self._clock() + POLL
        try:
            if not self._is_new():
                return False
            self.decider = self._load()
            self._told = None
        except OmokageError as error:
            self._version = self._change = None  # to be tried again
            self._tell("gallery-failed", f"the gallery is left as it was: {error}", "error")
            return False
        self._notify("gallery-reloaded", f"gallery reloaded, people in it: {self.people}", "info")
        return True

    def close(self) -> None:
        if self._gallery is not None:
            self._gallery.close()
        self._gallery = self._version = self._change = None

    def _is_new(self) -> bool:
        """Whether there are other people in the file, or there is another file, than were loaded."""
        there = self._path.exists()
        if self._gallery is not None and (not there or self._version is None or self._gallery.version()[0] != self._version[0]):
            self.close()
            if not there:
                return True
        if self._gallery is None:
            if not there:
                return False
            self._gallery = Gallery(self._path)
        version = self._gallery.version()
        if version == self._version:
            return False
        change = self._gallery.change()  # a program that only keeps something in the file changes nobody
        self._version, before, self._change = version, self._change, change
        return change != before

    def _load(self) -> OpenSet:
        names: list[str] = []
        if self._gallery is None:
            embeddings = np.zeros((0, self._used.dimension), np.float32)
        else:
            embeddings, names = self._gallery.templates(self._used)
        self.people = len(set(names))
        decider, threshold = self._judge.judge(embeddings, names, self._classifier(embeddings, names))
        if threshold is not None and threshold.lacking:
            self._tell("far-not-shown", threshold.apology(), "warning")
        return decider

    def _classifier(self, embeddings: np.ndarray, names: Sequence[str]) -> Classifier:
        """The planes that the gallery keeps, if they are of the people as they are now; else newly trained, and kept."""
        key = f"{STORED} {self._used.encoder}"
        with contextlib.suppress(OmokageError, ValueError):
            kept = self._gallery.derived(key) if self._gallery and self._judge.svm else None
            if kept is not None and kept[0] == self._change:
                return Planes.from_bytes(kept[1])
        classifier = self._judge.train(embeddings, names)
        if self._gallery and isinstance(classifier, Planes) and self._change is not None:
            with contextlib.suppress(OmokageError):  # a gallery that may only be read
                self._gallery.keep(key, self._change, classifier.to_bytes())
        return classifier

    def _tell(self, code: str, message: str, level: str) -> None:
        """Notify, but not twice in a row of the same."""
        if message != self._told:
            self._notify(code, message, level)
        self._told = message
