from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, binom

from device import bundle, openset
from device.bundle import Bundle
from device.program import StoredError


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@settings(deadline=None)
@given(strangers=st.integers(1, 20000), far=st.floats(1e-4, 0.3))
def test_the_rank_is_the_largest_whose_share_is_below_the_rate_with_confidence(strangers: int, far: float):
    """By the definition: the share above the k-th highest of n follows Beta(k, n - k + 1)."""
    k = openset.rank(strangers, far)
    assert k == 0 or beta.cdf(far, k, strangers - k + 1) >= openset.CONFIDENCE - 1e-9
    assert k == strangers or beta.cdf(far, k + 1, strangers - k) < openset.CONFIDENCE + 1e-9


@settings(deadline=None)
@given(far=st.floats(1e-5, 0.5))
def test_as_many_strangers_as_needed_show_a_rate_and_one_less_does_not(far: float):
    assert openset.rank(openset.needed(far), far) >= openset.LUCK
    assert openset.rank(openset.needed(far) - 1, far) < openset.LUCK


@pytest.mark.parametrize(("far", "strangers"), [(0.01, 913), (0.001, 9151), (0.0001, 91533)])
def test_how_many_strangers_a_rate_takes(far: float, strangers: int):
    assert openset.needed(far) == strangers


def test_the_bound_is_that_of_clopper_and_pearson():
    for accepted, strangers in ((0, 299), (3, 1000), (40, 4000)):
        limit = openset.bound(accepted, strangers)
        assert binom.cdf(accepted, strangers, limit) == pytest.approx(1 - openset.CONFIDENCE)
    assert openset.bound(0, 3000) == pytest.approx(1 - 0.05 ** (1 / 3000))
    assert openset.bound(5, 5) == 1.0


def test_the_promise_is_kept_in_nineteen_of_twenty_cohorts():
    """Whatever the scores' distribution: of uniform scores that are by `DRIFT` higher than the cohort's, 1 - t lie above t + DRIFT."""
    rng = np.random.default_rng(0)
    rates = np.array([1 - (openset.threshold(rng.uniform(size=1000), 1000, 0.05).known - openset.DRIFT) for _ in range(400)])
    assert (rates <= 0.05).mean() > 0.92
    assert rates.mean() > 0.05 / 2


def test_enrolled_people_tell_by_how_much_strangers_of_their_kind_score_higher():
    rng = np.random.default_rng(0)
    cohort = rng.normal(size=4000)
    drifts = [openset.drift(cohort, rng.normal(size=3 * people) + 0.5, people) for people in (1, 10, 1000)]
    assert drifts[0] == openset.DRIFT and drifts[0] < drifts[1] < drifts[2] == pytest.approx(0.5, abs=0.1)
    assert openset.drift(cohort, rng.normal(size=3000) - 0.5, 1000) == 0, "a gallery never makes strangers welcome"
    asked, alone = (openset.threshold(cohort, 4000, 0.01, rng.normal(size=3 * people) + 0.5, people) for people in (1000, 1))
    assert asked.known - alone.known == pytest.approx(drifts[2] - openset.DRIFT, abs=0.1)
    assert asked.review - alone.review == pytest.approx(asked.known - alone.known)


def test_few_people_are_strangers_to_fewer_than_the_cohort_is():
    """Three people's best scores against two others, and a cohort's against all three, of the same distribution: there is no drift."""
    rng = np.random.default_rng(0)
    cohort, own = rng.normal(size=(200_000, 3)).max(axis=1), rng.normal(size=(200_000, 2)).max(axis=1)
    assert openset.drift(cohort, own, 3) == pytest.approx(10 / 13 * openset.DRIFT, abs=0.01)


def test_a_cohort_that_is_too_small_shows_its_strictest_and_says_what_it_lacks():
    scores = np.linspace(0, 0.5, 1000)
    found = openset.threshold(scores, 1000, 0.001)
    assert found.known == scores.max() + openset.DRIFT
    assert found.lacking == openset.needed(0.001) - 1000
    assert found.bound == pytest.approx(0.003, rel=0.01)
    assert f"1000 strangers cannot show a false-accept rate of 0.001, it takes {found.lacking} more" in found.apology()
    enough = openset.threshold(scores, 1000, 0.01)
    assert enough.lacking == 0
    assert enough.bound <= 0.01


def test_many_synthetic_strangers_are_evidence_of_no_more_than_the_real_ones_behind_them():
    scores = np.random.default_rng(0).normal(size=100_000)
    assert openset.threshold(scores, 1000, 0.0001).lacking == openset.needed(0.0001) - 1000
    few = np.mean([openset.threshold(part, 1000, 0.1).known for part in scores.reshape(100, 1000)])
    assert openset.threshold(scores, 1000, 0.1).known == pytest.approx(few, abs=0.05)


def test_the_review_band_lies_below_the_threshold():
    found = openset.threshold(np.linspace(-1, 1, 4000), 4000, 0.001)
    assert found.review < found.known
    lax = openset.threshold(np.linspace(-1, 1, 4000), 4000, 0.999)
    assert lax.review <= lax.known


def test_one_double_moves_the_threshold_little():
    rng = np.random.default_rng(0)
    scores, like = rng.normal(0, 0.1, 4000), rng.normal(0.1, 0.1, 60)
    plain, doubled = (openset.threshold(scores, 4000, 0.01, own, 20).known for own in (like, np.append(like[:-2], [1, 1])))
    assert doubled == pytest.approx(plain, abs=0.02)


def test_a_cohort_of_thousands_is_never_exhausted_by_its_most_alike_stranger():
    scores = np.append(np.linspace(0, 0.5, 3999), 0.99)
    assert openset.threshold(scores, 4000, 0.0001).known < 0.51 + openset.DRIFT


def test_synthetic_strangers_are_as_alike_as_real_ones():
    rng = np.random.default_rng(0)
    kinds = np.repeat(rng.normal(size=(2, 16)), 400, axis=0)
    real = unit(kinds + 0.7 * rng.normal(size=(800, 16)))
    made = openset.synthetic(real)
    assert made.shape == (3 * 800, 16)
    assert made.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(made, axis=1), 1, atol=1e-5)
    above = [np.quantile((rows @ real.T).ravel(), [0.1, 0.5, 0.9, 0.99]) for rows in (unit(kinds + 0.7 * rng.normal(size=(800, 16))), made)]
    np.testing.assert_allclose(*above, atol=0.05)
    assert (made @ real.T).max() < 0.999, "nobody real is among them"


def test_a_calibrated_probability_is_the_share_that_is_right():
    rng = np.random.default_rng(0)
    genuine, impostors = rng.normal(0.9, 0.02, 3000), rng.normal(0.83, 0.02, 3000)
    probability = openset.calibrate(genuine[:500], impostors[:1000])
    told = np.array([probability(score) for score in np.concatenate([genuine, impostors])])
    for mean, share, count in openset.reliability(told, np.arange(6000) < 3000):
        assert count < 30 or share == pytest.approx(mean, abs=0.12)


def test_a_probability_never_falls_with_the_score_and_is_none_without_evidence():
    assert openset.calibrate(np.full(20, 0.1), np.full(20, 0.9)).slope == 0
    assert openset.calibrate(np.array([0.9] * 4), np.zeros(100)) is None
    assert openset.calibrate(np.zeros(0), np.zeros(100)) is None


def test_reliability_counts_each_bin():
    told, right = np.array([0.05, 0.95, 1.0, 0.91]), np.array([False, True, True, False])
    assert openset.reliability(told, right) == [(0.05, 0.0, 1), (pytest.approx(0.9533, abs=1e-3), pytest.approx(2 / 3), 3)]


def bundle_with(path: Path, **arrays: np.ndarray) -> Bundle:
    np.savez(path / openset.COHORT, **arrays)
    return Bundle(path, {"dimension": 8})


def test_a_cohort_is_read_from_the_bundle(tmp_path: Path):
    rows = np.random.default_rng(0).integers(-50, 50, (30, 8)).astype(np.int8)
    cohort = openset.load(bundle_with(tmp_path, embeddings=rows))
    assert (cohort.embeddings.shape, cohort.strangers) == ((30, 8), 30)
    np.testing.assert_allclose(np.linalg.norm(cohort.embeddings, axis=1), 1, atol=1e-6)
    assert openset.load(bundle_with(tmp_path, embeddings=rows, strangers=np.array(10))).strangers == 10


def test_a_bundle_without_a_cohort_or_with_a_damaged_one(tmp_path: Path):
    assert openset.load(Bundle(tmp_path, {"dimension": 8})) is None
    for arrays in ({"rows": np.ones((3, 8))}, {"embeddings": np.ones((3, 7))}, {"embeddings": np.ones((3, 8)), "strangers": np.array(4)}):
        with pytest.raises(StoredError, match=openset.COHORT):
            openset.load(bundle_with(tmp_path, **arrays))
    (tmp_path / openset.COHORT).write_bytes(b"nothing")
    with pytest.raises(StoredError, match="damaged"):
        openset.load(Bundle(tmp_path, {"dimension": 8}))


def test_the_shipped_cohort_carries_a_rate_of_one_percent(bundle_path: Path):
    cohort = openset.load(bundle.load(bundle_path))
    assert cohort is not None
    assert openset.rank(cohort.strangers, 0.01) >= openset.LUCK
