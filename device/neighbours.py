"""The graph of nearest neighbours of embeddings, and the small graphs around each of its nodes."""

from dataclasses import dataclass

import numpy as np

BLOCK = 1 << 24  # cosines in memory at once: 64 MB


def nearest(embeddings: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """The `most` nearest others of each of `embeddings` float32 unit [N, D], best first: int32 [N, K] and cosines float32 [N, K].

    K is `most`, or N - 1 where there are not so many. Every pair is looked at, a block of rows after the other, so that memory
    stays small: 50,000 take BLOCK cosines at a time and not 10 GB.
    """
    count = len(embeddings)
    k = min(most, max(count - 1, 0))
    found, cosines = np.empty((count, k), np.int32), np.empty((count, k), np.float32)
    rows = max(BLOCK // max(count, 1), 1)
    for start in range(0, count if k else 0, rows):
        scores = embeddings[start : start + rows] @ embeddings.T  # [B, N]
        scores[np.arange(len(scores)), start + np.arange(len(scores))] = -np.inf  # not itself
        some = np.argpartition(scores, count - k - 1, axis=1)[:, count - k :] if k < count - 1 else np.argsort(scores)[:, 1:]
        own = np.take_along_axis(scores, some, axis=1)
        order = np.argsort(-own, axis=1, kind="stable")
        found[start : start + rows] = np.take_along_axis(some, order, axis=1)
        cosines[start : start + rows] = np.take_along_axis(own, order, axis=1)
    return found, cosines


@dataclass(frozen=True, eq=False)
class Subgraphs:
    """The surroundings of B pivots, M nodes each, filled up at the end with nodes that do not count.

    `nodes` int [B, M]: their rows in the embeddings, in ascending order, or -1; `adjacency` float32 [B, M, M]: 1 where two are
    linked, symmetric, 0 on the diagonal; `pivots` int [B]: where in `nodes` the pivot is, `hops` int [B, K]: and its neighbours.
    """

    nodes: np.ndarray
    adjacency: np.ndarray
    pivots: np.ndarray
    hops: np.ndarray


def subgraphs(neighbours: np.ndarray, pivots: np.ndarray, second: int, links: int) -> Subgraphs:
    """The graph around each of `pivots` int [B] (instance pivot sub-graphs: Wang et al. 2019, arXiv:1903.11306, section 3.2).

    Its nodes are the pivot, its K neighbours and the `second` nearest of each of these; each node is linked to those of its `links`
    nearest that are nodes too. `neighbours` int [N, K], best first.
    """
    first = neighbours[pivots]  # [B, K]
    further = neighbours[first, :second].reshape(len(pivots), -1)
    nodes = np.sort(np.concatenate([pivots[:, None], first, further], axis=1).astype(np.int64), axis=1)
    count = len(neighbours)
    nodes[:, 1:][nodes[:, 1:] == nodes[:, :-1]] = count  # what was there already
    nodes = np.sort(nodes, axis=1)
    nodes = nodes[:, : int((nodes < count).sum(axis=1).max())]
    rows, width = np.arange(len(pivots))[:, None], nodes.shape[1]
    keys = (rows * (count + 1) + nodes).ravel()  # ascending, so that nodes can be looked up

    def place(wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where the nodes `wanted` int [B, W] are in their pivot's graph, and whether they are: [B, W] each."""
        key = rows * (count + 1) + wanted
        at = np.minimum(np.searchsorted(keys, key), len(keys) - 1)
        return at - rows * width, keys[at] == key

    real = nodes < count
    near = neighbours[np.where(real, nodes, 0), :links]  # [B, M, U]
    at, there = place(near.reshape(len(pivots), -1))
    there &= np.repeat(real, near.shape[2], axis=1)
    adjacency = np.zeros((len(pivots), width, width), np.float32)
    graph, slot = np.nonzero(there)
    adjacency[graph, slot // near.shape[2], at[graph, slot]] = 1
    adjacency = np.maximum(adjacency, adjacency.transpose(0, 2, 1))
    return Subgraphs(np.where(real, nodes, -1), adjacency, place(pivots[:, None])[0][:, 0], place(first)[0])
