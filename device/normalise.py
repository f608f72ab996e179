"""Scores in units of what strangers score: adaptive symmetric normalisation.

One enrolled person has an everyday face, another one a rare one, and a blurred picture is a little like everybody. A likeness
means more where strangers are less like this person, and like this picture, than where they are nearly as like. So each score is
told in standard deviations above the mean of those strangers who come nearest: once as seen from the person, once as seen from
the probe (Matějka et al. 2017, "Analysis of score normalization in multilingual speaker recognition", Interspeech, equations 3
and 4). One threshold then stops as many strangers in front of everybody. docs/thresholds.md says what it is worth.
"""

from typing import NamedTuple

import numpy as np

from device.classify import Classifier, Neighbours

NEAREST = 0.05  # share of the strangers who count: those who come nearest
FEWEST = 20  # of them at least, if there are so many
LEAST = 1e-3  # a spread below this is none
SCALE = 10.0  # standard deviations at which a score is tanh(1): 0.76
BLOCK = 1 << 22  # cosines that are worked out at once


class Units(NamedTuple):
    """What strangers score: `middle` and `spread` float32 [K] of each of K people or probes."""

    middle: np.ndarray
    spread: np.ndarray

    def only(self, places: np.ndarray) -> "Units":
        return Units(self.middle[places], self.spread[places])

    def of(self, scores: np.ndarray) -> np.ndarray:
        """Scores [..., K] in these units."""
        return (scores - self.middle) / self.spread


def units(scores: np.ndarray) -> Units:
    """The units of K people or probes from what M strangers score there, float32 [K, M]: mean and standard deviation of the
    highest. M is 1 or more."""
    strangers = scores.shape[1]
    count = min(max(round(NEAREST * strangers), FEWEST), strangers)
    highest = np.partition(scores, strangers - count, axis=1)[:, strangers - count :]
    return Units(highest.mean(axis=1), np.maximum(highest.std(axis=1), LEAST))


def aside(probes: np.ndarray, strangers: np.ndarray, themselves: bool = False) -> Units:
    """The units of `probes` float32 unit [K, D]: their cosines to `strangers` float32 unit [M, D], blockwise.

    `themselves`: the probes are these strangers, and nobody counts as a stranger to oneself.
    """
    step = max(BLOCK // len(strangers), 1)
    parts = []
    for start in range(0, len(probes), step):
        cosines = probes[start : start + step] @ strangers.T
        if themselves and len(strangers) > 1:
            own = np.arange(len(cosines))
            cosines[own, start + own] = cosines.min(axis=1)
        parts.append(units(cosines))
    return Units(*map(np.concatenate, zip(*parts, strict=True))) if parts else Units(*np.zeros((2, 0), np.float32))


def combined(scores: np.ndarray, cosines: np.ndarray, people: Units, probes: Units) -> np.ndarray:
    """Normalised scores [M, P], -1 to 1: of a classifier's `scores` and nearest neighbours' `cosines`, both [M, P]."""
    seen = (cosines - probes.middle[:, None]) / probes.spread[:, None]
    return np.tanh((people.of(scores) + seen) / (2 * SCALE)).astype(np.float32)


def score_of(cosine: float, person: Units, probe: Units) -> float:
    """The normalised score of one cosine, in the units of one person and one probe, [1] each."""
    one = np.full((1, 1), cosine, np.float32)
    return float(combined(one, one, person, probe)[0, 0])


class Normalised:
    """A classifier whose scores are normalised by `strangers` float32 unit [M, D], M of 1 or more, whom it has not met.

    The probe's half is always of cosines, by `nearest`, as an SVM has no plane of a stranger. `people`: the units of the people,
    where they are known.
    """

    def __init__(self, classifier: Classifier, nearest: Neighbours, strangers: np.ndarray, people: Units | None = None):
        self.people = classifier.people
        self._classifier, self._nearest, self._strangers = classifier, nearest, strangers
        self._units = people or units(np.ascontiguousarray(classifier.scores(strangers).T))

    def scores(self, probes: np.ndarray, probes_units: Units | None = None) -> np.ndarray:
        """Everybody's score for each of `probes` float32 unit [M, D]: float32 [M, P]. `probes_units`: what `aside` gives for them."""
        cosines = self._nearest.scores(probes)
        scores = cosines if self._classifier is self._nearest else self._classifier.scores(probes)
        return combined(scores, cosines, self._units, probes_units or aside(probes, self._strangers))

    def scored(self, cosine: float, person: str, probe: np.ndarray) -> float:
        """What nearest neighbours' `cosine` of a probe float32 unit [D] to a person is worth."""
        place = np.array([self.people.index(person)])
        return score_of(cosine, self._units.only(place), aside(probe[None], self._strangers))

    def best(self, probe: np.ndarray, most: int = 2) -> list[tuple[str, float]]:
        """The `most` people who score highest for `probe` float32 unit [D], best first."""
        if self._classifier is self._nearest:
            return self._of_cosines(probe, most)
        scores = self.scores(probe[None])[0]
        return [(self.people[i], float(scores[i])) for i in np.argsort(-scores, kind="stable")[:most]]

    def _of_cosines(self, probe: np.ndarray, most: int) -> list[tuple[str, float]]:
        """`best` where the score of a person grows with the cosine alone: the index looks closely at few people."""
        own = aside(probe[None], self._strangers)
        slope = 1 / self._units.spread + 1 / own.spread
        offset = -self._units.middle / self._units.spread - own.middle / own.spread
        found = self._nearest.best(probe, most, slope / (2 * SCALE), offset / (2 * SCALE))
        return [(name, float(np.tanh(score))) for name, score in found]
