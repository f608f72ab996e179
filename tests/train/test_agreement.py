"""Measures of clusters: against their definitions in slow loops, and scikit-learn's."""

import itertools

import numpy as np
import pytest
from sklearn.metrics import normalized_mutual_info_score

from train.graph.agreement import agreement, bcubed, nmi

RNG = np.random.default_rng(0)
CASES = [(RNG.integers(0, 4, 30), RNG.integers(0, 6, 30)), (np.arange(9), np.arange(9) // 2), (np.zeros(5, int), np.arange(5))]


def slow_bcubed(clusters, people):
    precision, recall = [], []
    for c, p in zip(clusters, people, strict=True):
        both = ((clusters == c) & (people == p)).sum()
        precision.append(both / (clusters == c).sum())
        recall.append(both / (people == p).sum())
    return np.mean(precision), np.mean(recall)


def slow_pairwise(clusters, people):
    pairs = list(itertools.combinations(range(len(people)), 2))
    together = [clusters[i] == clusters[j] for i, j in pairs]
    same = [people[i] == people[j] for i, j in pairs]
    right = sum(t and s for t, s in zip(together, same, strict=True))
    return 2 * right / (sum(together) + sum(same))


@pytest.mark.parametrize(("clusters", "people"), CASES)
def test_they_follow_their_definitions(clusters, people):
    found = agreement(clusters, people)
    precision, recall = slow_bcubed(clusters, people)
    assert bcubed(clusters, people) == pytest.approx((precision, recall))
    assert found.bcubed == pytest.approx(2 * precision * recall / (precision + recall))
    assert found.pairwise == pytest.approx(slow_pairwise(clusters, people))
    assert (found.found, found.true) == (len(set(clusters)), len(set(people)))


@pytest.mark.parametrize(("clusters", "people"), CASES)
def test_the_mutual_information_is_scikit_learns(clusters, people):
    assert nmi(clusters, people) == pytest.approx(normalized_mutual_info_score(people, clusters), abs=1e-9)


def test_right_clusters_score_one_whatever_they_are_called():
    people = np.array([3, 3, 1, 1, 1, 2])
    found = agreement(np.array([0, 0, 7, 7, 7, 5]), people)
    assert (found.pairwise, found.bcubed, found.nmi) == pytest.approx((1, 1, 1))
    assert agreement(people, np.array([0, 0, 7, 7, 7, 5])).bcubed == pytest.approx(1)


def test_nobody_twice_and_all_alone_is_right_too():
    assert agreement(np.arange(4), np.arange(4)).pairwise == 1
