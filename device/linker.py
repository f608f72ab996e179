"""The trained linker: which neighbours of a face show the same person? A graph network in plain NumPy.

train/link.py trains it (docs/few-labels.md) and writes `linker.npz`, arrays and nothing that is executed. It belongs to one encoder.
"""

import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from device.bundle import Bundle
from device.convolutions import CONVOLUTIONS
from device.neighbours import Subgraphs, subgraphs
from device.program import StoredError

FILE = "linker.npz"
AT_ONCE = 128  # pivots whose graphs are in memory at once: some 10 MB
CONVOLUTION = "graphsage"  # the usual one (docs/few-labels.md)


@dataclass(frozen=True)
class Shape:
    """A pivot's graph: its `first` nearest, the `second` nearest of each of these, and links to the `links` nearest of each node."""

    first: int = 30
    second: int = 3
    links: int = 6


@dataclass(frozen=True)
class Scale:
    """What makes an encoder's embeddings alike: mean and deviation of the cosines of near neighbours."""

    centre: float
    spread: float

    @classmethod
    def of(cls, cosines: np.ndarray) -> "Scale":
        return cls(float(cosines.mean()), float(cosines.std()))


def features(embeddings: np.ndarray, parts: Subgraphs, scale: Scale) -> np.ndarray:
    """What is known of each node: its embedding seen from the pivot, and the cosine of both, float32 [B, M, D + 1]; 0 for none."""
    real = parts.nodes >= 0
    x = embeddings[np.where(real, parts.nodes, 0)]  # [B, M, D]
    pivot = np.take_along_axis(x, parts.pivots[:, None, None], axis=1)  # [B, 1, D]
    cosine = (x @ pivot.transpose(0, 2, 1) - scale.centre) / scale.spread  # [B, M, 1]
    away = (x - pivot) * np.sqrt(x.shape[-1] / (2 - 2 * min(scale.centre, 0.99)))
    return np.where(real[..., None], np.concatenate([away, cosine], axis=-1), 0).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Linker:
    """`weights`: by name, as Keras has them. `facts`: `encoder` (its id), `shape`, `scale`, `methods` (what clustering wants to know
    of each method, device/cluster.py), `linker_from` (how many pictures it takes until it is better than average linkage), and how
    it was `made` (of which convolution: `conv`)."""

    weights: dict[str, np.ndarray]
    facts: dict[str, Any]

    @property
    def shape(self) -> Shape:
        return Shape(**self.facts["shape"])

    @property
    def conv(self) -> str:
        return self.facts["made"]["conv"]

    def likeness(self, embeddings: np.ndarray, neighbours: np.ndarray) -> np.ndarray:
        """The probability that each neighbour int [N, K] of `embeddings` float32 unit [N, D] shows the same person: float32 [N, K]."""
        found = np.empty(neighbours.shape, np.float32)
        shape, scale = self.shape, Scale(**self.facts["scale"])
        for start in range(0, len(embeddings), AT_ONCE):
            parts = subgraphs(neighbours, np.arange(start, min(start + AT_ONCE, len(embeddings))), shape.second, shape.links)
            found[start : start + AT_ONCE] = self._odds(features(embeddings, parts, scale), parts)
        return 1 / (1 + np.exp(-found))

    def _odds(self, x: np.ndarray, parts: Subgraphs) -> np.ndarray:
        """The log-odds of the pivots' neighbours, [B, K]: graph convolutions and a small head."""
        convolution = CONVOLUTIONS[self.conv]
        for layer in range(self.facts["layers"]):
            own = {name.partition(".")[2]: value for name, value in self.weights.items() if name.startswith(f"conv{layer}.")}
            x = np.maximum(convolution(x, parts.adjacency, own), 0)
        x = np.take_along_axis(x, parts.hops[:, :, None], axis=1)  # [B, K, units]
        x = np.maximum(x @ self.weights["hidden.kernel"] + self.weights["hidden.bias"], 0)
        return (x @ self.weights["logit.kernel"] + self.weights["logit.bias"])[..., 0]

    def save(self, path: Path) -> None:
        """In NumPy's npz format, the weights as float16: 60 kB."""
        stored: dict[str, Any] = {name: value.astype(np.float16) for name, value in self.weights.items()}
        np.savez(path, facts=np.array(json.dumps(self.facts)), **stored)


def load(used: Bundle) -> Linker | None:
    """The linker of a bundle; None where it has none. Raises StoredError for one that is damaged, or of another encoder."""
    path = used.path / FILE
    return read(path, used.encoder, used.dimension) if path.is_file() else None


def read(path: Path, encoder: str, dimension: int) -> Linker:
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
            facts = json.loads(str(stored["facts"]))
            linker = Linker({name: stored[name].astype(np.float32) for name in stored.files if name != "facts"}, facts)
        whose = facts["encoder"]
        if whose == encoder:
            linker.likeness(np.eye(2, dimension, dtype=np.float32), np.array([[1], [0]]))  # two faces: whether all fits together
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise StoredError(f"{path} is damaged ({error})", "restore the bundle from the repository") from error
    if whose != encoder:
        raise StoredError(f"{path} belongs to encoder {whose}, the bundle's is {encoder}", "train it anew with train/link.py")
    return linker
