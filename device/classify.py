"""Which of the enrolled people is a face most like? Two classifiers: the nearest templates, and a plane for each person."""

import io
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from device.search import Index

NEIGHBOURS = 3  # the mean of a few forgives one bad template as well as one lucky one
FOLDS = 3  # times that a gallery is rehearsed
REHEARSED = 120  # templates that are held out in a rehearsal at most
BLOCK = 1 << 21  # scores that are worked out at once


class Classifier(Protocol):
    """Scores people; who scores highest is the best guess. `people` are sorted by name."""

    people: list[str]

    def scores(self, probes: np.ndarray) -> np.ndarray:
        """Everybody's score for each of `probes` float32 unit [M, D]: float32 [M, P]."""
        ...

    def best(self, probe: np.ndarray, most: int = 2) -> list[tuple[str, float]]:
        """The `most` people who score highest for `probe` float32 unit [D], best first."""
        ...


Train = Callable[[np.ndarray, Sequence[str]], Classifier]


class Neighbours:
    """A person's score is the mean cosine of the probe to the `k` nearest of that person's templates (all, if fewer)."""

    def __init__(self, embeddings: np.ndarray, names: Sequence[str], k: int = NEIGHBOURS):
        """`embeddings`: float32 unit rows [N, D], one template each; `names`: whose they are, N of them."""
        self.index, self._k = Index(embeddings, names), k
        self.people = self.index.people

    def scores(self, probes: np.ndarray) -> np.ndarray:
        return self.index.scores(probes, self._k)

    def best(
        self, probe: np.ndarray, most: int = 2, slope: np.ndarray | float = 1.0, offset: np.ndarray | float = 0.0
    ) -> list[tuple[str, float]]:
        """`slope` and `offset` are Index.best's."""
        return self.index.best(probe, most, self._k, slope, offset)

    def scored(self, cosine: float, person: str, probe: np.ndarray) -> float:
        """As device.normalise.Normalised.scored, where there are no strangers to go by: the cosine itself."""
        return cosine


class Planes:
    """A linear SVM a person: the person's templates against everybody else's and against strangers, both sides weighing the same
    (template adaptation: Crosswhite et al. 2016, arXiv:1603.03958, section 3).

    The score is the signed distance from the plane in units of its margin: 1 on the margin.
    """

    def __init__(self, weights: np.ndarray, biases: np.ndarray, people: Sequence[str]):
        """`weights` float32 [P, D] and `biases` float32 [P], one plane for each of the P `people`, who are sorted by name."""
        if len(weights) != len(people) or biases.shape != (len(people),):
            raise ValueError(f"{len(weights)} planes, {len(biases)} biases and {len(people)} people")
        self.people = list(people)
        self._weights, self._biases = weights, biases

    @classmethod
    def train(cls, embeddings: np.ndarray, names: Sequence[str], strangers: np.ndarray, cost: float = 1.0) -> "Planes":
        """`embeddings` float32 unit [N, D] and whose they are; `strangers` float32 unit [K, D] are nobody's.

        What all faces have in common is taken away first, and the rest brought to length 1 in the mean: the cost is worth the
        same whatever the scale of an encoder's cosines.
        """
        from sklearn.svm import LinearSVC  # a second and 60 MB that a recogniser by nearest neighbours does without

        people = sorted(set(names))
        rows, owners = np.concatenate([embeddings, strangers]), np.array([*names, *[None] * len(strangers)], object)
        middle = rows.mean(axis=0)
        spread = float(np.linalg.norm(rows - middle, axis=1).mean()) or 1.0
        scaled = (rows - middle) / spread
        planes = [LinearSVC(C=cost, class_weight="balanced", random_state=0).fit(scaled, owners == person) for person in people]
        if not planes:
            return cls(np.zeros((0, rows.shape[1]), np.float32), np.zeros(0, np.float32), [])
        weights = np.concatenate([plane.coef_ for plane in planes]) / spread
        biases = np.concatenate([plane.intercept_ for plane in planes]) - weights @ middle
        return cls(weights.astype(np.float32), biases.astype(np.float32), people)

    def scores(self, probes: np.ndarray) -> np.ndarray:
        return probes @ self._weights.T + self._biases

    def best(self, probe: np.ndarray, most: int = 2) -> list[tuple[str, float]]:
        scores = self.scores(probe[None])[0]
        return [(self.people[i], float(scores[i])) for i in np.argsort(-scores, kind="stable")[:most]]

    def to_bytes(self) -> bytes:
        """Plain arrays, in NumPy's npz format."""
        with io.BytesIO() as file:
            np.savez(file, weights=self._weights, biases=self._biases, people=np.array(self.people, str))
            return file.getvalue()

    @classmethod
    def from_bytes(cls, stored: bytes) -> "Planes":
        """What `to_bytes` gave; nothing in it is ever executed. Raises ValueError for anything else."""
        try:
            with np.load(io.BytesIO(stored), allow_pickle=False) as arrays:
                return cls(arrays["weights"], arrays["biases"], [str(name) for name in arrays["people"]])
        except (KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"these are no planes ({error})") from error


def strongest(classifier: Classifier, probes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The highest score of each of `probes` [M, D] and the number of the person who has it: float32 [M], int [M]."""
    if not len(probes):
        return np.zeros(0, np.float32), np.zeros(0, int)
    step = max(BLOCK // max(len(classifier.people), 1), 1)
    found = []
    for start in range(0, len(probes), step):
        scores = classifier.scores(probes[start : start + step])
        found.append((scores.max(axis=1), scores.argmax(axis=1)))
    best, whose = zip(*found, strict=True)
    return np.concatenate(best), np.concatenate(whose)


def rehearse(train: Train, embeddings: np.ndarray, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """What enrolled people score who come again, and what they would score were they strangers.

    Some templates are held out, the classifier is trained on the others, and those held out are looked for, FOLDS times over.
    Returns the scores against themselves, float [G] (none of people with a single template), and the best ones against others, [K].
    """
    genuine: list[float] = []
    others: list[float] = []
    folds, owners = _folds(names), np.array(names, object)
    for fold in range(FOLDS):
        kept, held = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        if not len(kept) or not len(held):
            continue
        classifier = train(embeddings[kept], list(owners[kept]))
        place = {person: column for column, person in enumerate(classifier.people)}
        some = held[:: -(-len(held) // (REHEARSED // FOLDS))]
        for row, scores in zip(some, classifier.scores(embeddings[some]), strict=True):
            own = place.get(owners[row])
            if own is not None:
                genuine.append(float(scores[own]))
                scores = np.delete(scores, own)
            others.extend(scores.max(keepdims=True).tolist() if len(scores) else [])
    return np.array(genuine), np.array(others)


def left_out(templates: np.ndarray, probe: np.ndarray) -> float | None:
    """What one of a person's `templates` [n, D], the `probe`, scores against the others by cosine; None where there are none."""
    likeness = np.delete(templates @ probe, (templates == probe).all(axis=1).argmax())
    return float(np.sort(likeness)[-NEIGHBOURS:].mean()) if len(likeness) else None


def _folds(names: Sequence[str]) -> np.ndarray:
    """In which fold each template is held out, int [N]: those of a person in turn. Who has a single one is left out altogether."""
    each, met = Counter(names), Counter[str]()
    folds = []
    for name in names:
        turn = name if each[name] > 1 else ""
        folds.append(met[turn] % FOLDS)
        met[turn] += 1
    return np.array(folds, int)
