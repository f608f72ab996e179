"""From a promised false-accept rate to a threshold: how much alike must a face be before it may get a name?

The promise is about the whole gallery: of the pictures of strangers, a share FAR at most gets anybody's name. What strangers
score is known from the bundle's cohort, n of them whom nobody has enrolled: each is searched for in the gallery, and the best
score counts. The share of all such strangers who score above the k-th highest of these follows Beta(k, n - k + 1), whatever the
scores' distribution (Wilks 1941, "Determination of sample sizes for setting tolerance limits", Annals of Mathematical
Statistics 12(1)). The largest k for which it is below the rate with a confidence of 95 % gives the threshold.

Who comes to the door is not drawn from the cohort: other light, other cameras, other ages, and people who look alike because they
were photographed alike score higher. The enrolled people tell by how much, as each of them is a stranger to all the others: what
they score against each other lies above what the cohort scores, and by that `drift` the threshold goes up. docs/thresholds.md
tells it at length, with measured curves.
"""

import argparse
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import bdtr, bdtrin, betaincinv, expit

from device.bundle import Bundle
from device.program import StoredError

CONFIDENCE = 0.95  # one-sided, of every bound here
REVIEW = 10  # the review band begins where a share of strangers this many times FAR would score
COHORT = "cohort.npz"
KINDS = 16  # normal distributions that make up the density of a synthetic cohort, at most
SPARE = 3  # synthetic strangers for each real one that the density was fitted to
HIGH = 0.86  # the quantile at which enrolled people are compared with the cohort: alike enough, and enough of them are above it
DRIFT = 0.08  # by so much do strangers score higher than a cohort of others, before a gallery tells: CelebA's (docs/thresholds.md)
SURE = 10  # enrolled people who weigh as much as DRIFT: not their templates, as one pair of brothers has many
LUCK = 5  # a threshold that is the highest score of a few thousand is luck: it is at least the fifth highest
ENOUGH = 800  # strangers of whom one may be above the threshold, where they are fewer than LUCK times as many
GENUINE = 5  # scores of enrolled people against themselves, at least, before a score is turned into a probability


def rate(word: str) -> float:
    """A false-accept rate, as programs take it. Raises ArgumentTypeError."""
    share = float(word)
    if not 0 < share < 1:
        raise argparse.ArgumentTypeError(f"{word} is not between 0 and 1, as 0.001 is")
    return share


@dataclass(frozen=True, eq=False)
class Cohort:
    """Strangers: `embeddings` float32 unit rows [M, D]. `strangers` n is how many real people are behind them.

    Synthetic ones can be many, but are evidence of no more people than their density was fitted to.
    """

    embeddings: np.ndarray
    strangers: int


def load(used: Bundle) -> Cohort | None:
    """The cohort of a bundle; None where it has none. Raises StoredError for one that is damaged."""
    path = used.path / COHORT
    if not path.is_file():
        return None
    try:
        with np.load(path) as stored:
            rows = stored["embeddings"].astype(np.float32)
            strangers = int(stored["strangers"]) if "strangers" in stored else len(rows)
    except (OSError, ValueError, KeyError) as error:
        raise StoredError(f"{path} is damaged ({error})", "restore the bundle from the repository") from error
    if rows.ndim != 2 or rows.shape[1] != used.dimension or not 0 < strangers <= len(rows):
        raise StoredError(f"{path} holds {list(rows.shape)} for {strangers} strangers", "restore the bundle from the repository")
    return Cohort(unit(rows), strangers)


def synthetic(embeddings: np.ndarray, count: int | None = None, seed: int = 0) -> np.ndarray:
    """Strangers who do not exist: float32 unit rows [count, D] drawn from a density fitted to those of real ones [N, D].

    The density is a mixture of normal distributions, fitted by expectation maximisation (Dempster, Laird and Rubin 1977). One
    alone has too light a tail: people come in kinds, by sex, age and origin, and the alike are of one kind. `count`: SPARE times N.
    """
    from sklearn.mixture import GaussianMixture  # a recogniser never needs it, and it takes a second and 60 MB

    kinds = max(1, min(KINDS, len(embeddings) // (2 * embeddings.shape[1])))
    mixture = GaussianMixture(kinds, reg_covar=1e-6, max_iter=200, random_state=seed).fit(embeddings.astype(np.float64))
    rows, _ = mixture.sample(SPARE * len(embeddings) if count is None else count)
    return unit(np.random.default_rng(seed).permutation(rows))


def rank(strangers: int, far: float) -> int:
    """The largest k such that the k-th highest of the scores of n `strangers` is exceeded by less than a share `far` of all
    strangers, with CONFIDENCE; 0 where n is too small for any."""
    return int(np.searchsorted(bdtr(np.arange(strangers + 1), strangers, far), 1 - CONFIDENCE))  # the binomial's quantile


def needed(far: float) -> int:
    """The fewest strangers that can show the rate `far` by a threshold that is not luck."""
    return int(np.ceil(bdtrin(LUCK - 1, 1 - CONFIDENCE, far)))


def bound(accepted: int, strangers: int) -> float:
    """The rate that is not exceeded, with CONFIDENCE, where `accepted` of n `strangers` got a name (Clopper and Pearson 1934,
    "The use of confidence or fiducial limits illustrated in the case of the binomial", Biometrika 26(4))."""
    return 1.0 if accepted >= strangers else float(betaincinv(accepted + 1, strangers - accepted, CONFIDENCE))


@dataclass(frozen=True)
class Threshold:
    """A face is known from the score `known`, and to be reviewed from `review`.

    `bound` is the rate that is shown with CONFIDENCE for strangers who score by `drift` higher than the cohort: at most `far`, the
    rate asked for, unless strangers are `lacking`.
    """

    known: float
    review: float
    far: float
    bound: float
    drift: float
    strangers: int
    lacking: int

    def apology(self) -> str:
        """What the user should know where strangers are `lacking`."""
        return (
            f"{self.strangers} strangers cannot show a false-accept rate of {self.far:g}, it takes {self.lacking} more:"
            f" the strictest threshold that they show is used, for a rate of {self.bound:.2g}"
        )


def threshold(scores: np.ndarray, strangers: int, far: float, own: np.ndarray | None = None, people: int = 0) -> Threshold:
    """The threshold for the rate `far`, 0 to 1, from what strangers score against the whole gallery, each at best: float [M].

    `strangers` is how many real ones are behind them. `own` [K] is what templates of the `people` who are enrolled score at
    best against the others.
    """
    higher = DRIFT if own is None else drift(scores, own, people)
    fewest = min(LUCK, max(strangers // ENOUGH, 1))
    place = max(rank(strangers, far), fewest)
    known = _at(scores, place, strangers) + higher
    review = _at(scores, max(rank(strangers, min(REVIEW * far, 0.5)), fewest), strangers) + higher
    lacking = max(needed(far) - strangers, 0) if rank(strangers, far) < place else 0
    return Threshold(known, min(review, known), far, min(bound(place - 1, strangers), 1.0), higher, strangers, lacking)


def drift(scores: np.ndarray, own: np.ndarray, people: int) -> float:
    """By how much strangers like the `people` who are enrolled score higher than the cohort, with `scores` [M]: 0 or more.

    Told by the quantile HIGH of `own` [K], what the people's templates score at best against the others. DRIFT counts as SURE more
    people. The cohort meets one person more than they do, of whom each is as good as another: what a share HIGH of them stays
    below, a share HIGH^(P/(P-1)) of the cohort would.
    """
    if people < 2 or not len(own):
        return DRIFT
    told = np.quantile(own, HIGH) - np.quantile(scores, HIGH ** (people / (people - 1)))
    return max(0.0, float((people * told + SURE * DRIFT) / (people + SURE)))


def _at(scores: np.ndarray, place: int, strangers: int) -> float:
    """The score at `place` among n strangers; interpolated where synthetic ones are more (Weibull's plotting positions)."""
    return float(np.quantile(scores, 1 - place / (strangers + 1), method="weibull"))


@dataclass(frozen=True)
class Calibration:
    """The probability that a face is who it is taken for, from its score: a logistic curve (Platt 1999, "Probabilistic outputs
    for support vector machines"), where every other face is of somebody enrolled."""

    slope: float
    offset: float

    def __call__(self, score: float) -> float:
        return float(expit(self.slope * score + self.offset))


def calibrate(genuine: np.ndarray, impostors: np.ndarray) -> Calibration | None:
    """From scores of enrolled people against themselves [G] and of strangers at best [M]; None where either are too few."""
    if min(len(genuine), len(impostors)) < GENUINE:
        return None
    scores = np.concatenate([genuine, impostors]).astype(np.float64)
    middle, spread = scores.mean(), scores.std() or 1.0
    own, others = ((part - middle) / spread for part in (genuine, impostors))

    def loss(line: np.ndarray) -> float:
        """Cross-entropy, both kinds weighing the same, with a little of the slope's square: it stays finite where they are apart."""
        slope, offset = line
        apart = np.logaddexp(0, -slope * own - offset).mean() + np.logaddexp(0, slope * others + offset).mean()
        return float(apart + slope**2 / len(scores))

    slope, offset = minimize(loss, np.array([1.0, 0.0])).x
    slope = max(float(slope), 0.0) / float(spread)
    return Calibration(slope, float(offset) - slope * float(middle))


@dataclass(frozen=True, eq=False)
class Evidence:
    """What is known of a gallery's scores: strangers' at best [M] and how many real ones are behind them, and from a rehearsal
    those of the `people` who are enrolled against themselves [G] (`genuine`) and at best against the others [K] (`own`)."""

    scores: np.ndarray
    strangers: int
    genuine: np.ndarray
    own: np.ndarray
    people: int

    def threshold(self, far: float) -> Threshold:
        return threshold(self.scores, self.strangers, far, self.own, self.people)

    def calibration(self) -> Calibration | None:
        return calibrate(self.genuine, self.scores + drift(self.scores, self.own, self.people))


def reliability(told: np.ndarray, right: np.ndarray, bins: int = 10) -> list[tuple[float, float, int]]:
    """Of each bin of probabilities `told` float [N]: their mean, the share that was `right` bool [N], and how many they are."""
    place = np.minimum((told * bins).astype(int), bins - 1)
    return [(float(told[at].mean()), float(right[at].mean()), int(at.sum())) for at in (place == b for b in range(bins)) if at.any()]


def unit(rows: np.ndarray) -> np.ndarray:
    """The rows [N, D], of any type, brought to length 1: float32."""
    rows = rows.astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
