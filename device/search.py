"""The nearest templates, and the people whose they are, among many: one product of a matrix with the probe."""

from collections.abc import Sequence

import numpy as np


class Index:
    """Templates to be searched, float32 [N, D], sorted by whose they are.

    float32 through BLAS is the fastest here: narrower types save memory, but NumPy has to widen them for every probe
    (benchmarks/gallery_speed.py measures all three).
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
        bounds = np.maximum.reduceat(scores, self._starts[:-1])  # [P]
        found: list[tuple[float, int]] = []
        for person in np.argsort(-bounds, kind="stable"):
            if len(found) == most and bounds[person] <= found[-1][0]:
                break
            own = scores[self._starts[person] : self._starts[person + 1]]
            found = sorted([*found, (float(np.sort(own)[-k:].mean()), int(person))], key=lambda entry: (-entry[0], entry[1]))[:most]
        return [(str(self.people[person]), score) for score, person in found]
