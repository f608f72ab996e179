"""Figures of verification: how well the cosine of two crops tells same from different.

`scores` float [N] are cosines, `same` bool [N] the truth. Accuracy follows LFW's protocol (Huang et al. 2007, UMass
07-49, section 4): the threshold of each fold is chosen on the other nine.
"""

from dataclasses import dataclass

import numpy as np
from sklearn.metrics import roc_auc_score, roc_curve


def best_threshold(scores: np.ndarray, same: np.ndarray) -> float:
    """The threshold with the most right verdicts (`score >= threshold` says same); midway between two scores."""
    order = np.argsort(scores)
    ordered, truth = scores[order], same[order]
    # Right when the k lowest are called different: the different ones among them and the same ones above.
    right = np.concatenate([[0], np.cumsum(~truth)]) + truth.sum() - np.concatenate([[0], np.cumsum(truth)])
    right[1:-1][ordered[1:] == ordered[:-1]] = -1  # no threshold parts equal scores
    edges = np.concatenate([[ordered[0] - 1e-6], (ordered[1:] + ordered[:-1]) / 2, [ordered[-1] + 1e-6]])
    return float(edges[np.argmax(right)])


@dataclass(frozen=True)
class Verification:
    """`correct` bool [N]: the verdict of each pair at its fold's threshold; `thresholds` and `folds` one a fold."""

    correct: np.ndarray
    folds: np.ndarray
    thresholds: np.ndarray
    auc: float
    eer: float
    tar: dict[float, float]

    @property
    def accuracy(self) -> float:
        return float(self.folds.mean())

    @property
    def std(self) -> float:
        return float(self.folds.std(ddof=1)) if len(self.folds) > 1 else 0.0


def verification(scores: np.ndarray, same: np.ndarray, folds: np.ndarray, fars: tuple[float, ...] = (0.01, 0.001)) -> Verification:
    """Accuracy over folds, area under the ROC, equal error rate, and the share of same pairs accepted at each of `fars`.

    With a single fold the threshold is chosen on the pairs that it judges: a probe, not a result.
    """
    numbers = np.unique(folds)
    correct = np.empty(len(scores), bool)
    thresholds = []
    for fold in numbers:
        test = folds == fold
        fit = ~test if len(numbers) > 1 else test
        thresholds.append(best_threshold(scores[fit], same[fit]))
        correct[test] = (scores[test] >= thresholds[-1]) == same[test]
    accuracies = np.array([correct[folds == fold].mean() for fold in numbers])
    far, tar, _ = roc_curve(same, scores, drop_intermediate=False)
    crossing = int(np.argmin(np.abs(far - (1 - tar))))
    eer = float(far[crossing] + 1 - tar[crossing]) / 2
    at = {rate: float(tar[far <= rate].max()) for rate in fars}
    return Verification(correct, accuracies, np.array(thresholds), float(roc_auc_score(same, scores)), eer, at)


def paired_bootstrap(first: np.ndarray, second: np.ndarray, draws: int = 10_000, seed: int = 0) -> tuple[float, float, float]:
    """Mean of `first - second` (bool or float [N], the same pairs) and its 95 % percentile interval over resampled pairs."""
    difference = first.astype(np.float64) - second.astype(np.float64)
    values, counts = np.unique(difference, return_counts=True)
    # Resampling N pairs with replacement only changes how often each value occurs: a multinomial, not N indices a draw.
    means = np.random.default_rng(seed).multinomial(len(difference), counts / counts.sum(), draws) @ values / len(difference)
    low, high = np.percentile(means, (2.5, 97.5))
    return float(difference.mean()), float(low), float(high)


def parity(left: np.ndarray, right: np.ndarray) -> tuple[float, float]:
    """Mean and first percentile of the cosine of matching unit rows [N, D], e.g. of the float and the int8 encoder."""
    cosines = (left * right).sum(axis=1)
    return float(cosines.mean()), float(np.percentile(cosines, 1))
