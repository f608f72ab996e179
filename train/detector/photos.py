"""The photos that the detector learns from, in memory with their faces."""

import hashlib
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from importlib import util
from pathlib import Path, PurePosixPath

import cv2
import numpy as np

from device.camera import PICTURES
from device.program import InputError
from train.data import pictures
from train.detector.teacher import NOBODY, Faces, Teacher, labels

KEPT_BACK = 10  # one photo in so many is for choosing settings, not for training
PACKAGES = {  # pictures without people that packages bring
    "skimage": ("data", ("brick", "chelsea", "coffee", "coins", "grass", "gravel", "page", "rocket", "text")),
    "sklearn": ("datasets/images", ("china", "flower")),
}


@dataclass(frozen=True)
class Photo:
    """A BGR `image` uint8 [H, W, 3] and its `faces`; `name` is that in its zip or folder."""

    name: str
    image: np.ndarray
    faces: Faces

    @cached_property
    def levels(self) -> list[np.ndarray]:
        """The image, and its halves, quarters and so on down to 16 pixels, averaged."""
        found = [self.image]
        while min(found[-1].shape[:2]) >= 32:
            height, width = found[-1].shape[:2]
            found.append(cv2.resize(found[-1], (width // 2, height // 2), interpolation=cv2.INTER_AREA))
        return found

    def level(self, scale: float) -> np.ndarray:
        """The smallest of `levels` that is at least `scale` times as large as the image, if one is."""
        return self.levels[min(max(int(-np.log2(scale)), 0), len(self.levels) - 1)]


def read(sources: Iterable[Path], without: Set[str] = frozenset(), every: int = 1) -> dict[str, np.ndarray]:
    """Name (source/path, no suffix) and BGR picture of the photos in folders or zips, every `every`-th one.

    `without` names photos to leave out, as they are called here or in their zip. Raises InputError for one that is unreadable.
    """
    found, left_out = {}, {_bare(name) for name in without}
    for source in sources:
        chosen = [item for item in pictures(Path(source)) if not left_out & {item[0], item[0].partition("/")[2]}]
        for name, encoded in chosen[::every]:
            image = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR) if encoded else None
            if image is None:
                raise InputError(f"{name} is not a readable picture", "remove it")
            found[name] = image
    return found


def _bare(name: str) -> str:
    path = PurePosixPath(name)
    return str(path.with_suffix("")) if path.suffix.lower() in PICTURES else name


def packaged() -> dict[str, np.ndarray]:
    """Pictures without people that installed packages bring."""
    found = {}
    for package, (folder, names) in PACKAGES.items():
        spec = util.find_spec(package)
        if spec is not None and spec.origin is not None:
            for path in sorted(Path(spec.origin).parent.joinpath(folder).iterdir()):
                if path.stem in names and (image := cv2.imread(str(path), cv2.IMREAD_COLOR)) is not None:
                    found[f"{package}/{path.stem}"] = image
    return found


def taught(images: dict[str, np.ndarray], teacher: Teacher, cache: Path) -> list[Photo]:
    """The photos with the faces that `teacher` sees."""
    faces = labels(teacher, list(images.values()), cache)
    return [Photo(name, image, seen) for (name, image), seen in zip(images.items(), faces, strict=True)]


def empty(images: dict[str, np.ndarray]) -> list[Photo]:
    """Photos that are known to show nobody: what a teacher sees there is wrong."""
    return [Photo(name, image, NOBODY) for name, image in images.items()]


def kept_back(photos: Sequence[Photo]) -> tuple[list[Photo], list[Photo]]:
    """(to train on, to choose settings by): by a digest of the name, so that more photos move none from one to the other."""
    aside = [int(hashlib.sha256(photo.name.encode()).hexdigest(), 16) % KEPT_BACK == 0 for photo in photos]
    return [p for p, a in zip(photos, aside, strict=True) if not a], [p for p, a in zip(photos, aside, strict=True) if a]
