"""Figures of verification (same or different?), of open-set identification (who, if anybody?), and their intervals.

Verification: `scores` float [N] are cosines, `same` bool [N] the truth. Accuracy follows LFW's protocol (Huang et al. 2007,
UMass 07-49, section 4): the threshold of each fold is chosen on the other nine. docs/evaluation.md defines all figures.
"""

from collections.abc import Sequence
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
    """`correct` bool [N]: the verdict of each pair at its fold's threshold; `thresholds` and `folds` one a fold.

    `curve` [2, K]: the share of different and of same pairs that are accepted, at every threshold, from strict to lax.
    """

    correct: np.ndarray
    folds: np.ndarray
    thresholds: np.ndarray
    auc: float
    eer: float
    tar: dict[float, float]
    curve: np.ndarray

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
    auc = float(roc_auc_score(same, scores))
    return Verification(correct, accuracies, np.array(thresholds), auc, eer, at, np.stack([far, tar]))


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


@dataclass(frozen=True, eq=False)
class Estimate:
    """A share and how it varies: `samples` float [draws], the same figure on resampled data."""

    mean: float
    samples: np.ndarray

    @property
    def low(self) -> float:
        """The lower end of the 95 % percentile interval."""
        return float(np.percentile(self.samples, 2.5))

    @property
    def high(self) -> float:
        return float(np.percentile(self.samples, 97.5))

    def as_json(self) -> dict[str, float]:
        return {"mean": self.mean, "low": self.low, "high": self.high}

    def over(self, other: "Estimate") -> "Estimate | None":
        """This as a share of `other`; paired where both were resampled with the same seed over the same data.

        None where `other` is 0, be it in a single draw.
        """
        if not other.mean or not other.samples.all():
            return None
        return Estimate(self.mean / other.mean, self.samples / other.samples)


@dataclass(frozen=True, eq=False)
class Searches:
    """What a gallery answered: for M probes of people in it the best candidate's `scores` float [M] and whether that is the
    `right` person, bool [M]; for K probes of `strangers` the best candidate's score, float [K]."""

    scores: np.ndarray
    right: np.ndarray
    strangers: np.ndarray


@dataclass(frozen=True, eq=False)
class Identification:
    """`rank1`: the share of known people's probes whose best candidate is right. `dir`: the share whose best candidate is
    right and scores above the threshold that a share FAR of the strangers' probes exceeds (by FAR, as are `thresholds`)."""

    rank1: Estimate
    dir: dict[float, Estimate]
    thresholds: dict[float, float]


def identification(seeds: Sequence[Searches], fars: Sequence[float] = (0.01, 0.001), draws: int = 1000, seed: int = 0) -> Identification:
    """Open-set identification over several splits, pooled: one threshold for all of them.

    Detection-and-identification rate and false-alarm rate are those of Phillips, Grother and Micheals ("Evaluation methods
    in face recognition", Handbook of Face Recognition 2005, chapter 14); in words of ISO/IEC 19795-1, 1 - FNIR(N, 1, T) and FPIR.
    Whole splits are resampled, and the threshold is taken anew in each draw. A rate of less than one probe of a stranger
    is left out: these data cannot show it.
    """
    counts = np.random.default_rng(seed).multinomial(len(seeds), np.full(len(seeds), 1 / len(seeds)), draws)  # [draws, S]
    weights = np.vstack([np.ones(len(seeds), int), counts])  # the first draw is the data themselves
    probes = weights @ [len(entry.scores) for entry in seeds]

    def estimate(hits: np.ndarray) -> Estimate:
        shares = hits / probes
        return Estimate(float(shares[0]), shares[1:])

    strangers = np.concatenate([entry.strangers for entry in seeds])
    owner = np.repeat(np.arange(len(seeds)), [len(entry.strangers) for entry in seeds])
    order = np.argsort(-strangers)
    strangers, owner = strangers[order], owner[order]
    hits = [np.sort(entry.scores[entry.right]) for entry in seeds]
    rates, thresholds = {}, {}
    for far in fars:
        if far * len(strangers) < 1:
            continue
        cuts = np.array([strangers[_exceeding(draw[owner], far)] for draw in weights])
        above = np.stack([len(scores) - np.searchsorted(scores, cuts, side="right") for scores in hits], axis=1)
        rates[far], thresholds[far] = estimate((weights * above).sum(axis=1)), float(cuts[0])
    return Identification(estimate(weights @ [len(scores) for scores in hits]), rates, thresholds)


def _exceeding(weights: np.ndarray, far: float) -> int:
    """The place of the highest score that a share `far` or less of `weights`, ordered by falling score, lies above."""
    reached = np.cumsum(weights)
    return int(np.argmax(reached > far * reached[-1] + 1e-9))


def match_rate(match: np.ndarray, draws: int = 1000, seed: int = 0) -> Estimate:
    """The share of pairs of N pictures that match, from `match` bool [N, N], symmetric.

    Pairs that share a picture are not independent, so pictures are resampled, not pairs (the vertex bootstrap: Snijders and
    Borgatti 1999, "Non-parametric standard errors and tests for network statistics", Connections 22(2)). Where no pair
    matches, the interval goes up to the bound that N // 2 disjoint pairs without a match give (Clopper and Pearson 1934).
    """
    count = len(match)
    links = match.astype(np.float32)
    np.fill_diagonal(links, 0)
    pairs = count * (count - 1)
    if not links.any():
        return Estimate(0.0, np.repeat([0.0, 1 - 0.025 ** (1 / (count // 2))], draws // 2))
    weights = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), draws).astype(np.float32)
    # A picture drawn twice makes no pair with itself.
    usable = count**2 - (weights**2).sum(axis=1)
    return Estimate(float(links.sum(dtype=np.float64) / pairs), ((weights @ links) * weights).sum(axis=1, dtype=np.float64) / usable)
