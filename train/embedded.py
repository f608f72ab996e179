"""Labelled embeddings, made once for each encoder and kept: what clustering and few-shot learning are trained and tried on."""

import tempfile
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from device import bundle
from device.program import InputError, replacing
from train import data, evaluate, identification, labels

CACHE = Path("build/embeddings")
CELEBA = ("celeba_id.zip", "celeba10k.zip")
TABLE = "celeba_identity.csv"
VALIDATION = 0.3  # share of the people of CelebA whom nothing is trained on: what is chosen is chosen on them


@dataclass(frozen=True, eq=False)
class Embedded:
    """`rows` float32 unit [N, D], their `names` [N] (source/path), and whose they are: `identities` int32 [N]."""

    rows: np.ndarray
    names: list[str]
    identities: np.ndarray

    def __len__(self) -> int:
        return len(self.names)

    def only(self, chosen: np.ndarray) -> "Embedded":
        """Those of a mask bool [N], or of row numbers in their order."""
        picked = np.arange(len(self))[chosen]
        return Embedded(self.rows[picked], [self.names[row] for row in picked.tolist()], self.identities[picked])

    def of_people(self, least: int, most: int) -> "Embedded":
        """Those of people with `least` to `most` pictures."""
        numbers, counts = np.unique(self.identities, return_counts=True)
        return self.only(np.isin(self.identities, numbers[(counts >= least) & (counts <= most)]))


@dataclass(frozen=True)
class Place:
    """Where something that belongs to an encoder goes: the file `path`, or, where there is a `bundle`, into it under that name."""

    path: Path
    bundle: Path | None

    @classmethod
    def of(cls, out: Path | None, encoder: evaluate.Encoder, name: str) -> "Place":
        """`out`, or without it `name` in the encoder's bundle. Raises InputError, before anything is made, where it cannot go."""
        if out is not None:
            if out.suffix != ".npz":
                raise InputError(f"cannot write to {out}", "give it the suffix .npz")
            return cls(out, None)
        if encoder.bundle is None:
            raise InputError("the encoder is in no bundle", "name a file with --out")
        if name in encoder.bundle.manifest["files"]:
            raise InputError(f"{encoder.bundle.path} holds a {name}, and a bundle is never changed in place", "name a file with --out")
        return cls(encoder.bundle.path / name, encoder.bundle.path)

    def write(self, save: Callable[[Path], None]) -> None:
        """Let `save` write the file."""
        if self.bundle is None:
            with replacing(self.path) as temporary:
                save(temporary)
            return
        with tempfile.TemporaryDirectory() as folder:
            save(Path(folder) / self.path.name)
            bundle.add(self.bundle, Path(folder) / self.path.name)


def embed(encoder: evaluate.Encoder, sources: Iterable[Path], cache: Path = CACHE) -> tuple[np.ndarray, list[str]]:
    """Embeddings float32 [N, D] and names of all crops of `sources`, each source kept in a file of `cache` by encoder.

    Raises InputError for a source that is not there.
    """
    rows, names = [], []
    for source in map(Path, sources):
        if not zipfile.is_zipfile(source) and not source.is_dir():
            raise InputError(f"{source} is not there", "name the shared data with --data")
        kept = cache / f"{encoder.identity.replace('/', '-')}-{source.stem}.npz"
        if not kept.exists():
            crops = data.read_crops([source])
            with replacing(kept) as temporary:
                np.savez(temporary, rows=encoder.embed(crops.images), names=np.array(crops.names))
        with np.load(kept) as stored:
            rows.append(stored["rows"])
            names += stored["names"].tolist()
    return np.concatenate(rows), names


def celeba(encoder: evaluate.Encoder, folder: Path, cache: Path = CACHE) -> Embedded:
    """The labelled people of CelebA in the shared data `folder`, without the cohort that no training may see; of a picture that is
    in both sources, the one from celeba_id."""
    rows, names = embed(encoder, [folder / "crops" / name for name in CELEBA], cache)
    identities, _ = labels.read(names, folder / "crops" / TABLE)
    cohort = data.read_list(folder / "crops" / "cohort.txt")
    strange = np.array([name in cohort for name in names])
    return Embedded(rows, names, identities).only((identities != labels.UNKNOWN) & ~strange & _first(names))


def lfw(encoder: evaluate.Encoder, folder: Path, cache: Path = CACHE) -> Embedded:
    """All of LFW but its known doubles. For evaluation alone."""
    rows, names = embed(encoder, [folder / "lfw" / "crops.zip"], cache)
    identities = identification.without_doubles(names, labels.read(names)[0])
    return Embedded(rows, names, identities).only(identities != labels.UNKNOWN)


def parted(everybody: Embedded, seed: int = 0) -> tuple[Embedded, Embedded]:
    """The people to train on, and those to choose by: parted by person."""
    chosen = labels.split(everybody.identities, VALIDATION, seed)
    return everybody.only(~chosen), everybody.only(chosen)


def _first(names: Sequence[str]) -> np.ndarray:
    """True [N] where no earlier name ends in the same picture."""
    stems = [name.rpartition("/")[2] for name in names]
    _, first = np.unique(stems, return_index=True)
    return np.isin(np.arange(len(names)), first)
