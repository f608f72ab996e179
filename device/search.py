"""The nearest templates, and the people whose they are, among many: one product of a matrix with the probe."""

from collections.abc import Iterator, Sequence

import numpy as np

FEW = 64  # people who are looked at before all are sorted


class Index:
    """Templates to be searched, float32 [N, D], sorted by whose they are.

    float32 is exact and fast enough: 100,000 templates are 51 MB and a few milliseconds. float16 is many times slower in NumPy;
    int8 is as fast and a quarter of the memory, but moves cosines by up to 0.009 (benchmarks/gallery_speed.py measures all three).
    """

    def __init__(self, embeddings: np.ndarray, names: Sequence[str]):
        """`embeddings`: float32 unit rows [N, D], one template each; `names`: whose they are, N of them."""
        if len(embeddings) != len(names):
            raise ValueError(f"{len(embeddings)} embeddings and {len(names)} names")
        self.people, owner = np.unique(np.asarray(names, object), return_inverse=True) if len(names) else (np.array([]), np.array([], int))
        self._order = np.argsort(owner, kind="stable")
        self._templates = np.ascontiguousarray(embeddings[self._order], np.float32)
        self._starts = np.searchsorted(owner[self._order], np.arange(len(self.people) + 1))

    def __len__(self) -> int:
        return len(self._templates)

    def nearest(self, probe: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
        """The `most` templates that are most like `probe` float32 unit [D], best first: their indices [K] as given, and cosines [K]."""
        scores = self._templates @ probe
        some = np.argpartition(-scores, most - 1)[:most] if most < len(scores) else np.arange(len(scores))
        best = some[np.argsort(-scores[some], kind="stable")]
        return self._order[best], scores[best]

    def best(self, probe: np.ndarray, most: int = 2, k: int = 3) -> list[tuple[str, float]]:
        """The `most` people who are most like `probe` float32 unit [D], best first.

        A person's score is the mean cosine to the `k` nearest of the person's templates (all, if fewer). It cannot be above that
        to the nearest one, so that only few people have to be looked at closely.
        """
        if not len(self):
            return []
        scores = self._templates @ probe  # [N]
        starts, counts = self._starts[:-1], np.diff(self._starts)
        bounds = np.where(counts > k, np.maximum.reduceat(scores, starts), np.add.reduceat(scores, starts) / counts)  # [P]
        found: list[tuple[float, int]] = []
        for person in _descending(bounds):
            if len(found) == most and bounds[person] <= found[-1][0]:
                break
            own = scores[self._starts[person] : self._starts[person + 1]]
            found = sorted([*found, (float(np.sort(own)[-k:].mean()), person)], key=lambda entry: (-entry[0], entry[1]))[:most]
        return [(str(self.people[person]), score) for score, person in found]

    def scores(self, probes: np.ndarray, k: int = 3) -> np.ndarray:
        """Everybody's score for each of `probes` float32 unit [M, D]: float32 [M, P], in the order of `people`."""
        cosines = probes @ self._templates.T  # [M, N]
        counts = np.diff(self._starts)
        found = np.empty((len(probes), len(self.people)), np.float32)
        for count in np.unique(counts):  # people with as many templates, all at once
            own = np.flatnonzero(counts == count)
            columns = self._starts[own][:, None] + np.arange(count)
            found[:, own] = np.sort(cosines[:, columns], axis=2)[:, :, -k:].mean(axis=2)
        return found


def _descending(values: np.ndarray) -> Iterator[int]:
    """The indices of `values` [N] from the largest down. The first few come without all being sorted."""
    first = np.argpartition(-values, FEW)[:FEW] if len(values) > FEW else np.arange(len(values))
    rest = np.ones(len(values), bool)
    rest[first] = False
    yield from first[np.argsort(-values[first])].tolist()
    others = np.flatnonzero(rest)
    yield from others[np.argsort(-values[others])].tolist()
