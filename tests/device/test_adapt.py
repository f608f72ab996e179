"""The classifier that adapts, as the recogniser uses it: its threshold comes from the same cohort as everybody's."""

from pathlib import Path

import numpy as np
import pytest

from device import adapt
from device.adapt import Adapted, Head
from device.bundle import Bundle
from device.known import ADAPTED, Judge
from device.openset import COHORT
from device.program import InputError

DIMENSION = 16
ENCODER = "0123456789abcdef"
RNG = np.random.default_rng(0)


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


PEOPLE = unit(RNG.normal(size=(6, DIMENSION)))
ROWS = unit(PEOPLE.repeat(4, axis=0) + 0.1 * RNG.normal(size=(24, DIMENSION)))
NAMES = [name for name in "abcdef" for _ in range(4)]
STRANGERS = unit(RNG.normal(size=(400, DIMENSION)))


@pytest.fixture
def used(tmp_path: Path) -> Bundle:
    """A bundle with a cohort and a head."""
    np.savez(tmp_path / COHORT, embeddings=np.round(STRANGERS * 127).astype(np.int8))
    centre = np.zeros(DIMENSION, np.float32)
    Head(np.eye(DIMENSION, dtype=np.float32), centre, 10.0, (0.01, 0.1), 3, {"encoder": ENCODER}).save(tmp_path / adapt.FILE)
    facts = {"encoder": ENCODER, "dimension": DIMENSION, "preprocessing": {"version": 1}}
    return Bundle(tmp_path, {**facts, "thresholds": [{"far": 0.001, "threshold": 0.8}]})


def test_it_names_people_and_keeps_the_promise_on_the_cohort(used: Bundle):
    judge = Judge.of(used, 0.05, ADAPTED)
    assert isinstance(judge.train(ROWS, NAMES), Adapted)
    decider, threshold = judge.judge(ROWS, NAMES)
    assert threshold is not None
    assert [decider.decide(row).name for row in PEOPLE] == list("abcdef")
    named = np.mean([decider.decide(row).name is not None for row in STRANGERS])
    assert named <= 0.05
    assert decider.decide(PEOPLE[0]).probability > 0.5


def test_a_bundle_without_a_head_or_a_cohort_is_told(used: Bundle):
    (used.path / COHORT).unlink()
    with pytest.raises(InputError, match="no cohort, which its threshold rests on: use --classifier knn"):
        Judge.of(used, classifier=ADAPTED)
    (used.path / adapt.FILE).unlink()
    with pytest.raises(InputError, match=r"no head\.npz, from which the classifier adapts: use --classifier knn, or learn one"):
        Judge.of(used, classifier=ADAPTED)


def test_nobody_is_enrolled_yet(used: Bundle):
    decider, threshold = Judge.of(used, classifier=ADAPTED).judge(ROWS[:0], [])
    assert (decider.decide(PEOPLE[0]).decision, threshold) == ("unknown", None)
