"""For whom it works less well: false match rates by group of people, on pictures of strangers.

A group is a set of crops; all pairs within it are of two people. Strangers who have something in common (sex, origin, age)
are more alike than any two, and how much more differs from group to group (Grother et al. 2019, NISTIR 8280).
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from device.program import InputError
from train import metrics

COLUMNS = ["picture", "group"]
SEXES = ("male", "female")
RACES = ("White", "Black", "Asian", "Indian", "other")  # the words of UTKFace
AGES = ((0, 4), (5, 9), (10, 19), (20, 39), (40, 59), (60, 116))
# False non-matches need several pictures of the same person.
NOT_MEASURED = "false non-matches by group: these sets have one picture a person and no names"


@dataclass(frozen=True, eq=False)
class Rate:
    """The false match rate of a group of `pictures` crops, `times` that of all pairs."""

    group: str
    pictures: int
    rate: metrics.Estimate
    times: float | None  # None where no pair at all matches

    def as_json(self) -> dict:
        pairs = self.pictures * (self.pictures - 1) // 2
        return {"group": self.group, "pictures": self.pictures, "pairs": pairs, "fmr": self.rate.as_json(), "times_all": self.times}


def of_utkface(names: Sequence[str]) -> dict[str, np.ndarray]:
    """Groups by what UTKFace's file names say (age_sex_race_...): name of the group to rows int [n] of `names`.

    Sex, race, both, and age. Names that say nothing (a few lack the race) are in no group.
    """
    groups: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        age, sex, race = _facts(PurePosixPath(name).name)
        band = next((f"age {low}-{high}" for low, high in AGES if low <= age <= high), None)
        if sex is not None and race is not None and band is not None:
            for group in (sex, race, f"{race} {sex}", band):
                groups.setdefault(group, []).append(row)
    order = [*SEXES, *RACES, *(f"{race} {sex}" for race in RACES for sex in SEXES), *(f"age {low}-{high}" for low, high in AGES)]
    return {group: np.array(groups[group]) for group in order if group in groups}


def _facts(name: str) -> tuple[int, str | None, str | None]:
    """Age (-1: not said), sex and race of the person on a picture of UTKFace."""
    words = name.split("_")
    if len(words) < 4 or not all(word.isdecimal() for word in words[:3]):
        return -1, None, None
    age, sex, race = (int(word) for word in words[:3])
    return age, SEXES[sex] if sex < len(SEXES) else None, RACES[race] if race < len(RACES) else None


def of_table(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The same from a CSV file that starts with the line `picture,group`; a crop may be in several groups."""
    try:
        with Path(path).open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"cannot read the groups {path} ({error})", "name a CSV file picture,group") from error
    if rows[:1] != [COLUMNS] or any(len(row) != 2 for row in rows):
        raise InputError(f"{path} is not a table of groups", f"start it with {','.join(COLUMNS)} and give each row a picture and a group")
    row_of = {name: row for row, name in enumerate(names)}
    groups: dict[str, list[int]] = {}
    for picture, group in rows[1:]:
        if picture in row_of:
            groups.setdefault(group, []).append(row_of[picture])
    if not groups:
        raise InputError(f"{path} names none of the {len(names)} crops", "write a crop's name as SOURCE/PATH, without its suffix")
    return {group: np.unique(groups[group]) for group in sorted(groups)}


def distinct(images: np.ndarray) -> np.ndarray:
    """The rows int [n] of pictures that are not the same byte by byte as an earlier one, of `images` uint8 [N, H, W, 3]."""
    first: dict[bytes, int] = {}
    for row, image in enumerate(images):
        first.setdefault(image.tobytes(), row)
    return np.array(sorted(first.values()))


def threshold_at(embeddings: np.ndarray, far: float) -> float:
    """The cosine that a share `far` of all pairs of strangers, unit rows [N, D], reaches."""
    return float(np.quantile((embeddings @ embeddings.T)[np.triu_indices(len(embeddings), 1)], 1 - far))


def rates(embeddings: np.ndarray, groups: dict[str, np.ndarray], threshold: float) -> list[Rate]:
    """The false match rate at `threshold` of all pairs of strangers, float32 unit [N, D], and within each group of two or more."""
    match = embeddings @ embeddings.T >= threshold
    everybody = metrics.match_rate(match)
    found = [Rate("all", len(embeddings), everybody, 1.0)]
    for group, rows in groups.items():
        if len(rows) > 1:
            rate = metrics.match_rate(match[np.ix_(rows, rows)])
            found.append(Rate(group, len(rows), rate, rate.mean / everybody.mean if everybody.mean else None))
    return found
