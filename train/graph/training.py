"""A linker from labelled embeddings, and everything about clustering that is chosen by people rather than by hand."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import numpy as np
import tf_keras as keras

from device import cluster
from device.cluster import LARGEST, Clusters, Method
from device.linker import CONVOLUTION, Linker, Scale, Shape
from train.embedded import Embedded
from train.graph import baselines, network
from train.graph.agreement import bcubed

LIKENESS = np.concatenate([np.arange(0.01, 0.1, 0.01), np.arange(0.1, 0.92, 0.04)])  # thresholds of a mean likeness that are tried
FEW, MANY = 5, 50  # pictures of the people that thresholds are chosen by
FEWEST = 500  # pictures for the linker: in smaller collections of LFW average linkage was as good or better (docs/few-labels.md)
COLLECTIONS, DRAWS = (3, 6, 12, 25, 50), 5  # people in collections that tell which method is for how many pictures, and how many each


@dataclass(frozen=True)
class Settings:
    """How a linker is trained: the network, its graphs, and the optimiser."""

    conv: str = CONVOLUTION
    shape: Shape = field(default_factory=lambda: Shape())
    units: int = 64
    layers: int = 2
    epochs: int = 3
    batch: int = 32
    rate: float = 2e-3
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Trained:
    settings: Settings
    model: keras.Model
    scale: Scale
    losses: list[float]

    def likeness(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The neighbours int32 [N, K] of embeddings float32 unit [N, D], and how likely each shows the same person [N, K]."""
        graph = network.Graph.of(rows, self.settings.shape)
        return graph.neighbours, network.predict(self.model, graph, self.settings.shape, self.scale)

    def linker(self, encoder: str, chosen: "Chosen", **made: Any) -> Linker:
        """For the device, with the encoder's id."""
        weights: dict[str, np.ndarray] = {}
        for layer in self.model.layers:
            weights |= {f"{layer.name}.{_name(variable)}": variable.numpy() for variable in layer.weights}
        told = {name: {k: v for k, v in asdict(method).items() if k != "name"} for name, method in chosen.methods.items()}
        shape = {"shape": asdict(self.settings.shape), "scale": asdict(self.scale), "layers": self.settings.layers}
        made = {"conv": self.settings.conv, **made}
        return Linker(weights, {"encoder": encoder, "linker_from": chosen.linker_from, "methods": told, **shape, "made": made})


def train(people: Embedded, settings: Settings) -> Trained:
    """Train on everybody in `people`, those with a single picture too: they are what nobody should be linked to."""
    keras.utils.set_random_seed(settings.seed)
    graph = network.Graph.of(people.rows, settings.shape)
    scale = Scale.of(graph.cosines)
    model = network.build(settings.conv, people.rows.shape[1] + 1, settings.units, settings.layers)
    how = settings.epochs, settings.batch, settings.rate, settings.seed
    return Trained(settings, model, scale, network.fit(model, graph, people.identities, settings.shape, scale, *how))


def best(partition: Callable[[float], np.ndarray], identities: np.ndarray, thresholds: Iterable[float]) -> tuple[float, float]:
    """The threshold whose clusters agree best with people `identities` int [N], by B-cubed F; and that F."""
    found = [(_f(partition(float(threshold)), identities), float(threshold)) for threshold in thresholds]
    score, threshold = max(found)
    return threshold, score


def cosines(rows: np.ndarray) -> np.ndarray:
    """Thresholds to try, float [40]: quantiles of the cosines of near neighbours and of strangers."""
    some = rows[np.random.default_rng(0).permutation(len(rows))[:1500]]
    each = (some @ some.T)[np.triu_indices(len(some), 1)]
    return np.unique(np.quantile(each, 1 - np.geomspace(1e-4, 0.2, 40)))


@dataclass(frozen=True)
class Chosen:
    """What the device's `methods` want to know, and from how many pictures on the linker is the better one; `scores`: the B-cubed F of
    each method, by the mean number of pictures of the collections that it was measured on."""

    methods: dict[str, Method]
    linker_from: int
    scores: dict[str, dict[str, float]]


def choose(likeness: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]], others: Embedded) -> Chosen:
    """Everything that is chosen by people `others` whom nothing was trained on. `likeness` is that of a linker (Trained.likeness)."""
    others = others.of_people(FEW, MANY)
    graph = likeness(others.rows)
    tree = baselines.average_linkage(others.rows)
    least = {
        "linker": best(lambda threshold: cluster.agglomerate(*graph, threshold), others.identities, LIKENESS)[0],
        "average": best(tree, others.identities, cosines(others.rows))[0],
    }
    ways: dict[str, Callable[..., Clusters]] = {
        "linker": lambda rows, method: cluster.joined(*likeness(rows), method),
        "average": lambda rows, method: cluster.average(rows, method),
    }
    methods = {name: _pure(Method(name, threshold), ways[name], others) for name, threshold in least.items()}
    clustered = {name: partial(ways[name], method=method) for name, method in methods.items()}
    scores = {str(round(pictures)): found for _, pictures, found in by_size(clustered, others, COLLECTIONS, DRAWS)}
    linker_from = LARGEST + 1
    for pictures, found in sorted(((int(size), found) for size, found in scores.items()), reverse=True):
        if found["linker"] < found["average"]:
            break
        linker_from = max(pictures, FEWEST)
    return Chosen(methods, linker_from, scores)


def by_size(
    ways: Mapping[str, Callable[[np.ndarray], Clusters]], others: Embedded, sizes: Iterable[int], draws: int
) -> Iterator[tuple[int, float, dict[str, float]]]:
    """Collections of so many people, and of all, `draws` of each: people, the mean number of pictures, each way's mean B-cubed F."""
    people = np.unique(others.identities)
    for count in [*(size for size in sizes if size < len(people)), len(people)]:
        parts = []
        for draw in range(draws if count < len(people) else 1):
            drawn = np.random.default_rng((draw, count)).permutation(people)[:count]
            parts.append(others.only(np.isin(others.identities, drawn)))
        found = {name: [_f(way(part.rows).labels, part.identities) for part in parts] for name, way in ways.items()}
        yield count, float(np.mean([len(part) for part in parts])), {name: float(np.mean(scores)) for name, scores in found.items()}


def _pure(method: Method, way: Callable[[np.ndarray, Method], Clusters], others: Embedded) -> Method:
    """The method with what tells the purity of its clusters: a logistic curve through the shares that are right, by pictures."""
    from sklearn.linear_model import LogisticRegression

    found = way(others.rows, method)
    sizes, pure = np.bincount(found.labels), purities(found.labels, others.identities)
    several = sizes > 1
    x = np.stack([found.cohesion[several], np.log(sizes[several])], axis=1)
    right = np.concatenate([(sizes * pure)[several], (sizes * (1 - pure))[several]])
    curve = LogisticRegression().fit(np.concatenate([x, x]), np.repeat([1, 0], len(x)), right)
    (slope, size), (offset,) = curve.coef_[0], curve.intercept_
    return Method(method.name, method.least, float(slope), float(size), float(offset))


def purities(labels: np.ndarray, identities: np.ndarray) -> np.ndarray:
    """The share of each cluster's pictures that show the person whom most of them show: float [C]."""
    members = [identities[labels == number] for number in range(labels.max() + 1)]
    return np.array([np.unique(own, return_counts=True)[1].max() / len(own) for own in members])


def _name(variable: Any) -> str:
    """kernel of conv0/kernel:0"""
    return variable.name.partition(":")[0].rpartition("/")[2]


def _f(labels: np.ndarray, identities: np.ndarray) -> float:
    precision, recall = bcubed(labels, identities)
    return 2 * precision * recall / (precision + recall)
