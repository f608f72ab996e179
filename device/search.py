"""The nearest templates, and the people whose they are, among many: one product of a matrix with the probe."""

import zlib
from collections.abc import Collection, Iterator, Sequence

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
        self.people = sorted(set(names))
        places = {name: place for place, name in enumerate(self.people)}
        owner = np.array([places[name] for name in names], int)
        self._order = np.argsort(owner, kind="stable")
        rows = embeddings if (np.diff(owner) >= 0).all() else embeddings[self._order]  # many are not copied without need
        self._templates = np.ascontiguousarray(rows, np.float32)
        self._starts = np.searchsorted(owner[self._order], np.arange(len(self.people) + 1))
        self._places = places

    def __len__(self) -> int:
        return len(self._templates)

    def nearest(self, probe: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
        """The `most` templates that are most like `probe` float32 unit [D], best first: their indices [K] as given, and cosines [K]."""
        scores = self._templates @ probe
        some = np.argpartition(-scores, most - 1)[:most] if most < len(scores) else np.arange(len(scores))
        best = some[np.argsort(-scores[some], kind="stable")]
        return self._order[best], scores[best]

    def best(
        self, probe: np.ndarray, most: int = 2, k: int = 3, slope: np.ndarray | float = 1.0, offset: np.ndarray | float = 0.0
    ) -> list[tuple[str, float]]:
        """The `most` people who score highest for `probe` float32 unit [D], best first.

        A person's score is the mean cosine to the `k` nearest of the person's templates (all, if fewer), times the person's
        `slope` (positive), plus the person's `offset`: floats, or float [P] in the order of `people`. That cosine cannot be above
        the one to the nearest template, so that only few people have to be looked at closely.
        """
        if not len(self):
            return []
        scores = self._templates @ probe  # [N]
        starts, counts = self._starts[:-1], np.diff(self._starts)
        bounds = np.where(counts > k, np.maximum.reduceat(scores, starts), np.add.reduceat(scores, starts) / counts)  # [P]
        slopes, offsets = np.broadcast_to(slope, bounds.shape), np.broadcast_to(offset, bounds.shape)
        bounds = bounds * slopes + offsets
        found: list[tuple[float, int]] = []
        for person in _descending(bounds):
            if len(found) == most and bounds[person] <= found[-1][0]:
                break
            own = scores[self._starts[person] : self._starts[person + 1]]
            score = float(np.sort(own)[-k:].mean() * slopes[person] + offsets[person])
            found = sorted([*found, (score, person)], key=lambda entry: (-entry[0], entry[1]))[:most]
        return [(self.people[person], score) for score, person in found]

    def scores(self, probes: np.ndarray, k: int = 3) -> np.ndarray:
        """Everybody's score for each of `probes` float32 unit [M, D]: float32 [M, P], in the order of `people`."""
        if not len(self):
            return np.zeros((len(probes), 0), np.float32)
        cosines = probes @ self._templates.T  # [M, N]
        counts = np.diff(self._starts)
        found = np.add.reduceat(cosines, self._starts[:-1], axis=1) / counts.astype(np.float32)
        for count in np.unique(counts[counts > k]):  # people with as many templates, all at once
            own = np.flatnonzero(counts == count)
            columns = self._starts[own][:, None] + np.arange(count)
            found[:, own] = np.partition(cosines[:, columns], count - k, axis=2)[:, :, -k:].mean(axis=2)
        return found

    def of(self, person: str) -> np.ndarray:
        """The templates of a person, in the order given: float32 [n, D]; none of somebody who is not here."""
        place = self._places.get(person)
        return self._templates[:0] if place is None else self._templates[self._starts[place] : self._starts[place + 1]]

    def place(self, person: str) -> int | None:
        """The number of a person in `people`; None of somebody who is not here."""
        return self._places.get(person)

    def only(self, people: Collection[str]) -> "Index":
        """The templates of these people alone."""
        own = sorted(people)
        rows = [self.of(person) for person in own]
        names = [person for person, templates in zip(own, rows, strict=True) for _ in templates]
        return Index(np.concatenate(rows) if rows else self._templates[:0], names)

    def changed(self, before: "Index") -> tuple[set[str], set[str]]:
        """Who is new or has other templates than in `before`, and who was there and is no more."""
        counts, old = np.diff(self._starts), np.array([before._places.get(person, -1) for person in self.people], int)
        if not len(before):
            return set(self.people), set()
        same = (old >= 0) & (counts == np.diff(before._starts)[old])
        rows = np.flatnonzero(np.repeat(same, counts))
        moved = np.repeat(before._starts[old] - self._starts[:-1], counts)[rows]
        owners = np.repeat(np.arange(len(counts)), counts)
        other = ~same
        for run in np.split(np.arange(len(rows)), np.flatnonzero((np.diff(rows) != 1) | np.diff(moved).astype(bool)) + 1):
            if len(run):  # templates that stood one behind the other and still do
                first, shift = rows[run[0]], moved[run[0]]
                now, then = self._templates[first : first + len(run)], before._templates[first + shift : first + shift + len(run)]
                other[owners[first : first + len(run)][(now != then).any(axis=1)]] = True
        return {self.people[place] for place in np.flatnonzero(other)}, before._places.keys() - self._places.keys()

    def sample(self, most: int) -> tuple[np.ndarray, list[str]]:
        """At most `most` templates, float32 [K, D], and whose they are. They are drawn by their bits, so that they stay nearly the
        same when others come or go."""
        bits = np.ascontiguousarray(self._templates[:, :8]).view(np.uint32).sum(axis=1, dtype=np.uint32)
        keys = bits * np.uint32(2654435761)  # Knuth's multiplicative hash
        rows = np.sort(np.argpartition(keys, most)[:most]) if most < len(self) else np.arange(len(self))
        owners = np.searchsorted(self._starts, rows, side="right") - 1
        return self._templates[rows], [self.people[owner] for owner in owners]

    def checksum(self) -> int:
        """Of the templates and whose they are: what was made from an equal index may be used again."""
        return zlib.crc32("\0".join(self.people).encode(), zlib.crc32(self._starts.tobytes(), zlib.crc32(self._templates.data)))


def _descending(values: np.ndarray) -> Iterator[int]:
    """The indices of `values` [N] from the largest down. The first few come without all being sorted."""
    first = np.argpartition(-values, FEW)[:FEW] if len(values) > FEW else np.arange(len(values))
    rest = np.ones(len(values), bool)
    rest[first] = False
    yield from first[np.argsort(-values[first])].tolist()
    others = np.flatnonzero(rest)
    yield from others[np.argsort(-values[others])].tolist()
