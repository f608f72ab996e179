"""Who a face is: the nearest templates of the gallery, a threshold, and a verdict that does not flicker."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from device.classify import NEIGHBOURS, Classifier, Neighbours

AGREE = 3  # verdicts in a row that must agree before the first one is settled
DISPUTE = 8  # verdicts after which a face whose crops never agree is settled as unknown
HOLD = 5  # verdicts in a row for which another one must hold before it replaces the settled one
MARGIN = 1 / 12  # of the way from the threshold to 1: by so much must a face outdo another one in the same frame to take its name
NOBODY = "nobody is enrolled"
IGNORED = "it looks like a face that is to be ignored"


@dataclass(frozen=True)
class Verdict:
    """What is said about a face. `score` and `threshold` are -1 to 1: device.normalise's, or cosines where there is no cohort. There
    is no score where there is nothing to compare.

    `why` is a reason other than the score's being above or below the threshold. `stranger`: it is nobody's who is known, as far as
    can be told, and no face to ignore.
    """

    decision: str  # "known", "unknown" or "review"
    name: str | None  # of the person if known
    score: float | None  # of the best person, named or not
    threshold: float
    runner_up: tuple[str, float] | None = None  # if known the second-best person, else the best guess
    why: str | None = None
    probability: float | None = None  # that the best person is who it is; None where nothing tells
    stranger: bool = False

    def agrees(self, other: "Verdict") -> bool:
        return (self.decision, self.name) == (other.decision, other.name)

    def withheld(self, why: str) -> "Verdict":
        """The same face without a name; the name that it would have got becomes the best guess."""
        guess = (self.name, self.score) if self.name is not None and self.score is not None else self.runner_up
        return Verdict("unknown", None, self.score, self.threshold, guess, why, self.probability)


class Decider(Protocol):
    """Says who an embedding is. The recogniser asks nothing else of it, and takes another one at any time."""

    threshold: float

    def decide(self, probe: np.ndarray) -> Verdict:
        """The verdict on an embedding: float32 unit [D]."""
        ...


class Denials:
    """Faces that are not who they look like. Each counts where it is nearer to a probe than all templates of that person.

    `denied` float32 unit [K, D], and who each is not, K names (None: a face to ignore, whomever it looks like); `embeddings` [N, D]
    and `names` are everybody's templates. Two pictures with a cosine of `alike` or more show one face, as far as anybody knows.
    """

    def __init__(self, denied: np.ndarray, whose: Sequence[str | None], embeddings: np.ndarray, names: Sequence[str], alike: float):
        self._denied, self._whose = denied, np.array(whose, object)
        self._embeddings, self._names, self._alike = embeddings, np.array(names, object), alike

    def refuted(self, probe: np.ndarray) -> set[str]:
        """The people who `probe` float32 unit [D] is not, though it may look like them."""
        people = {name for name in self._whose if name is not None}
        return {name for name in people if self._nearest(probe, name) <= _highest(self._denied[self._whose == name] @ probe)}

    def ignored(self, probe: np.ndarray, name: str | None, near: bool) -> bool:
        """Whether `probe` is a face to ignore rather than `name`, who scores best; `near`: so well that it would be told."""
        likeness = _highest(self._denied[[who is None for who in self._whose]] @ probe)
        own = -np.inf if name is None else self._nearest(probe, name)
        return likeness >= own and (near or likeness >= self._alike)

    def _nearest(self, probe: np.ndarray, name: str) -> float:
        return _highest(self._embeddings[self._names == name] @ probe)


def _highest(cosines: np.ndarray) -> float:
    return float(cosines.max(initial=-np.inf))


class OpenSet:
    """Who scores best is known from `threshold` on, and for somebody to look at from `review` on; below, the face is unknown.

    `probability` turns a score into the probability that the name is right. `denials` take names away, and never give one.
    """

    def __init__(
        self,
        classifier: Classifier,
        threshold: float,
        review: float | None = None,
        probability: Callable[[float], float] | None = None,
        denials: Denials | None = None,
    ):
        self.threshold = threshold
        self.classifier = classifier
        self._probability, self._denials = probability, denials
        self._review = threshold if review is None else review

    def decide(self, probe: np.ndarray) -> Verdict:
        """The verdict on an embedding: float32 unit [D]."""
        refuted = self._denials.refuted(probe) if self._denials else set()
        ranked = self.classifier.best(probe, 2 + len(refuted))
        why = _refutation(next((name for name, score in ranked if name in refuted and score >= self._review), None))
        ranked = [(name, score) for name, score in ranked if name not in refuted][:2]
        if self._denials:
            name, score = ranked[0] if ranked else (None, -np.inf)
            if self._denials.ignored(probe, name, near=score >= self._review):
                return Verdict("unknown", None, score if ranked else None, self.threshold, ranked[0] if ranked else None, IGNORED)
        if not ranked:
            return Verdict("unknown", None, None, self.threshold, why=why or NOBODY, stranger=True)
        return self._judged(ranked, why)

    def _judged(self, ranked: list[tuple[str, float]], why: str | None) -> Verdict:
        """The verdict where these one or two people score best; `why` no better one was named."""
        best, *others = ranked
        name, score = best
        probability = None if self._probability is None else self._probability(score)
        if score >= self.threshold:
            return Verdict("known", name, score, self.threshold, others[0] if others else None, probability=probability)
        if score >= self._review:
            return Verdict("review", None, score, self.threshold, best, f"it is near the threshold {self.threshold:.2f}", probability)
        return Verdict("unknown", None, score, self.threshold, best, why, probability, stranger=True)


def _refutation(name: str | None) -> str | None:
    return None if name is None else f"it looks more like a face that is not {name}"


class NearestNeighbours(OpenSet):
    """Decides by the mean cosine of the probe to the `k` nearest templates of a person (all, if fewer)."""

    def __init__(self, embeddings: np.ndarray, names: Sequence[str], threshold: float, k: int = NEIGHBOURS):
        """`embeddings`: float32 unit rows [N, D], one template each; `names`: whose they are, N of them."""
        super().__init__(Neighbours(embeddings, names, k), threshold)


class Opinion:
    """The settled verdict on one track.

    The first is settled after `agree` verdicts in a row that agree, or as unknown after DISPUTE of them. It follows the
    newest score at once, and another name or decision after HOLD verdicts in a row.
    """

    def __init__(self, agree: int = AGREE) -> None:
        self.settled: Verdict | None = None
        self.refused: str | None = None  # the name that another face of the frame has
        self._agree = agree
        self._rival: Verdict | None = None
        self._held = self._heard = 0

    @property
    def firm(self) -> bool:
        """There is a verdict, and the newest one agreed with it."""
        return self.settled is not None and not self._held

    def update(self, verdict: Verdict) -> None:
        """Take in the newest verdict."""
        self._heard += 1
        if self.settled is not None and verdict.agrees(self.settled):
            self.settle(verdict)
            return
        self._held = self._held + 1 if self._rival is not None and verdict.agrees(self._rival) else 1
        self._rival = verdict
        if self._held >= (self._agree if self.settled is None else HOLD):
            self.settle(verdict)
        elif self.settled is None and self._heard >= DISPUTE:
            self.settle(verdict.withheld("its crops disagree"))

    def conclude(self) -> None:
        """There will be no more verdicts: where none is settled, the newest is, though it names nobody."""
        if self.settled is None and self._rival is not None:
            self.settle(self._rival.withheld("it was seen too briefly") if self._rival.name else self._rival)

    def settle(self, verdict: Verdict) -> None:
        """Let `verdict` hold from now on."""
        self.settled, self.refused, self._rival, self._held = verdict, None, None, 0

    def refuse(self, why: str) -> None:
        """Take the settled name away."""
        if self.settled is not None:
            name = self.settled.name
            self.settle(self.settled.withheld(why))
            self.refused = name


def one_name_each(opinions: Iterable[tuple[int, Opinion]], holders: dict[str, int]) -> None:
    """Withhold a name from all but one of the faces of a frame: `opinions` by track id, `holders` who had which name before.

    The highest score keeps it; who had it before, unless outdone by MARGIN.
    """
    claims: dict[str, list[tuple[float, int, Opinion]]] = {}
    for track, opinion in opinions:
        verdict = opinion.settled
        if verdict and verdict.name is not None:
            bonus = MARGIN * (1 - verdict.threshold) if holders.get(verdict.name) == track else 0.0
            claims.setdefault(verdict.name, []).append(((verdict.score or 0.0) + bonus, -track, opinion))
    for name, claimants in claims.items():
        (_, winner, _), *losers = sorted(claimants, key=lambda claim: claim[:2], reverse=True)
        for _, _, opinion in losers:
            opinion.refuse(f"{name} is #{-winner} in the same frame")
