"""What strangers, and enrolled people themselves, score against a gallery by nearest neighbours: kept up to date as it changes.

Scores are normalised (device/normalise.py), by the same strangers.

Of a changed gallery only those are searched for who are new or have changed, and everybody only by the faces that were most like
somebody who has changed or gone. A gallery of 10,000 people takes seconds at first and milliseconds afterwards.
"""

import io
import zipfile
import zlib

import numpy as np

from device.classify import NEIGHBOURS, REHEARSED, left_out
from device.normalise import BLOCK, Units, aside, combined, score_of, units
from device.search import Index


class Impostors:
    """`strangers` float32 unit [M, D] are nobody's. Some of the enrolled people's own templates are looked for too, each as if it were
    not enrolled (a rehearsal). `people` are the units of everybody in the newest index."""

    def __init__(self, strangers: np.ndarray):
        self._strangers = len(strangers)
        self.people = self._units = Units(*np.zeros((2, 0), np.float32))
        self._probes, self._owners = strangers, [""] * len(strangers)  # the strangers, and after them the templates that are looked for
        self._best = np.full(len(strangers), -np.inf, np.float32)
        self._whose = np.full(len(strangers), "", object)
        self._index = Index(strangers[:0], [])

    def update(self, index: Index) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What strangers score at best against the people of `index` float32 [M]; what these score against themselves [G] (none of
        people with a single template) and at best against the others [K]."""
        changed, gone = index.changed(self._index)
        self._measure(index, changed)
        self._resample(index)
        lost = changed | gone
        stale = np.array([name == "" or name in lost for name in self._whose], bool)
        self._best[stale], self._whose[stale] = -np.inf, ""
        self._search(np.flatnonzero(stale), index)
        if changed:
            self._search(np.flatnonzero(~stale), index.only(changed), np.array([name in changed for name in index.people], bool))
        self._index = index
        return self._answer()

    def strangers(self) -> Units:
        """The units of the strangers as probes."""
        if not len(self._units.middle):
            strangers = self._probes[: self._strangers]
            self._units = aside(strangers, strangers, themselves=True)
        return self._units.only(np.arange(self._strangers))

    def to_bytes(self) -> bytes:
        """What is known of the newest index, as plain arrays in NumPy's npz format. Names are told by their number."""
        whose = [-1 if (place := self._index.place(name)) is None else place for name in self._whose]
        with io.BytesIO() as file:
            np.savez(file, best=self._best, whose=whose, people=self.people, made=self._checksum(self._index))
            return file.getvalue()

    def restore(self, stored: bytes, index: Index) -> bool:
        """Go on from what `to_bytes` gave for the same strangers and an equal index; False where it was given for others."""
        try:
            with np.load(io.BytesIO(stored), allow_pickle=False) as arrays:
                best, whose, people, made = (arrays[name] for name in ("best", "whose", "people", "made"))
        except (KeyError, OSError, EOFError, ValueError, zipfile.BadZipFile):
            return False
        if int(made) != self._checksum(index):
            return False
        self._resample(index)
        self.people = Units(*people)
        self._best, self._whose = best, np.array([index.people[place] if place >= 0 else "" for place in whose], object)
        self._index = index
        return True

    def _checksum(self, index: Index) -> int:
        return zlib.crc32(self._probes[: self._strangers].tobytes(), index.checksum())

    def _measure(self, index: Index, changed: set[str]) -> None:
        """Work out the units of those who have changed; those of the others are kept."""
        known = np.array([-1 if (name in changed or (place := self._index.place(name)) is None) else place for name in index.people], int)
        people = Units(*np.zeros((2, len(known)), np.float32))
        for part, old in zip(people, self.people, strict=True):
            part[known >= 0] = old[known[known >= 0]]
        new = np.flatnonzero(known < 0)
        step = max(BLOCK // max(self._strangers, 1), 1)
        for block in (new[start : start + step] for start in range(0, len(new), step)):
            scores = index.only([index.people[place] for place in block]).scores(self._probes[: self._strangers], NEIGHBOURS)
            for part, measured in zip(people, units(np.ascontiguousarray(scores.T)), strict=True):
                part[block] = measured
        self.people = people

    def _resample(self, index: Index) -> None:
        """Take the sample of the new index for the old one; what is known of those who are in both is kept."""
        rows, owners = index.sample(REHEARSED)
        known = {(row.tobytes(), owner): place for place, (row, owner) in enumerate(zip(self._probes, self._owners, strict=True)) if owner}
        old = [known.get((row.tobytes(), owner)) for row, owner in zip(rows, owners, strict=True)]
        best = [-np.inf if place is None else self._best[place] for place in old]
        whose = ["" if place is None else self._whose[place] for place in old]
        mine = self.strangers()
        self._probes, self._owners = np.concatenate([self._probes[: self._strangers], rows]), [""] * self._strangers + owners
        self._units = Units(*map(np.concatenate, zip(mine, aside(rows, self._probes[: self._strangers]), strict=True)))
        self._best = np.concatenate([self._best[: self._strangers], np.array(best, np.float32)])
        self._whose = np.concatenate([self._whose[: self._strangers], np.array(whose, object)])

    def _search(self, rows: np.ndarray, index: Index, people: np.ndarray | slice = slice(None)) -> None:
        """Note who of `index`, of all people the mask `people`, is more like these probes than those who were before. Nobody is
        compared with a template of their own."""
        own_units = Units(*(part[people] for part in self.people))
        step = max(BLOCK // max(len(index), 1), 1)
        for block in (rows[start : start + step] for start in range(0, len(rows), step)):
            cosines = index.scores(self._probes[block], NEIGHBOURS)
            scores = combined(cosines, cosines, own_units, self._units.only(block))
            for line, row in enumerate(block):
                if self._owners[row] and (own := index.place(self._owners[row])) is not None:
                    scores[line, own] = -np.inf
            if not scores.shape[1]:
                continue
            whose = scores.argmax(axis=1)
            best = scores[np.arange(len(block)), whose]
            better = best > self._best[block]
            self._best[block[better]] = best[better]
            self._whose[block[better]] = np.array(index.people, object)[whose[better]]

    def _answer(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        sample = range(self._strangers, len(self._probes))
        alone = [self._left_out(row) for row in sample]
        genuine, others = np.array([score for score in alone if score is not None]), self._best[self._strangers :]
        return self._best[: self._strangers].copy(), genuine, others[np.isfinite(others)]

    def _left_out(self, row: int) -> float | None:
        """What a template that is looked for scores against the others of its person; None where there are none."""
        own, probe = self._owners[row], self._probes[row]
        cosine = left_out(self._index.of(own), probe)
        if cosine is None:
            return None
        return score_of(cosine, self.people.only(np.array([self._index.place(own)])), self._units.only(np.array([row])))
