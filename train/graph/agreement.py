"""How well clusters agree with people: pairwise F, B-cubed F and normalised mutual information.

Clusters and people are given as int [N] each, a number for every picture; what the numbers are does not matter.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Agreement:
    """`pairwise`, `bcubed`: F, the harmonic mean of precision and recall; `precision`, `recall`: those of B-cubed."""

    pairwise: float
    bcubed: float
    precision: float
    recall: float
    nmi: float
    found: int
    true: int


def agreement(clusters: np.ndarray, people: np.ndarray) -> Agreement:
    """All measures of N > 0 pictures."""
    table, sizes, counts = _contingency(clusters, people)
    precision, recall = bcubed(clusters, people)
    found, true, both = (float((values * (values - 1)).sum()) for values in (sizes, counts, table[:, 2]))
    return Agreement(_f(both, found, true), _harmonic(precision, recall), precision, recall, nmi(clusters, people), len(sizes), len(counts))


def bcubed(clusters: np.ndarray, people: np.ndarray) -> tuple[float, float]:
    """Precision and recall (Amigo et al. 2009, "A comparison of extrinsic clustering evaluation metrics", section 4): of every
    picture the share of its cluster that shows the same person, and the share of the person that is in its cluster; averaged."""
    table, sizes, counts = _contingency(clusters, people)
    squares = table[:, 2].astype(float) ** 2
    total = len(clusters)
    return float((squares / sizes[table[:, 0]]).sum() / total), float((squares / counts[table[:, 1]]).sum() / total)


def nmi(clusters: np.ndarray, people: np.ndarray) -> float:
    """Mutual information over the mean of both entropies: 1 where they are the same, also where both are a single group."""
    table, sizes, counts = _contingency(clusters, people)
    total = len(clusters)
    joint = table[:, 2] / total
    shared = float((joint * np.log(joint * total**2 / (sizes[table[:, 0]] * counts[table[:, 1]]))).sum())
    entropies = _entropy(sizes / total) + _entropy(counts / total)
    return 1.0 if entropies == 0 else min(max(2 * shared / entropies, 0.0), 1.0)


def _contingency(clusters: np.ndarray, people: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The cells that hold something, int [M, 3] (cluster, person, pictures); sizes of the clusters [C] and of the people [P]."""
    _, first, sizes = np.unique(clusters, return_inverse=True, return_counts=True)
    _, second, counts = np.unique(people, return_inverse=True, return_counts=True)
    cells, pictures = np.unique(first.astype(np.int64) * len(counts) + second, return_counts=True)
    return np.stack([cells // len(counts), cells % len(counts), pictures], axis=1), sizes, counts


def _f(both: float, found: float, true: float) -> float:
    """Of pairs; 1 where there is none to find and none was found."""
    return 1.0 if found + true == 0 else 2 * both / (found + true)


def _harmonic(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall)


def _entropy(shares: np.ndarray) -> float:
    return float(-(shares * np.log(shares)).sum())
