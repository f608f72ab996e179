"""Faces without names, brought together: clusters of embeddings, and how pure each seems to be.

linker    a graph network tells which near neighbours show one person (device/linker.py), and clusters that are linked well enough
          on average are joined (device/agglomerate.py). Time grows with the number of pictures times that of neighbours,
          but for the search of neighbours, which looks at all pairs, a block at a time
average   average linkage of the cosines. All pairs are kept in memory, so up to LARGEST pictures
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from device import linker
from device.agglomerate import agglomerate, by_size
from device.bundle import FAR, Bundle
from device.linker import Linker
from device.neighbours import nearest
from device.program import InputError

LARGEST = 8000  # embeddings: 256 MB of cosines


@dataclass(frozen=True, eq=False)
class Clusters:
    """`labels` int [N]: each one's cluster, the largest is 0. `cohesion` float [C]: how surely the members of each belong together,
    0 to 1; `purity` float [C]: the share of its pictures that probably show the same person, or None where nothing tells."""

    labels: np.ndarray
    cohesion: np.ndarray
    purity: np.ndarray | None

    def __len__(self) -> int:
        return len(self.cohesion)

    def members(self, cluster: int) -> np.ndarray:
        return np.flatnonzero(self.labels == cluster)


@dataclass(frozen=True)
class Method:
    """How a method clusters: `least` is the likeness from which clusters are joined. The purity of a cluster of n is the logistic
    function of `slope` cohesion + `size` log n + `offset`, where they are known."""

    name: str
    least: float
    slope: float | None = None
    size: float = 0.0
    offset: float = 0.0

    def purity(self, cohesion: np.ndarray, sizes: np.ndarray) -> np.ndarray | None:
        if self.slope is None:
            return None
        return np.where(sizes > 1, 1 / (1 + np.exp(-(self.slope * cohesion + self.size * np.log(sizes) + self.offset))), 1.0)


def cluster(embeddings: np.ndarray, used: Bundle, name: str | None = None) -> Clusters:
    """Clusters of `embeddings` float32 unit [N, D] of the encoder of `used`, by the method `name`.

    Without one, by the linker from as many embeddings on as it was measured to be better with, else by average linkage.
    Raises InputError where the bundle does not know the method, or there are too many embeddings for it.
    """
    found = linker.load(used)
    if found is None:
        if name not in (None, "average"):
            raise InputError(f"{used.path} holds no {linker.FILE}", "use --method average, or train one with train/link.py")
        return average(embeddings, Method("average", used.threshold(FAR)))
    chosen = name or ("linker" if len(embeddings) >= min(found.facts["linker_from"], LARGEST + 1) else "average")
    method = Method(chosen, **found.facts["methods"][chosen])
    return METHODS[chosen](embeddings, method, found)


def linked(embeddings: np.ndarray, method: Method, network: Linker) -> Clusters:
    neighbours, _ = nearest(embeddings, network.shape.first)
    likeness = network.likeness(embeddings, neighbours)
    return joined(neighbours, likeness, method)


def joined(neighbours: np.ndarray, likeness: np.ndarray, method: Method) -> Clusters:
    """Clusters of a graph whose links are `likeness` sure: both [N, K]."""
    return finished(agglomerate(neighbours, likeness, method.least), neighbours, likeness, method)


def average(embeddings: np.ndarray, method: Method, network: Linker | None = None) -> Clusters:
    """By average linkage of cosines (scipy). Raises InputError for more than LARGEST."""
    from scipy.cluster.hierarchy import fcluster, linkage

    if len(embeddings) > LARGEST:
        wrong = f"average linkage keeps all pairs in memory, and {len(embeddings)} faces are more than {LARGEST}"
        raise InputError(wrong, "use --method linker, or fewer pictures")
    if len(embeddings) < 2:
        return finished(np.zeros(len(embeddings), int), np.zeros((len(embeddings), 0), int), np.zeros((len(embeddings), 0)), method)
    cosines = embeddings @ embeddings.T  # [N, N]
    distances = np.maximum(1 - cosines[np.triu_indices(len(embeddings), 1)], 0).astype(np.float64)
    labels = by_size(fcluster(linkage(distances, "average"), 1 - method.least, "distance"))
    others = np.argsort(np.eye(len(embeddings)), axis=1, kind="stable")[:, :-1]  # everybody but oneself
    return finished(labels, others, np.take_along_axis(cosines, others, axis=1), method)


def finished(labels: np.ndarray, neighbours: np.ndarray, likeness: np.ndarray, method: Method) -> Clusters:
    """With the cohesion of each cluster: the mean likeness of a member and its neighbours in it, out of as many as there could be."""
    sizes = np.bincount(labels)
    same = labels[neighbours] == labels[:, None]
    possible = np.minimum(sizes[labels] - 1, neighbours.shape[1])
    own = np.where(same, likeness, 0).sum(axis=1) / np.maximum(possible, 1)
    cohesion = np.where(sizes > 1, np.bincount(labels, own, len(sizes)) / np.maximum(sizes, 1), 1.0)
    return Clusters(labels, cohesion, method.purity(cohesion, sizes))


METHODS: dict[str, Callable[..., Clusters]] = {"linker": linked, "average": average}
