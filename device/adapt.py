"""A classifier that adapts to the enrolled people in a few gradient steps, from a starting point that was learnt for it.

train/meta.py finds the starting point (docs/few-labels.md) and writes `head.npz`. Embeddings are turned by a matrix, a person is
where the mean of the templates is then, and a softmax over the cosines is descended for a few steps, matrix and people alike. All
of it is a few products of small matrices.
"""

import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from device.bundle import Bundle
from device.program import StoredError

FILE = "head.npz"
TINY = 1e-12


@dataclass(frozen=True, eq=False)
class Head:
    """The starting point. `matrix` float32 [D, E] turns embeddings less their `centre` float32 [D]; `sharpness` multiplies the
    cosines in the softmax; `steps` of gradient descent, with `rates` for the matrix and for the people. `facts`: how it was made."""

    matrix: np.ndarray
    centre: np.ndarray
    sharpness: float
    rates: tuple[float, float]
    steps: int
    facts: dict[str, Any]

    def save(self, path: Path) -> None:
        """In NumPy's npz format."""
        numbers = {"sharpness": self.sharpness, "rates": self.rates, "steps": self.steps}
        np.savez(path, facts=np.array(json.dumps(self.facts | numbers)), matrix=self.matrix, centre=self.centre)


def load(used: Bundle) -> Head | None:
    """The head of a bundle; None where it has none. Raises StoredError for one that is damaged, or of another encoder."""
    path = used.path / FILE
    return read(path, used.encoder, used.dimension) if path.is_file() else None


def read(path: Path, encoder: str, dimension: int) -> Head:
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
            facts, matrix, centre = json.loads(str(stored["facts"])), stored["matrix"], stored["centre"]
        head = Head(matrix, centre, float(facts["sharpness"]), (facts["rates"][0], facts["rates"][1]), int(facts["steps"]), facts)
        whose = facts["encoder"]
    except (OSError, ValueError, KeyError, TypeError, IndexError, EOFError, zipfile.BadZipFile) as error:
        raise StoredError(f"{path} is damaged ({error})", "restore the bundle from the repository") from error
    if whose != encoder or matrix.shape[0] != dimension or centre.shape != (dimension,):
        raise StoredError(f"{path} belongs to encoder {whose}, the bundle's is {encoder}", "learn it anew with train/meta.py")
    return head


class Adapted:
    """Scores people by the cosine of the turned probe to where each person has come to be: -1 to 1. `people` are sorted by name."""

    def __init__(self, head: Head, embeddings: np.ndarray, names: Sequence[str]):
        """`embeddings`: float32 unit rows [N, D], one template each; `names`: whose they are, N of them."""
        self.people = sorted(set(names))
        self._centre = head.centre
        owners = np.searchsorted(self.people, names) if len(names) else np.zeros(0, int)
        self._matrix, self._classes = adapted(head, embeddings, owners)

    def scores(self, probes: np.ndarray) -> np.ndarray:
        """Everybody's score for each of `probes` float32 unit [M, D]: float32 [M, P]."""
        turned = _unit((probes - self._centre) @ self._matrix)
        return (turned @ _unit(self._classes).T).astype(np.float32)

    def best(self, probe: np.ndarray, most: int = 2) -> list[tuple[str, float]]:
        """The `most` people who score highest for `probe` float32 unit [D], best first."""
        scores = self.scores(probe[None])[0]
        return [(self.people[i], float(scores[i])) for i in np.argsort(-scores, kind="stable")[:most]]


def adapted(head: Head, embeddings: np.ndarray, owners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Matrix [D, E] and people [P, E] after the steps of gradient descent on templates [N, D] and whose they are, int [N]."""
    x, matrix = embeddings - head.centre, head.matrix
    count = int(owners.max()) + 1 if len(owners) else 0
    truth = np.eye(count, dtype=np.float32)[owners]  # [N, P]
    sums = truth.T @ _unit(x @ matrix)
    classes = sums / np.maximum(truth.sum(axis=0)[:, None], 1)
    for _ in range(head.steps if count > 1 else 0):
        by_matrix, by_classes = gradients(matrix, classes, head.sharpness, x, truth)
        matrix, classes = matrix - head.rates[0] * by_matrix, classes - head.rates[1] * by_classes
    return matrix, classes


def gradients(matrix: np.ndarray, classes: np.ndarray, sharpness: float, x: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of the mean cross-entropy of softmax(sharpness z c^T), z = x W / |x W|, c the unit `classes`: by W [D, E] and by classes [P, E].

    `x` [N, D]; `truth` [N, P]: 1 where a row is a person's.
    """
    z, c = x @ matrix, classes
    zs, cs = _unit(z), _unit(c)
    logits = sharpness * zs @ cs.T
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    back = sharpness * (shares - truth) / len(x)  # [N, P]
    return x.T @ _through_unit(z, zs, back @ cs), _through_unit(c, cs, back.T @ zs)


def _through_unit(rows: np.ndarray, units: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """The gradient by `rows` of what has this `gradient` by the rows brought to length 1, `units`."""
    along = (gradient * units).sum(axis=1, keepdims=True)
    return (gradient - along * units) / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), TINY)


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), TINY)
