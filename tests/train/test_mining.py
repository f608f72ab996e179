"""Which triplets count, against loops over all triplets of a batch."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device.program import InputError
from train.objectives import mining
from train.objectives.base import squared_distances

MARGIN = 0.2
labels_of = st.lists(st.integers(0, 3), min_size=1, max_size=9)


def slow(labels, squares):
    """{mining: (gap of each triplet that it chooses)}."""
    n = range(len(labels))
    positives = {a: [p for p in n if p != a and labels[p] == labels[a]] for a in n}
    negatives = {a: [x for x in n if labels[x] != labels[a]] for a in n}
    every, hard, semi = [], [], []
    for a in n:
        every += [squares[a, p] - squares[a, x] for p in positives[a] for x in negatives[a]]
        if positives[a] and negatives[a]:
            hard.append(max(squares[a, p] for p in positives[a]) - min(squares[a, x] for x in negatives[a]))
            for p in positives[a]:
                farther = [squares[a, x] for x in negatives[a] if squares[a, x] > squares[a, p]]
                semi.append(squares[a, p] - (min(farther) if farther else max(squares[a, x] for x in negatives[a])))
    return {"batch-all": every, "batch-hard": hard, "semi-hard": semi}


@settings(deadline=None, max_examples=40)
@given(labels_of, st.integers(0, 100))
def test_the_chosen_triplets_and_the_active_share_are_those_of_a_loop(labels, seed):
    labels = np.array(labels, np.int32)
    squares = squared_distances(np.random.default_rng(seed).normal(size=(len(labels), 3)).astype(np.float32))
    for name, expected in slow(labels, squares).items():
        gaps, valid = mining.MINING[name](squares, labels)
        np.testing.assert_allclose(np.sort(np.asarray(gaps)[np.asarray(valid)]), np.sort(expected), atol=1e-6, err_msg=name)
        _, active = mining.hinge(gaps, valid, MARGIN)
        share = np.mean([gap + MARGIN > 0 for gap in expected]) if expected else 0.0
        assert float(active) == pytest.approx(share, abs=1e-6), name


def test_the_figures_of_a_batch():
    rows = np.array([[1, 0], [2, 0], [0, 1], [0, -3]], np.float32)
    figures = mining.batch_figures(squared_distances(rows), np.array([0, 0, 1, 1], np.int32))
    assert float(figures["distance_positive"]) == pytest.approx((0 + 2) / 2, abs=1e-6)
    assert float(figures["distance_negative"]) == pytest.approx(np.sqrt(2))


def test_an_unknown_mining():
    with pytest.raises(InputError, match="choose one of batch-all, batch-hard, semi-hard"):
        mining.chosen("hardest")


@pytest.mark.parametrize("name", mining.MINING)
def test_equal_embeddings_leave_the_loss_at_its_margin_and_are_called_stuck(name):
    labels = np.repeat(np.arange(4), 3).astype(np.int32)
    rows = np.ones((12, 5), np.float32) + 1e-3 * np.random.default_rng(0).normal(size=(12, 5)).astype(np.float32)
    squares = squared_distances(rows)
    loss, active = mining.hinge(*mining.MINING[name](squares, labels), MARGIN)
    assert float(loss) == pytest.approx(MARGIN, abs=1e-3) and float(active) == 1
    said = mining.stuck({key: float(value) for key, value in mining.batch_figures(squares, labels).items()})
    assert said is not None and said.startswith("STUCK: all embeddings are equal") and "\n" not in said


def test_what_is_not_stuck():
    assert mining.stuck({"distance_negative": 0.57, "distance_positive": 0.5}) is None, "dlib's embeddings share most of their length"
    assert mining.stuck({"loss": 0.2}) is None, "an objective without distances"
    assert mining.stuck({"distance_negative": float("nan")}) is None, "that is for the caller to see"
