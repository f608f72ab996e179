"""A linker from labelled embeddings, and everything about clustering that is chosen by people rather than by hand."""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import tf_keras as keras

from device import cluster
from device.cluster import Clusters, Method
from device.linker import CONVOLUTION, Linker, Scale, Shape
from train.embedded import Embedded
from train.graph import baselines, network
from train.graph.agreement import bcubed

LIKENESS = np.concatenate([np.arange(0.01, 0.1, 0.01), np.arange(0.1, 0.92, 0.04)])  # thresholds of a mean likeness that are tried
FEW, MANY = 5, 50  # pictures of the people that thresholds are chosen by


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

    def linker(self, encoder: str, methods: dict[str, Method], default: str, **made: Any) -> Linker:
        """For the device, with the encoder's id."""
        weights: dict[str, np.ndarray] = {}
        for layer in self.model.layers:
            weights |= {f"{layer.name}.{_name(variable)}": variable.numpy() for variable in layer.weights}
        told = {name: {k: v for k, v in asdict(method).items() if k != "name"} for name, method in methods.items()}
        shape = {"shape": asdict(self.settings.shape), "scale": asdict(self.scale), "layers": self.settings.layers}
        return Linker(weights, {"encoder": encoder, "default": default, "methods": told, **shape, "made": made})


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


def chosen(trained: Trained, others: Embedded) -> tuple[dict[str, Method], str, dict[str, float]]:
    """What the device's methods want to know, chosen by people `others` whom nothing was trained on; the one that agrees best with
    them, and the B-cubed F of each."""
    others = others.of_people(FEW, MANY)
    neighbours, likeness = trained.likeness(others.rows)
    tree = baselines.average_linkage(others.rows)
    found = {
        "linker": best(lambda least: cluster.agglomerate(neighbours, likeness, least), others.identities, LIKENESS),
        "average": best(tree, others.identities, cosines(others.rows)),
    }
    clustered = {
        "linker": lambda method: cluster.joined(neighbours, likeness, method),
        "average": lambda method: cluster.average(others.rows, method),
    }
    methods = {name: _pure(Method(name, least), clustered[name], others.identities) for name, (least, _) in found.items()}
    scores = {name: score for name, (_, score) in found.items()}
    return methods, max(scores, key=lambda name: scores[name]), scores


def _pure(method: Method, clustered: Callable[[Method], Clusters], identities: np.ndarray) -> Method:
    """The method with what tells the purity of its clusters: a logistic curve through the shares that are right, by pictures."""
    from sklearn.linear_model import LogisticRegression

    found = clustered(method)
    sizes, pure = np.bincount(found.labels), purities(found.labels, identities)
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
