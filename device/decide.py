"""Who a face is: the nearest templates of the gallery, a threshold, and a verdict that does not flicker."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from device.classify import NEIGHBOURS, Classifier, Neighbours

AGREE = 3  # verdicts in a row that must agree before the first one is settled
DISPUTE = 8  # verdicts after which a face whose crops never agree is settled as unknown
HOLD = 5  # verdicts in a row for which another one must hold before it replaces the settled one
MARGIN = 0.05  # cosine by which a face must outdo another one in the same frame to take its name


@dataclass(frozen=True)
class Verdict:
    """What is said about a face. `score` and `threshold` are device.classify's, -1 to 1 (None: there is nothing to compare).

    `why` is a reason other than the score's being above or below the threshold.
    """

    decision: str  # "known", "unknown" or "review"
    name: str | None  # of the person if known
    score: float | None  # of the best person, named or not
    threshold: float
    runner_up: tuple[str, float] | None = None  # if known the second-best person, else the best guess
    why: str | None = None
    probability: float | None = None  # that the best person is who it is; None where nothing tells

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


class OpenSet:
    """Who scores best is known from `threshold` on, and for somebody to look at from `review` on; below, the face is unknown.

    `probability` turns a score into the probability that the name is right.
    """

    def __init__(
        self, classifier: Classifier, threshold: float, review: float | None = None, probability: Callable[[float], float] | None = None
    ):
        self.threshold = threshold
        self._classifier, self._probability = classifier, probability
        self._review = threshold if review is None else review

    def decide(self, probe: np.ndarray) -> Verdict:
        """The verdict on an embedding: float32 unit [D]."""
        ranked = self._classifier.best(probe)
        if not ranked:
            return Verdict("unknown", None, None, self.threshold, why="nobody is enrolled")
        best, *others = ranked
        name, score = best
        probability = None if self._probability is None else self._probability(score)
        if score >= self.threshold:
            return Verdict("known", name, score, self.threshold, others[0] if others else None, probability=probability)
        if score >= self._review:
            return Verdict("review", None, score, self.threshold, best, f"it is near the threshold {self.threshold:.2f}", probability)
        return Verdict("unknown", None, score, self.threshold, best, probability=probability)


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
        if opinion.settled and opinion.settled.name is not None:
            bonus = MARGIN if holders.get(opinion.settled.name) == track else 0.0
            claims.setdefault(opinion.settled.name, []).append(((opinion.settled.score or 0.0) + bonus, -track, opinion))
    for name, claimants in claims.items():
        (_, winner, _), *losers = sorted(claimants, key=lambda claim: claim[:2], reverse=True)
        for _, _, opinion in losers:
            opinion.refuse(f"{name} is #{-winner} in the same frame")
