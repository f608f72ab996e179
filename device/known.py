"""Who is known: the people of a gallery as a decider, made anew where somebody changed the gallery."""

import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from device import adapt, openset
from device.adapt import Adapted, Head
from device.bundle import FAR, Bundle
from device.classify import Classifier, Neighbours, Planes, rehearse
from device.decide import Denials, OpenSet
from device.gallery import Gallery
from device.impostors import Impostors
from device.normalise import Normalised
from device.openset import Cohort, Evidence, Threshold
from device.program import InputError, OmokageError

CLASSIFIERS = ("knn", "svm")
ADAPTED = "adapted"  # takes a head, which not every bundle has (device/adapt.py)
NEGATIVES = 4  # every fourth of the cohort teaches the SVM who nobody is; the others, whom it never met, make its threshold
POLL = 0.25  # seconds between two looks at the gallery
LARGE = 3000  # templates from which what strangers score is kept in the gallery: a Raspberry Pi takes a second for it


class Judge:
    """Makes deciders of templates, for one `cohort`, false-accept rate and classifier ("knn", "svm" or ADAPTED, with its `head`).

    `usual` is the threshold where there is nobody, or no cohort, to go by. `far` may be changed: the next decider goes by it.
    """

    def __init__(self, cohort: Cohort, usual: float, far: float = FAR, classifier: str = "knn", head: Head | None = None):
        self.svm = classifier == "svm"
        self._head = head if classifier == ADAPTED else None
        self._cohort, self._usual, self.far = cohort, usual, far
        negative = np.arange(len(cohort.embeddings)) % NEGATIVES == 0
        self._negatives = cohort.embeddings[negative]
        self._unmet = cohort.embeddings[~negative] if self.svm else cohort.embeddings
        self.impostors = Impostors(self._unmet)

    @property
    def has_cohort(self) -> bool:
        return len(self._unmet) > 0

    @classmethod
    def of(cls, used: Bundle, far: float = FAR, classifier: str = "knn") -> "Judge":
        """With the cohort of a bundle. Raises InputError for what takes one where the bundle has none."""
        cohort = openset.load(used)
        head = adapt.load(used) if classifier == ADAPTED else None
        if cohort is None and classifier == "svm":
            raise InputError(f"{used.path} holds no cohort, which an SVM learns from", "use --classifier knn, or another bundle")
        if classifier == ADAPTED and (head is None or cohort is None):
            lacking = f"no {adapt.FILE}, from which the classifier adapts" if head is None else "no cohort, which its threshold rests on"
            raise InputError(f"{used.path} holds {lacking}", "use --classifier knn, or learn one with train/meta.py")
        nobody = Cohort(np.zeros((0, used.dimension), np.float32), 0)
        return cls(cohort or nobody, used.threshold(FAR if cohort else far), far, classifier, head)

    def train(self, embeddings: np.ndarray, names: Sequence[str]) -> Classifier:
        """A classifier of templates float32 unit [N, D] and whose they are."""
        if self._head:
            return Adapted(self._head, embeddings, names)
        return Planes.train(embeddings, names, self._negatives) if self.svm else Neighbours(embeddings, names)

    def normalised(self, classifier: Classifier, embeddings: np.ndarray, names: Sequence[str]) -> Normalised:
        """`classifier`, which was trained on these templates, in units of the strangers' scores. Takes a cohort."""
        nearest = classifier if isinstance(classifier, Neighbours) else Neighbours(embeddings, names)
        return Normalised(classifier, nearest, self._unmet)

    def rated(self, classifier: Classifier, embeddings: np.ndarray, names: Sequence[str]) -> tuple[Normalised, Evidence]:
        """What `normalised` gives, and what tells its threshold. Takes a cohort and somebody enrolled."""
        if isinstance(classifier, Neighbours):
            scores, genuine, own = self.impostors.update(classifier.index)
            scorer = Normalised(classifier, classifier, self._unmet, self.impostors.people)
        else:
            scorer = self.normalised(classifier, embeddings, names)
            scores = scorer.scores(self._unmet, self.impostors.strangers()).max(axis=1)
            genuine, own = rehearse(lambda rows, whose: self.normalised(self.train(rows, whose), rows, whose), embeddings, names)
        # Synthetic strangers stand for as many real ones, whichever of them are looked at.
        return scorer, Evidence(scores, min(self._cohort.strangers, len(self._unmet)), genuine, own, len(classifier.people))

    def judge(
        self,
        embeddings: np.ndarray,
        names: Sequence[str],
        classifier: Classifier | None = None,
        denied: tuple[np.ndarray, Sequence[str | None]] | None = None,
    ) -> tuple[OpenSet, Threshold | None]:
        """The decider on templates float32 unit [N, D] and whose they are; its threshold, or None where it is the usual one.

        `classifier`: one that `train` made of the same templates. `denied`: what Gallery.denied gives.
        """
        classifier = classifier or self.train(embeddings, names)
        denials = Denials(*denied, embeddings, names, self._usual) if denied and denied[1] else None
        if not len(names) or not self.has_cohort:
            return OpenSet(classifier, self._usual, denials=denials), None
        scorer, evidence = self.rated(classifier, embeddings, names)
        found = evidence.threshold(self.far)
        return OpenSet(scorer, found.known, found.review, evidence.calibration(), denials), found


class Known:
    """The decider of the gallery at `path`, which others may change at any time, and which may not be there yet.

    `usual_far` is the rate where the owner of the gallery has set none; None: the judge's rate holds, whatever is set.
    `notify` gets a code, a message and a level: of a promise that cannot be shown, a gallery that was loaded again or cannot be.
    Raises what Gallery does where it cannot be opened now.
    """

    def __init__(
        self,
        path: Path,
        used: Bundle,
        judge: Judge,
        notify: Callable[..., None],
        clock: Callable[[], float] = time.monotonic,
        key: bytes | None = None,
        usual_far: float | None = None,
    ):
        self.names: list[str] = []  # of those who are known, each once
        self._usual_far = usual_far
        self._key = key
        self._path, self._used, self._judge, self._notify, self._clock = path, used, judge, notify, clock
        self._gallery: Gallery | None = None
        self._version: tuple[int, int] | None = None
        self._change: int | None = None
        self._told: str | None = None
        self._due = -np.inf
        self._first = True  # what strangers score is not known yet
        self._is_new()
        self.decider = self._load()

    @property
    def people(self) -> int:
        return len(self.names)

    def detectors(self) -> dict[str, int]:
        """How many of the templates were made with each detector."""
        return self._gallery.detectors() if self._gallery else {}

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
            self._gallery = Gallery(self._path, key=self._key)
        version = self._gallery.version()
        if version == self._version:
            return False
        change = self._gallery.change()  # a program that only keeps something in the file changes nobody
        self._version, before, self._change = version, self._change, change
        return change != before

    def _load(self) -> OpenSet:
        names: list[str] = []
        denied = None
        if self._gallery is None:
            embeddings = np.zeros((0, self._used.dimension), np.float32)
        else:
            (embeddings, names), denied = self._gallery.templates(self._used), self._gallery.denied(self._used)
        self.names = sorted(set(names))
        if self._usual_far is not None:
            self._judge.far = (self._gallery.far() if self._gallery else None) or self._usual_far
        classifier = self._classifier(embeddings, names)
        known = self._recall(classifier)
        decider, threshold = self._judge.judge(embeddings, names, classifier, denied)
        if not known:
            self._keep("knn", self._judge.impostors.to_bytes())
        if threshold is not None and threshold.lacking:
            self._tell("far-not-shown", threshold.apology(), "warning")
        return decider

    def _classifier(self, embeddings: np.ndarray, names: Sequence[str]) -> Classifier:
        """The planes that the gallery keeps, if they are of the people as they are now; else newly trained, and kept."""
        with contextlib.suppress(ValueError):
            kept = self._kept("svm") if self._judge.svm else None
            if kept is not None:
                return Planes.from_bytes(kept)
        classifier = self._judge.train(embeddings, names)
        if isinstance(classifier, Planes):
            self._keep("svm", classifier.to_bytes())
        return classifier

    def _recall(self, classifier: Classifier) -> bool:
        """Take what strangers score from what the gallery keeps, where working it out is long; whether there is nothing to keep."""
        if not isinstance(classifier, Neighbours) or len(classifier.index) < LARGE:
            return True
        kept = self._kept("knn") if self._first else None
        self._first = False
        return kept is not None and self._judge.impostors.restore(kept, classifier.index)

    def _kept(self, kind: str) -> bytes | None:
        """What was made of the people as they are now."""
        with contextlib.suppress(OmokageError):
            kept = self._gallery.derived(f"{kind} {self._used.encoder}") if self._gallery else None
            if kept is not None and kept[0] == self._change:
                return kept[1]
        return None

    def _keep(self, kind: str, made: bytes) -> None:
        if self._gallery and self._change is not None:
            with contextlib.suppress(OmokageError):  # a gallery that may only be read
                self._gallery.keep(f"{kind} {self._used.encoder}", self._change, made)

    def _tell(self, code: str, message: str, level: str) -> None:
        """Notify, but not twice in a row of the same."""
        if message != self._told:
            self._notify(code, message, level)
        self._told = message
