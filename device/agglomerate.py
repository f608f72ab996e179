"""Average-linkage clustering of a sparse graph: what is not linked is taken for unlike."""

import heapq

import numpy as np


def agglomerate(neighbours: np.ndarray, likeness: np.ndarray, least: float) -> np.ndarray:
    """Join clusters, the most alike first, as long as two are alike by `least` or more; returns each one's cluster, int [N].

    `neighbours` int [N, K]: who is linked to whom; `likeness` float [N, K], 0 to 1: how sure each link is. Two clusters are alike by
    the mean of the links between them, over as many as there could be: every pair has two, one in each direction, but nobody has
    more than K. (So large clusters are not torn apart because their members know K of each other at most.)
    Clusters are numbered by size, the largest 0. Memory and time grow with N K, not with the square of N.
    """
    count, k = neighbours.shape
    links = _links(neighbours, likeness)
    sizes = [1] * count
    parent = list(range(count))
    alive = [True] * count

    def alike(a: int, b: int) -> float:
        pairs = sizes[a] * sizes[b]
        return links[a][b] / (min(pairs, k * sizes[a]) + min(pairs, k * sizes[b]))

    heap = [(-s, a, b) for a, own in enumerate(links) for b in own if a < b and (s := alike(a, b)) >= least]
    heapq.heapify(heap)
    while heap:
        _, a, b = heapq.heappop(heap)
        if not (alive[a] and alive[b]):
            continue
        new = len(sizes)
        own, other = sorted((links[a], links[b]), key=len, reverse=True)
        for c, weight in other.items():
            own[c] = own.get(c, 0.0) + weight
        del own[a], own[b]
        alive[a] = alive[b] = False
        links[a] = links[b] = {}
        alive.append(True)
        sizes.append(sizes[a] + sizes[b])
        links.append(own)
        parent.append(new)
        parent[a] = parent[b] = new
        for c in own:
            theirs = links[c]
            theirs.pop(a, None)
            theirs.pop(b, None)
            theirs[new] = own[c]
            if (s := alike(new, c)) >= least:
                heapq.heappush(heap, (-s, c, new))
    return by_size(_roots(parent)[:count])


def _links(neighbours: np.ndarray, likeness: np.ndarray) -> list[dict[int, float]]:
    """Of each node whom it is linked to, and how surely: the sum of both directions."""
    links: list[dict[int, float]] = [{} for _ in neighbours]
    for a, (others, sure) in enumerate(zip(neighbours.tolist(), likeness.tolist(), strict=True)):
        for b, s in zip(others, sure, strict=True):
            links[a][b] = links[b][a] = links[a].get(b, 0.0) + s
    return links


def _roots(parent: list[int]) -> np.ndarray:
    roots = np.array(parent)
    for node in range(len(parent) - 1, -1, -1):  # parents are younger
        roots[node] = roots[roots[node]]
    return roots


def by_size(labels: np.ndarray) -> np.ndarray:
    """Labels int [N] numbered anew: the largest cluster is 0; of equals the one that comes first."""
    _, first, inverse, counts = np.unique(labels, return_index=True, return_inverse=True, return_counts=True)
    place = np.empty(len(counts), int)
    place[np.lexsort((first, -counts))] = np.arange(len(counts))
    return place[inverse]
