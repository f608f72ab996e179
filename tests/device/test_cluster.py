"""Clusters of embeddings: neighbours, sub-graphs, joining, the linker in NumPy, and what is said where it cannot be done."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device import bundle, cluster, linker
from device.agglomerate import agglomerate, by_size
from device.cluster import LARGEST, Method
from device.convolutions import CONVOLUTIONS
from device.linker import Linker, Scale, Shape, features
from device.neighbours import nearest, subgraphs
from device.program import InputError, StoredError


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def people(count: int, pictures: int, noise: float = 0.3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings of `count` people, float32 unit [N, 16], and whose they are."""
    rng = np.random.default_rng(seed)
    whose = np.repeat(np.arange(count), pictures)
    return unit(unit(rng.standard_normal((count, 16)))[whose] + noise * rng.standard_normal((len(whose), 16)) / 4), whose


@pytest.mark.parametrize("block", [1, 50, 1 << 24])
@pytest.mark.parametrize("most", [1, 4, 19, 40])
def test_the_nearest_are_the_nearest(monkeypatch, block, most):
    monkeypatch.setattr("device.neighbours.BLOCK", block)
    rows = unit(np.random.default_rng(1).standard_normal((20, 8)))
    found, cosines = nearest(rows, most)
    expected = np.argsort(-(rows @ rows.T - 9 * np.eye(20)), axis=1)[:, : min(most, 19)]
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(cosines, np.take_along_axis(rows @ rows.T, expected, axis=1), atol=1e-6)


@pytest.mark.parametrize("count", [0, 1])
def test_nobody_and_somebody_alone_have_no_neighbours(count):
    found, cosines = nearest(np.ones((count, 3), np.float32), 5)
    assert found.shape == cosines.shape == (count, 0)


def test_a_subgraph_holds_neighbours_and_theirs_and_the_links_among_them():
    rows, _ = people(3, 5)
    neighbours, _ = nearest(rows, 4)
    pivots = np.array([7, 0, 14])
    parts = subgraphs(neighbours, pivots, 2, 3)
    for b, pivot in enumerate(pivots):
        members = {int(pivot), *neighbours[pivot].tolist(), *neighbours[neighbours[pivot], :2].ravel().tolist()}
        nodes = [node for node in parts.nodes[b].tolist() if node >= 0]
        assert nodes == sorted(members)
        assert parts.nodes[b, parts.pivots[b]] == pivot
        assert parts.nodes[b, parts.hops[b]].tolist() == neighbours[pivot].tolist()
        for (i, one), (j, other) in itertools.product(enumerate(nodes), repeat=2):
            linked = other in neighbours[one, :3] or one in neighbours[other, :3]
            assert parts.adjacency[b, i, j] == linked
        assert not parts.adjacency[b, len(nodes) :].any()


def slow_agglomerate(neighbours: np.ndarray, likeness: np.ndarray, least: float) -> list[set[int]]:
    """The definition, every pair looked at in every step."""
    count, k = neighbours.shape
    links = np.zeros((count, count))
    for i in range(count):
        links[i, neighbours[i]] = likeness[i]
    clusters = [{i} for i in range(count)]

    def alike(a, b):
        pairs = len(a) * len(b)
        both = sum(links[i, j] + links[j, i] for i in a for j in b)
        return both / (min(pairs, k * len(a)) + min(pairs, k * len(b)))

    while True:
        best = max(
            ((alike(a, b), a, b) for a, b in itertools.combinations(clusters, 2)), key=lambda entry: entry[0], default=(0, None, None)
        )
        if best[1] is None or best[0] < least:
            return clusters
        clusters = [c for c in clusters if c not in best[1:]] + [best[1] | best[2]]


@given(st.integers(0, 10_000), st.integers(1, 6), st.sampled_from([0.1, 0.3, 0.6]))
@settings(max_examples=25, deadline=None)
def test_clusters_are_joined_as_defined(seed, k, least):
    rng = np.random.default_rng(seed)
    neighbours = np.stack([rng.permutation([j for j in range(9) if j != i])[:k] for i in range(9)])
    likeness = rng.random((9, k))
    found = agglomerate(neighbours, likeness, least)
    assert {frozenset(np.flatnonzero(found == c).tolist()) for c in set(found)} == set(
        map(frozenset, slow_agglomerate(neighbours, likeness, least))
    )


def test_a_person_with_more_pictures_than_neighbours_stays_whole():
    rows, whose = people(2, 60, noise=0.1)
    neighbours, cosines = nearest(rows, 10)
    assert by_size(agglomerate(neighbours, (cosines > 0.8).astype(float), 0.1)).max() == whose.max()


def test_clusters_are_numbered_by_size():
    assert by_size(np.array([5, 2, 2, 9, 9, 9, 1])).tolist() == [2, 1, 1, 0, 0, 0, 3]


@pytest.fixture
def network() -> Linker:
    """A linker that goes by the cosine alone: what the network's other inputs say is 0."""
    weights = {"conv0.kernel": np.zeros((34, 2), np.float32), "conv0.bias": np.zeros(2, np.float32)}
    weights["conv0.kernel"][16] = 1, -1  # the cosine, above and below the usual
    weights |= {"hidden.kernel": np.eye(2, dtype=np.float32), "hidden.bias": np.zeros(2, np.float32)}
    weights |= {"logit.kernel": np.array([[3.0], [-3.0]], np.float32), "logit.bias": np.zeros(1, np.float32)}
    facts = {"encoder": "e" * 16, "linker_from": 20, "layers": 1, "scale": {"centre": 0.6, "spread": 0.2}}
    methods = {"linker": {"least": 0.4, "slope": 5.0, "size": 0.0, "offset": -2.0}, "average": {"least": 0.5}}
    return Linker(weights, facts | {"made": {"conv": "graphsage"}, "methods": methods, "shape": {"first": 6, "second": 2, "links": 3}})


def test_the_linker_and_average_linkage_find_the_people(network):
    rows, whose = people(4, 6)
    methods = {name: Method(name, **facts) for name, facts in network.facts["methods"].items()}
    for found in (cluster.linked(rows, methods["linker"], network), cluster.average(rows, methods["average"])):
        assert len(found) == 4
        assert all(len(set(whose[found.members(number)])) == 1 for number in range(4))
    assert cluster.linked(rows, methods["linker"], network).purity.min() > 0.8
    assert found.purity is None


def test_average_linkage_is_scikit_learns():
    from sklearn.cluster import AgglomerativeClustering

    rows, _ = people(5, 6, noise=1.2)
    theirs = AgglomerativeClustering(None, metric="cosine", linkage="average", distance_threshold=0.5).fit_predict(rows)
    np.testing.assert_array_equal(cluster.average(rows, Method("average", 0.5)).labels, by_size(theirs))


def test_the_bundle_says_from_how_many_pictures_the_linker_is_used(network, tmp_path, monkeypatch):
    network.save(tmp_path / "linker.npz")
    used = bundle.Bundle(tmp_path, {"encoder": "e" * 16, "dimension": 16})
    asked: list[str] = []
    monkeypatch.setattr(cluster, "METHODS", {name: lambda rows, method, found: asked.append(method.name) for name in ("linker", "average")})
    for pictures, name in ((19, None), (20, None), (LARGEST + 1, None), (19, "linker"), (20, "average")):
        cluster.cluster(np.zeros((pictures, 16), np.float32), used, name)
    assert asked == ["average", "linker", "linker", "linker", "average"]


def test_a_mixed_cluster_is_less_cohesive():
    neighbours = np.array([[1, 2], [0, 2], [0, 1], [4, 5], [3, 5], [3, 4]])
    likeness = np.array([[0.9, 0.9]] * 3 + [[0.3, 0.2]] * 3)
    found = cluster.finished(np.array([0, 0, 0, 1, 1, 1]), neighbours, likeness, Method("linker", 0.1, 5.0, 0.0, -2.0))
    assert found.cohesion == pytest.approx([0.9, 0.25])
    assert found.purity[0] > 0.9 > 0.5 > found.purity[1]


def test_a_stored_linker_says_the_same(network, tmp_path):
    rows, _ = people(3, 6)
    neighbours, _ = nearest(rows, 6)
    network.save(tmp_path / "linker.npz")
    again = linker.read(tmp_path / "linker.npz", "e" * 16, 16)
    np.testing.assert_allclose(again.likeness(rows, neighbours), network.likeness(rows, neighbours), atol=1e-3)


def test_a_linker_of_another_encoder_is_refused(network, tmp_path):
    network.save(tmp_path / "linker.npz")
    with pytest.raises(StoredError, match=f"belongs to encoder {'e' * 16}, the bundle's is {'f' * 16}: train it anew"):
        linker.read(tmp_path / "linker.npz", "f" * 16, 16)
    with pytest.raises(StoredError, match="is damaged"):
        linker.read(tmp_path / "linker.npz", "e" * 16, 128)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04nothing", b"{}"])
def test_a_damaged_linker_is_told(tmp_path, content):
    (tmp_path / "linker.npz").write_bytes(content)
    with pytest.raises(StoredError, match=r"linker\.npz is damaged"):
        linker.read(tmp_path / "linker.npz", "e" * 16, 16)


@pytest.mark.parametrize("conv", sorted(CONVOLUTIONS))
def test_the_numpy_network_is_the_keras_network(conv, tmp_path):
    from train.graph import network as trained
    from train.graph.training import Chosen, Settings, Trained

    rows, _ = people(6, 8, noise=1.0)
    shape, scale = Shape(7, 2, 3), Scale(0.5, 0.2)
    settings_ = Settings(conv, shape, units=8)
    model = trained.build(conv, 17, 8, 2)
    for weight in model.weights:
        weight.assign(np.random.default_rng(3).normal(0, 0.3, weight.shape))
    graph_, keras_says = Trained(settings_, model, scale, []).likeness(rows)
    made = Trained(settings_, model, scale, []).linker("e" * 16, Chosen({"linker": Method("linker", 0.1)}, 9, {}))
    np.testing.assert_allclose(made.likeness(rows, graph_), keras_says, atol=2e-5)
    made.save(tmp_path / "linker.npz")
    assert linker.read(tmp_path / "linker.npz", "e" * 16, 16).conv == conv


def test_features_are_seen_from_the_pivot():
    rows, _ = people(3, 5)
    neighbours, _ = nearest(rows, 4)
    parts = subgraphs(neighbours, np.array([2, 9]), 2, 3)
    found = features(rows, parts, Scale(0.5, 0.25))
    for b, pivot in enumerate((2, 9)):
        assert not found[b, parts.pivots[b], :-1].any()
        assert found[b, parts.pivots[b], -1] == pytest.approx((1 - 0.5) / 0.25)
        for place, node in enumerate(parts.nodes[b]):
            expected = np.zeros(17) if node < 0 else np.append((rows[node] - rows[pivot]) * 4, (rows[node] @ rows[pivot] - 0.5) * 4)
            np.testing.assert_allclose(found[b, place], expected, atol=1e-5)


def test_too_many_for_average_linkage_are_refused():
    with pytest.raises(InputError, match=rf"{LARGEST + 1} faces are more than {LARGEST}: use --method linker"):
        cluster.average(np.zeros((LARGEST + 1, 2), np.float32), Method("average", 0.5))


@pytest.mark.parametrize("count", [1, 2])
def test_one_and_two_are_clusters_too(network, count):
    rows = unit(np.ones((count, 16)) + 0.01 * np.arange(count)[:, None] * np.arange(16))
    for found in (cluster.linked(rows, Method("linker", 0.1), network), cluster.average(rows, Method("average", 0.5))):
        assert len(found) == 1


def test_a_bundle_without_a_linker_clusters_by_its_threshold(tmp_path):
    used = bundle.Bundle(tmp_path, {"encoder": "e" * 16, "dimension": 16, "thresholds": [{"far": bundle.FAR, "threshold": 0.5}]})
    rows, _ = people(4, 6)
    assert len(cluster.cluster(rows, used)) == 4
    with pytest.raises(InputError, match=r"holds no linker\.npz: use --method average"):
        cluster.cluster(rows, used, "linker")
