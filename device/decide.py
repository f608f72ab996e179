"""Who a face is: the nearest templates of the gallery, a threshold, and a verdict that does not flicker."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

HOLD = 5  # crops in a row for which another verdict must hold before it replaces the settled one


@dataclass(frozen=True)
class Verdict:
    """What is said about a face. `score` and `threshold` are cosines; `score` is None where the gallery is empty."""

    decision: str  # "known" or "unknown"
    name: str | None  # of the person if known
    score: float | None  # of the best person, named or not
    threshold: float
    runner_up: tuple[str, float] | None = None  # if known the second-best person, if unknown the best guess

    def agrees(self, other: "Verdict") -> bool:
        return (self.decision, self.name) == (other.decision, other.name)


class NearestNeighbours:
    """A person's score is the mean cosine of the probe to the `k` nearest of that person's templates (all, if fewer).

    The mean of a few forgives one bad template as well as one lucky one. The best person is known at `threshold` or above.
    """

    def __init__(self, embeddings: np.ndarray, names: Sequence[str], threshold: float, k: int = 3):
        """`embeddings`: float32 unit rows [N, D], one template each; `names`: whose they are, N of them."""
        if len(embeddings) != len(names):
            raise ValueError(f"{len(embeddings)} embeddings and {len(names)} names")
        self.threshold = threshold
        self.k = k
        owners = np.array(names, object)
        self._templates = {name: embeddings[owners == name] for name in sorted(set(names))}

    def decide(self, probe: np.ndarray) -> Verdict:
        """The verdict on an embedding: float32 unit [D]."""
        scores = [(self._score(templates, probe), name) for name, templates in self._templates.items()]
        if not scores:
            return Verdict("unknown", None, None, self.threshold)
        ranking = sorted(scores, key=lambda entry: -entry[0])
        best, *others = [(name, score) for score, name in ranking[:2]]
        if best[1] >= self.threshold:
            return Verdict("known", best[0], best[1], self.threshold, *others)
        return Verdict("unknown", None, best[1], self.threshold, best)

    def _score(self, templates: np.ndarray, probe: np.ndarray) -> float:
        return float(np.sort(templates @ probe)[-self.k :].mean())


class Opinion:
    """The settled verdict on one track. It follows the newest score at once, and another name or decision after HOLD."""

    def __init__(self) -> None:
        self.settled: Verdict | None = None
        self._rival: Verdict | None = None
        self._held = 0

    def update(self, verdict: Verdict) -> str | None:
        """Take in the newest verdict; returns "seen" for the first, "changed" where it changes the settled one."""
        if self.settled is None or verdict.agrees(self.settled):
            first = self.settled is None
            self.settled, self._held = verdict, 0
            return "seen" if first else None
        self._held = self._held + 1 if self._held and self._rival is not None and verdict.agrees(self._rival) else 1
        self._rival = verdict
        if self._held < HOLD:
            return None
        self.settled, self._held = verdict, 0
        return "changed"
