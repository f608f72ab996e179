import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device.search import Index


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 200), st.integers(1, 150), st.integers(1, 5))
def test_the_best_people_are_those_of_a_slow_search(seed, count, people, k):
    random = np.random.default_rng(seed)
    rows, probe = unit(random.normal(size=(count, 6))), unit(random.normal(size=6))
    names = [f"person {number}" for number in random.integers(0, people, count)]
    slow = {name: np.mean(sorted(rows[[owner == name for owner in names]] @ probe)[-k:]) for name in set(names)}
    found = Index(rows, names).best(probe, most=3, k=k)
    assert [score for _, score in found] == pytest.approx(sorted(slow.values(), reverse=True)[:3], abs=1e-6)
    assert all(score == pytest.approx(slow[name], abs=1e-6) for name, score in found)


def test_the_nearest_templates_come_best_first_with_their_place():
    rows = unit(np.array([[1.0, 0.2], [0.0, 1.0], [1.0, 0.0], [-1.0, 0.0]]))
    index = Index(rows, ["B", "A", "B", "A"])
    places, scores = index.nearest(np.array([1, 0], np.float32), 3)
    assert places.tolist() == [2, 0, 1] and scores == pytest.approx([1, rows[0, 0], 0])
    assert index.nearest(np.array([1, 0], np.float32), 9)[0].tolist() == [2, 0, 1, 3]


def test_nobody_is_found_among_nobody():
    empty = Index(np.zeros((0, 4), np.float32), [])
    probe = np.ones(4, np.float32) / 2
    assert len(empty) == 0 and empty.best(probe) == [] and len(empty.nearest(probe, 3)[0]) == 0
    with pytest.raises(ValueError, match="1 embeddings and 0 names"):
        Index(np.ones((1, 4), np.float32), [])


def test_all_people_are_looked_at_where_all_are_alike():
    rows = np.tile(np.array([[0.6, 0.8]], np.float32), (300, 1))
    found = Index(rows, [f"{number:03}" for number in range(300)]).best(rows[0], most=300)
    assert sorted(name for name, _ in found) == [f"{number:03}" for number in range(300)]
