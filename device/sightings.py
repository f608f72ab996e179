"""Faces that nobody has named yet: all faces of a folder of photos, or the crops of a harvest."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from device import harvest
from device.align import align
from device.camera import pictures_in, read_picture
from device.collect import Candidate, Skipped
from device.coverage import SAME, look
from device.detect import Detector
from device.program import InputError
from device.quality import USEFUL, quality


def gather(folder: Path, detector: Detector) -> tuple[list[Candidate], list[Skipped]]:
    """Every useful face in the photos of `folder`, and what was of no use. The crops of a harvest are taken as they are.

    Raises InputError where there is no folder, no picture, or no face.
    """
    if not Path(folder).is_dir():
        raise InputError(f"{folder} is not a folder", "name a folder of photos, or one that recognize.py --harvest wrote")
    if harvest.is_harvest(folder):
        found: list[Candidate] = harvest.read(folder)
        skipped: list[Skipped] = []
    else:
        found, skipped = _detected(pictures_in(folder), detector)
    if not found:
        first = f" ({skipped[0].error.wrong})" if skipped else ""
        raise InputError(f"no face in {folder}{first}", "name a folder whose photos show faces, from the front and larger")
    return found, skipped


def _detected(photos: Iterable[Path], detector: Detector) -> tuple[list[Candidate], list[Skipped]]:
    found: list[Candidate] = []
    skipped: list[Skipped] = []
    for photo in photos:
        try:
            image = read_picture(photo)
        except InputError as error:
            skipped.append(Skipped(str(photo), error))
            continue
        faces = []
        for face in detector.detect(image):
            crop = align(image, face.landmarks)
            faces.append(Candidate(crop, quality(face, crop), str(photo), look(face.landmarks, crop)))
        useful = [face for face in faces if face.quality >= USEFUL]
        if not useful:
            wrong = f"no face in {photo}" if not faces else f"no face in {photo} is large and sharp enough"
            skipped.append(Skipped(str(photo), InputError(wrong, "choose a picture that shows faces larger")))
        found += [replace(face, source=f"{photo} face {number}") if len(useful) > 1 else face for number, face in enumerate(useful, 1)]
    return found, skipped


def distinct(embeddings: np.ndarray, qualities: list[float]) -> tuple[list[int], int]:
    """The rows of float32 unit [N, D] without those of the very same picture as a better one; how many went."""
    kept: list[int] = []
    rows = np.empty_like(embeddings)
    for row in sorted(range(len(embeddings)), key=lambda row: -qualities[row]):
        if not len(kept) or float((rows[: len(kept)] @ embeddings[row]).max()) < SAME:
            rows[len(kept)] = embeddings[row]
            kept.append(row)
    return sorted(kept), len(embeddings) - len(kept)
