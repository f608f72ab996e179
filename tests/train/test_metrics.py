import numpy as np
import pytest
from hypothesis import given
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
