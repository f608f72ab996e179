"""What is asked of an encoder while it trains, against slow loops over its definition."""

import math

import cv2
import numpy as np
import pytest

from device.program import InputError
from train import probes


@pytest.fixture
def rows() -> np.ndarray:
    """Unit rows [40, 6] of five people who are somewhat apart, and whose they are."""
    rng = np.random.default_rng(0)
    rows = np.repeat(rng.normal(size=(5, 6)), 8, axis=0) + rng.normal(size=(40, 6))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


PEOPLE = np.repeat(np.arange(5), 8)


def test_effective_rank_is_rankme(rows):
    """arXiv:2210.02885, equations 1 and 2, from the eigenvalues of the scatter."""
    singular = [math.sqrt(max(value, 0.0)) for value in np.linalg.eigvalsh(rows.T @ rows)]
    entropy = 0.0
    for value in singular:
        share = value / sum(singular) + 1e-7
        entropy -= share * math.log(share)
    assert probes.effective_rank(rows) == pytest.approx(math.exp(entropy), rel=1e-5)
    assert probes.effective_rank(np.eye(8)) == pytest.approx(8, rel=1e-4), "all directions alike"
    assert probes.effective_rank(np.ones((50, 8))) == pytest.approx(1, abs=1e-3), "collapsed"


def test_alignment(rows):
    left, right = rows[:20], rows[20:]
    distances = [sum((a - b) ** 2 for a, b in zip(one, two, strict=True)) for one, two in zip(left, right, strict=True)]
    assert probes.alignment(left, right) == pytest.approx(sum(distances) / 20)
    assert probes.alignment(left, left) == 0


def test_uniformity(rows):
    told = []
    for i in range(len(rows)):
        for j in range(i):
            told.append(math.exp(-2 * sum((a - b) ** 2 for a, b in zip(rows[i], rows[j], strict=True))))
    assert probes.uniformity(rows) == pytest.approx(math.log(sum(told) / len(told)))
    assert probes.uniformity(np.ones((9, 1))) == pytest.approx(0), "collapsed"
    spread = np.random.default_rng(0).normal(size=(500, 128))
    assert probes.uniformity(spread / np.linalg.norm(spread, axis=1, keepdims=True)) < -3.8


@pytest.mark.parametrize("count", [1, 5, 100])
def test_nearest_neighbours_vote(rows, count, monkeypatch):
    monkeypatch.setattr(probes, "BLOCK", 16)  # the last block is not full
    right = 0
    for i, row in enumerate(rows):
        others = sorted(((float(row @ other), PEOPLE[j]) for j, other in enumerate(rows) if j != i), reverse=True)[:count]
        votes = {person: sum(math.exp(cosine / 0.07) for cosine, owner in others if owner == person) for person in range(5)}
        right += max(votes, key=votes.__getitem__) == PEOPLE[i]
    assert probes.neighbours_accuracy(rows, PEOPLE, count) == pytest.approx(right / 40)
    assert 0.3 < right / 40 < 1, "the figure is neither chance nor perfect"


def test_who_has_one_picture_is_left_out(tmp_path):
    for person, shade, pictures in (("Ada", 50, 3), ("Bob", 120, 2), ("Eve", 200, 1)):
        (tmp_path / "people" / person).mkdir(parents=True)
        for number in range(pictures):
            cv2.imwrite(str(tmp_path / "people" / person / f"{number}.png"), np.full((112, 112, 3), shade + number, np.uint8))
    probe = probes.NeighbourProbe.read(tmp_path / "people")
    assert probe.people.tolist() == [0, 0, 0, 1, 1]

    def brightness(crops):
        angle = crops.mean(axis=(1, 2, 3)) / 100
        return np.stack([np.cos(angle), np.sin(angle)], axis=1)

    assert probe(brightness) == {"knn": 1.0}
    table = tmp_path / "who.csv"
    table.write_text("picture,identity\npeople/Ada/0,x\npeople/Eve/0,x\npeople/Bob/0,y\npeople/Bob/1,y\n")
    assert probes.NeighbourProbe.read(tmp_path / "people", table).people.tolist() == [0, 1, 1, 0]
    table.write_text("picture,identity\npeople/Ada/0,x\npeople/Ada/1,x\npeople/Bob/0,y\n")
    with pytest.raises(InputError, match="fewer than two people"):
        probes.NeighbourProbe.read(tmp_path / "people", table)
