import numpy as np
import pytest

from device.classify import Neighbours, Planes
from device.normalise import Normalised, aside, units
from device.openset import unit

RNG = np.random.default_rng(0)
PEOPLE = 40
CENTRES = unit(RNG.normal(size=(PEOPLE, 32)))
STRANGERS = unit(RNG.normal(size=(600, 32)))
NAMES = [f"{number:02}" for number in range(PEOPLE)]


def slowly(scores: list[float]) -> tuple[float, float]:
    highest = sorted(scores)[-30:]  # a twentieth of 600
    middle = sum(highest) / 30
    return middle, (sum((score - middle) ** 2 for score in highest) / 30) ** 0.5


def test_a_score_is_the_mean_of_both_halves_in_standard_deviations():
    scorer = Normalised(nearest := Neighbours(CENTRES, NAMES), nearest, STRANGERS)
    probes = unit(CENTRES[:5] + 0.2 * RNG.normal(size=(5, 32)))
    found = scorer.scores(probes)
    for row, probe in enumerate(probes):
        own = slowly([float(stranger @ probe) for stranger in STRANGERS])
        for column in (0, 3, row):
            person = slowly([float(stranger @ CENTRES[column]) for stranger in STRANGERS])
            cosine = float(CENTRES[column] @ probe)
            halves = (cosine - person[0]) / person[1], (cosine - own[0]) / own[1]
            assert found[row, column] == pytest.approx(np.tanh(sum(halves) / 2 / 10), abs=1e-5)
            assert scorer.scored(cosine, NAMES[column], probe) == pytest.approx(found[row, column], abs=1e-5)


@pytest.mark.parametrize("kind", ["knn", "svm"])
def test_the_best_are_those_who_score_highest(kind):
    nearest = Neighbours(np.repeat(CENTRES, 2, axis=0), [name for name in NAMES for _ in range(2)])
    classifier = nearest if kind == "knn" else Planes.train(CENTRES, NAMES, STRANGERS[:100])
    scorer = Normalised(classifier, nearest, STRANGERS[100:])
    probes = unit(RNG.normal(size=(20, 32)))
    scores = scorer.scores(probes)
    assert abs(scores).max() <= 1
    for row, probe in zip(scores, probes, strict=True):
        best = scorer.best(probe, 3)
        assert [name for name, _ in best] == [NAMES[place] for place in np.argsort(-row)[:3]]
        np.testing.assert_allclose([score for _, score in best], np.sort(row)[::-1][:3], atol=1e-5)


def test_strangers_are_stopped_as_often_in_front_of_everybody():
    """One person has a face as many strangers have it, whom plain cosines would let nearly all strangers be taken for."""
    common = CENTRES[0]
    strangers = unit(RNG.normal(size=(2000, 32)) + 3 * common)
    people = Neighbours(np.stack([common, *CENTRES[1:3]]), NAMES[:3])
    half, others = strangers[:1000], strangers[1000:]
    assert (people.scores(others).argmax(axis=1) == 0).mean() > 0.9
    taken = (Normalised(people, people, half).scores(others) > 0.1).mean(axis=0)
    assert taken.max() < 0.1 and taken.max() < 10 * max(taken.min(), 0.005)


def test_nobody_is_a_stranger_to_oneself():
    with_themselves, without = aside(STRANGERS, STRANGERS), aside(STRANGERS, STRANGERS, themselves=True)
    assert (without.middle < with_themselves.middle).all() and (without.spread < with_themselves.spread).all()
    one = slowly([float(STRANGERS[7] @ row) for place, row in enumerate(STRANGERS) if place != 7])
    assert (without.middle[7], without.spread[7]) == pytest.approx(one, abs=1e-5)


def test_a_single_stranger_and_many_that_are_the_same_give_finite_scores():
    for strangers in (STRANGERS[:1], np.repeat(STRANGERS[:1], 50, axis=0)):
        scorer = Normalised(nearest := Neighbours(CENTRES, NAMES), nearest, strangers)
        assert np.isfinite(scorer.scores(np.concatenate([CENTRES, strangers]))).all()
        assert np.isfinite(units(strangers @ strangers.T).spread).all()
        assert np.isfinite(aside(strangers, strangers, themselves=True).middle).all()
    assert len(aside(STRANGERS[:0], STRANGERS).middle) == 0
