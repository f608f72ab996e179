"""Crops in memory: aligned faces, uint8 RGB [N, 112, 112, 3], from folders or zips of pictures."""

import zipfile
from collections.abc import Iterable, Iterator, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import cv2
import numpy as np

from device.align import SIZE
from device.camera import PICTURES
from device.program import InputError


@dataclass(frozen=True)
class Crops:
    """`images` uint8 RGB [N, 112, 112, 3] and their `names`, e.g. utkface/20_1_0_x.chip (source, path, no suffix)."""

    images: np.ndarray
    names: list[str]

    def __len__(self) -> int:
        return len(self.names)


def read_list(path: Path) -> set[str]:
    """The names of crops in a text file, one a line, e.g. the cohort that no training may see."""
    try:
        return {line.strip() for line in Path(path).read_text("utf-8").splitlines() if line.strip()}
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the list {path} ({error})", "name a text file with one crop a line") from error


def pictures(source: Path) -> Iterator[tuple[str, bytes]]:
    """(name, encoded picture) of a folder or a zip, sorted by name, which starts with the source's own name."""
    if source.is_dir():
        for path in sorted(p for p in source.rglob("*") if p.suffix.lower() in PICTURES):
            yield str(PurePosixPath(source.name, path.relative_to(source).with_suffix("").as_posix())), path.read_bytes()
    elif zipfile.is_zipfile(source):
        with zipfile.ZipFile(source) as archive:
            for item in sorted(n for n in archive.namelist() if PurePosixPath(n).suffix.lower() in PICTURES):
                yield str(PurePosixPath(source.stem, PurePosixPath(item).with_suffix(""))), archive.read(item)
    else:
        raise InputError(f"{source} is neither a folder nor a zip", "name a folder or a zip of crops (train/prepare.py makes them)")


def _decode(item: tuple[str, bytes]) -> np.ndarray:
    name, encoded = item
    image = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR) if encoded else None
    if image is None:
        raise InputError(f"{name} is not a readable picture", "remove it, or make the crops again with train/prepare.py")
    if image.shape != (SIZE, SIZE, 3):
        found = f"{image.shape[1]}x{image.shape[0]}"
        raise InputError(f"{name} is {found}, a crop is {SIZE}x{SIZE}", "make crops of your photos with train/prepare.py")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def read_crops(sources: Iterable[Path], without: Set[str] = frozenset(), only: Set[str] | None = None) -> Crops:
    """All crops of `sources` but those named in `without` (or just those in `only`). Raises InputError if none is left."""
    chosen = [item for source in sources for item in pictures(Path(source)) if item[0] not in without and (only is None or item[0] in only)]
    if not chosen:
        raise InputError(f"no crops in {', '.join(map(str, sources))}", "name a folder or a zip that holds pictures of aligned faces")
    images = np.empty((len(chosen), SIZE, SIZE, 3), np.uint8)
    with ThreadPoolExecutor() as pool:
        for row, image in enumerate(pool.map(_decode, chosen)):
            images[row] = image
    return Crops(images, [name for name, _ in chosen])


@dataclass(frozen=True)
class Pairs:
    """Pairs of crops of an LFW protocol file: `left` and `right` names [N] (Person/Person_0001), `same` bool [N], `folds` int [N]."""

    left: list[str]
    right: list[str]
    same: np.ndarray
    folds: np.ndarray


def read_pairs(path: Path) -> Pairs:
    """LFW's pairs.txt (10 folds) or pairsDev*.txt (one): per fold N lines `name i j`, then N lines `name i other j`."""
    try:
        lines = [line.split("\t") for line in Path(path).read_text("utf-8").splitlines() if line.strip()]
        folds, size = (1, int(lines[0][0])) if len(lines[0]) == 1 else (int(lines[0][0]), int(lines[0][1]))
        rows = lines[1:]
        if len(rows) != folds * size * 2:
            raise ValueError(f"{len(rows)} pairs where its first line promises {folds * size * 2}")
        left, right, same = [], [], []
        for row in rows:
            name, i, other, j = row if len(row) == 4 else (row[0], row[1], row[0], row[2])
            left.append(f"{name}/{name}_{int(i):04d}")
            right.append(f"{other}/{other}_{int(j):04d}")
            same.append(len(row) == 3)
    except (OSError, UnicodeDecodeError, ValueError, IndexError) as error:
        raise InputError(f"{path} is not an LFW protocol file ({error})", "name a pairs.txt or pairsDevTest.txt") from error
    return Pairs(left, right, np.array(same), np.repeat(np.arange(folds), 2 * size))
