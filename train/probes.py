"""What is asked of an encoder while it trains."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from device.program import InputError
from train import data, labels, metrics

NEIGHBOURS = 5  # folders of people hold a few pictures each, where ImageNet's classes hold a thousand
TEMPERATURE = 0.07
BLOCK = 1024  # rows of the matrix of cosines at a time


@dataclass(frozen=True)
class VerificationProbe:
    """Verification on a development protocol, e.g. LFW's pairsDevTest (never on the test pairs)."""

    crops: data.Crops
    pairs: data.Pairs

    @classmethod
    def read(cls, crops: Path, pairs: Path) -> "VerificationProbe":
        """`crops`: a zip or folder of Person/Person_0001 pictures; `pairs`: a protocol file."""
        protocol = data.read_pairs(pairs)
        stem = Path(crops).stem
        wanted = {f"{stem}/{name}" for name in protocol.left + protocol.right}
        return cls(data.read_crops([crops], only=wanted), protocol)

    def scores(self, embed: Callable[[np.ndarray], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Cosines [M] of the pairs whose crops are there, and which pairs these are (bool [N])."""
        rows = {name.split("/", 1)[1]: row for row, name in enumerate(self.crops.names)}
        there = np.array([a in rows and b in rows for a, b in zip(self.pairs.left, self.pairs.right, strict=True)])
        embeddings = embed(self.crops.images)
        left = embeddings[[rows[n] for n, ok in zip(self.pairs.left, there, strict=True) if ok]]
        right = embeddings[[rows[n] for n, ok in zip(self.pairs.right, there, strict=True) if ok]]
        return (left * right).sum(axis=1), there

    def __call__(self, embed: Callable[[np.ndarray], np.ndarray]) -> dict[str, float]:
        """Accuracy at the best threshold and area under the ROC."""
        scores, there = self.scores(embed)
        result = metrics.verification(scores, self.pairs.same[there], self.pairs.folds[there])
        return {"accuracy": result.accuracy, "auc": result.auc}


@dataclass(frozen=True)
class NeighbourProbe:
    """Who a picture shows by the nearest among all other pictures: `images` uint8 [N, 112, 112, 3], `people` int [N]."""

    images: np.ndarray
    people: np.ndarray

    @classmethod
    def read(cls, crops: Path, table: Path | None = None) -> "NeighbourProbe":
        """`crops`: a zip or folder of PERSON/PICTURE, or of pictures that the CSV file `table` names. Who has one picture
        only cannot be found, and is left out. Raises InputError where fewer than two people are left."""
        given = data.read_crops([crops])
        people, _ = labels.read(given.names, table)
        numbers, counts = np.unique(people[people != labels.UNKNOWN], return_counts=True)
        several = np.isin(people, numbers[counts > 1])
        if (counts > 1).sum() < 2:
            raise InputError(f"fewer than two people have two pictures or more in {crops}", "name crops of several pictures a person")
        return cls(given.images[several], people[several])

    def __call__(self, embed: Callable[[np.ndarray], np.ndarray]) -> dict[str, float]:
        return {"knn": neighbours_accuracy(embed(self.images), self.people)}


def neighbours_accuracy(embeddings: np.ndarray, people: np.ndarray, count: int = NEIGHBOURS) -> float:
    """The share of unit rows float [N, D] whose person (int [N], from 0) is the one for whom the `count` nearest other rows
    vote, each with the weight exp(cosine / temperature) (Wu et al. 2018, arXiv:1805.01978, section 3.4)."""
    right = 0
    for start in range(0, len(embeddings), BLOCK):
        rows = np.arange(start, min(start + BLOCK, len(embeddings)))
        cosines = embeddings[rows] @ embeddings.T  # [B, N]
        cosines[rows - start, rows] = -np.inf  # nobody is their own neighbour
        nearest = np.argpartition(-cosines, count - 1, axis=1)[:, :count] if count < len(embeddings) else np.argsort(-cosines, axis=1)
        votes = np.zeros((len(rows), people.max() + 1))
        weights = np.exp(np.take_along_axis(cosines, nearest, axis=1) / TEMPERATURE)  # [B, K]
        np.add.at(votes, (np.arange(len(rows))[:, None], people[nearest]), weights)
        right += int((votes.argmax(axis=1) == people[rows]).sum())
    return right / len(embeddings)


def alignment(left: np.ndarray, right: np.ndarray) -> float:
    """How far apart two views of the same crops are: the mean squared distance of unit rows [N, D], 0 where they agree
    (Wang and Isola 2020, arXiv:2005.10242, section 4.1.1, alpha 2)."""
    return float(np.square(left - right).sum(axis=1).mean())


def uniformity(embeddings: np.ndarray) -> float:
    """How evenly unit rows [N, D] lie on the sphere: the logarithm of the mean of exp(-2 d^2) over all pairs, d their
    distance; 0 where all are equal, near -4 at best (Wang and Isola 2020, arXiv:2005.10242, section 4.1.2, t 2)."""
    above = np.triu_indices(len(embeddings), k=1)
    squares = 2 - 2 * (embeddings @ embeddings.T)[above]
    return float(np.log(np.exp(-2 * squares).mean()))


def effective_rank(embeddings: np.ndarray) -> float:
    """RankMe: the exponential of the entropy of the singular values of [N, D] (Garrido et al. 2022, arXiv:2210.02885, eq. 1 and 2)."""
    values = np.linalg.svd(embeddings, compute_uv=False)
    shares = values / values.sum() + 1e-7
    return float(np.exp(-(shares * np.log(shares)).sum()))
