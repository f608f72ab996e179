import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from train import metrics

pairs = st.lists(st.tuples(st.integers(-20, 20), st.booleans()), min_size=2, max_size=30)


@given(pairs)
def test_no_threshold_is_better_than_the_best(rows):
    scores, same = np.array([r[0] / 20 for r in rows]), np.array([r[1] for r in rows])
    best = ((scores >= metrics.best_threshold(scores, same)) == same).mean()
    for threshold in [*scores, scores.max() + 1]:
        assert best >= ((scores >= threshold) == same).mean()


def test_threshold_of_each_fold_comes_from_the_others():
    """Two folds that each part well, at thresholds that differ: judged by the other's, one of them fails on a pair."""
    scores = np.array([0.9, 0.3, 0.8, 0.6])
    same = np.array([True, False, True, False])
    result = metrics.verification(scores, same, np.array([0, 0, 1, 1]))
    np.testing.assert_allclose(result.thresholds, [0.7, 0.6])
    assert result.folds.tolist() == [1.0, 0.5]
    assert result.correct.tolist() == [True, True, True, False]


def test_figures_against_slow_definitions():
    rng = np.random.default_rng(0)
    same = rng.random(400) < 0.5
    scores = rng.normal(size=400) + 1.5 * same
    result = metrics.verification(scores, same, np.repeat(np.arange(10), 40))
    genuine, impostor = scores[same], scores[~same]
    assert result.auc == pytest.approx(np.mean([[g > i for i in impostor] for g in genuine]), abs=1e-9)
    rates = []
    for threshold in sorted(scores):
        far, frr = np.mean(impostor >= threshold), np.mean(genuine < threshold)
        rates.append((abs(far - frr), (far + frr) / 2))
    assert result.eer == pytest.approx(min(rates)[1], abs=0.01)
    for far in (0.01, 0.001):
        reachable = [np.mean(genuine >= t) for t in scores if np.mean(impostor >= t) <= far]
        assert result.tar[far] == pytest.approx(max(reachable), abs=1e-9)
    assert result.std == pytest.approx(np.std(result.folds, ddof=1))


def test_paired_bootstrap_covers_the_truth_and_narrows_with_agreement():
    rng = np.random.default_rng(1)
    first = rng.random(6000) < 0.9
    second = np.where(rng.random(6000) < 0.02, ~first, first)
    mean, low, high = metrics.paired_bootstrap(first, second)
    assert low < mean < high
    assert mean == pytest.approx(first.mean() - second.mean())
    assert metrics.paired_bootstrap(first, first) == (0.0, 0.0, 0.0)
    indices = rng.integers(0, 6000, (1000, 6000))  # the same, drawn pair by pair
    slow = np.percentile((first.astype(float) - second)[indices].mean(axis=1), (2.5, 97.5))
    np.testing.assert_allclose((low, high), slow, atol=5e-4)


def test_parity_of_equal_and_of_opposite_rows():
    rows = np.eye(4)
    assert metrics.parity(rows, rows) == (1.0, 1.0)
    assert metrics.parity(rows, -rows) == (-1.0, -1.0)


def test_the_curve_runs_from_strict_to_lax():
    rng = np.random.default_rng(0)
    same = rng.random(200) < 0.5
    far, tar = metrics.verification(rng.normal(size=200) + same, same, np.zeros(200)).curve
    assert (far[0], tar[0], far[-1], tar[-1]) == (0, 0, 1, 1)
    assert (np.diff(far) >= 0).all() and (np.diff(tar) >= 0).all()


def searches(rng, seeds: int = 4, probes: int = 30, strangers: int = 50) -> list[metrics.Searches]:
    return [
        metrics.Searches(rng.integers(0, 30, probes) / 30 + 0.2, rng.random(probes) < 0.9, rng.integers(0, 30, strangers) / 30)
        for _ in range(seeds)
    ]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([0.005, 0.01, 0.05, 0.3]))
def test_identification_against_its_definition(seed, far):
    """The threshold is the lowest at which no more strangers than allowed score above it; many scores are tied."""
    found = searches(np.random.default_rng(seed))
    result = metrics.identification(found, (far,), draws=2)
    strangers = np.concatenate([entry.strangers for entry in found])
    allowed = [t for t in strangers if sum(s > t for s in strangers) <= far * len(strangers) + 1e-9]
    assert result.thresholds[far] == min(allowed)
    hits = [right and score > min(allowed) for entry in found for score, right in zip(entry.scores, entry.right, strict=True)]
    assert result.dir[far].mean == pytest.approx(np.mean(hits))
    assert result.rank1.mean == pytest.approx(np.mean(np.concatenate([entry.right for entry in found])))


def test_identification_resamples_whole_seeds():
    found = searches(np.random.default_rng(0), seeds=6)
    result = metrics.identification(found, (0.05,), draws=500, seed=3)
    draw = np.random.default_rng(3).multinomial(6, np.full(6, 1 / 6), 500)[17]
    again = metrics.identification([entry for entry, times in zip(found, draw, strict=True) for _ in range(times)], (0.05,), draws=1)
    assert result.dir[0.05].samples[17] == pytest.approx(again.dir[0.05].mean)
    assert result.rank1.samples[17] == pytest.approx(again.rank1.mean)
    assert result.rank1.low <= result.rank1.mean <= result.rank1.high
    one = metrics.identification(found[:1], (0.05,)).dir[0.05]
    assert one.low == one.mean == one.high, "one seed says nothing about other seeds"


def test_a_rate_below_one_stranger_is_left_out():
    assert list(metrics.identification(searches(np.random.default_rng(0)), (0.01, 0.001)).dir) == [0.01]


def test_a_share_of_itself_is_one_without_doubt():
    rate = metrics.identification(searches(np.random.default_rng(0)), (0.05,)).dir[0.05]
    same = rate.over(rate)
    assert same is not None and same.as_json() == {"mean": 1.0, "low": 1.0, "high": 1.0}
    assert rate.over(metrics.Estimate(0.1, np.array([0.2, 0.0]))) is None, "nothing is a share of nothing"


def test_match_rate_against_pictures_drawn_one_by_one():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(60, 8))
    match = rows @ rows.T > 2
    estimate = metrics.match_rate(match, draws=2000)
    assert estimate.mean == pytest.approx(np.mean([match[i, j] for i in range(60) for j in range(60) if i != j]))
    slow = []
    for _ in range(300):
        drawn = rng.integers(0, 60, 60)
        slow.append(np.mean([match[i, j] for i in drawn for j in drawn if i != j]))
    assert estimate.samples.mean() == pytest.approx(np.mean(slow), rel=0.05)
    assert estimate.samples.std() == pytest.approx(np.std(slow), rel=0.15)


def test_no_match_at_all_still_has_a_bound():
    estimate = metrics.match_rate(np.eye(200, dtype=bool))
    assert (estimate.mean, estimate.low) == (0.0, 0.0)
    assert estimate.high == pytest.approx(3.69 / 100, rel=0.02)  # of 100 disjoint pairs; the rule of three, two-sided
