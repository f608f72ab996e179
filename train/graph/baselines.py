"""What a graph network has to beat: three ways to cluster by cosines alone. Each takes one threshold, a cosine.

`embeddings`: float32 unit [N, D]; returns the cluster of each, int [N].
"""

from collections.abc import Callable

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.sparse import coo_matrix, csr_matrix
from scipy.sparse.csgraph import connected_components
from sklearn.cluster import DBSCAN

from device.neighbours import nearest

CORE = 3  # pictures within reach, oneself included, that make one a core of DBSCAN: two others, with few pictures a person
NEIGHBOURS = 30  # links that are looked at, of each


def average_linkage(embeddings: np.ndarray) -> Callable[[float], np.ndarray]:
    """Clusters are joined, the most alike first, by the mean cosine of their pictures. The tree is made once."""
    cosines = embeddings @ embeddings.T
    tree = linkage(np.maximum(1 - cosines[np.triu_indices(len(embeddings), 1)], 0).astype(np.float64), "average")
    return lambda threshold: fcluster(tree, 1 - threshold, "distance")


def dbscan(embeddings: np.ndarray) -> Callable[[float], np.ndarray]:
    """DBSCAN (Ester et al. 1996) with scikit-learn; a picture that it leaves out as noise is a cluster of its own."""

    def at(threshold: float) -> np.ndarray:
        reach = float(np.sqrt(max(2 - 2 * threshold, 1e-12)))  # the chord of unit vectors with this cosine
        found = DBSCAN(eps=reach, min_samples=CORE).fit_predict(embeddings)
        noise = found < 0
        found[noise] = found.max(initial=-1) + 1 + np.arange(noise.sum())
        return found

    return at


def components(embeddings: np.ndarray) -> Callable[[float], np.ndarray]:
    """Connected components of the graph of near neighbours that are alike enough."""
    neighbours, cosines = nearest(embeddings, NEIGHBOURS)
    return lambda threshold: connected(neighbours, cosines, threshold)


def connected(neighbours: np.ndarray, likeness: np.ndarray, threshold: float) -> np.ndarray:
    """The connected components, int [N], of links [N, K] that are at least `threshold` sure."""
    links = _graph(neighbours, np.where(likeness >= threshold, 1.0, 0.0))
    links.eliminate_zeros()  # scipy takes a stored zero for a link
    return connected_components(links, directed=False)[1]


def propagated(neighbours: np.ndarray, likeness: np.ndarray, threshold: float, largest: int, step: float = 0.05) -> np.ndarray:
    """Pseudo label propagation (Zhan et al. 2018, arXiv:1809.01407, section 3.4; Wang et al. 2019 use it too): connected components,
    of which those of more than `largest` are cut again at a threshold that is a `step` higher, until it reaches 1."""
    both, directions = (links + links.T for links in (_graph(neighbours, likeness), _graph(neighbours, np.ones(likeness.shape))))
    directions.data = 1 / directions.data
    both = both.multiply(directions).tocsr()  # the mean of both directions, where there are two
    labels = np.full(len(neighbours), -1)
    found, waiting = 0, [(np.arange(len(neighbours)), threshold)]
    while waiting:
        rows, least = waiting.pop()
        part = both[rows][:, rows]
        _, own = connected_components(part.multiply(part >= least), directed=False)
        for rest in np.split(rows[np.argsort(own, kind="stable")], np.cumsum(np.bincount(own))[:-1]):
            if len(rest) > largest and least < 1:
                waiting.append((rest, least + step))
            else:
                labels[rest] = found
                found += 1
    return labels


def _graph(neighbours: np.ndarray, weights: np.ndarray) -> csr_matrix:
    count, k = neighbours.shape
    return coo_matrix((weights.ravel(), (np.repeat(np.arange(count), k), neighbours.ravel())), shape=(count, count)).tocsr()
