"""Who is in a crop: labelled people for fine-tuning and for open-set tests.

A crop's person is the folder that it lies in (PERSON/PICTURE), or what a table says of it, a CSV file with a row
`picture,identity` for each crop, e.g. celeba10k/000001,2880.
"""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from device.program import InputError

UNKNOWN = -1
COLUMNS = ["picture", "identity"]


def read(names: Sequence[str], table: Path | None = None) -> tuple[np.ndarray, list[str]]:
    """Whose the crops `names` [N] (source/path) are: int32 [N], a number in the sorted list of people or UNKNOWN.

    Raises InputError where nobody is known.
    """
    listed = read_table(table) if table is not None else None
    whose = [_folder(name) if listed is None else listed.get(name) for name in names]
    people = sorted({person for person in whose if person is not None})
    if not people and table is not None:
        raise InputError(f"{table} names none of the {len(names)} crops", "write a crop's name as SOURCE/PATH, without its suffix")
    if not people:
        raise InputError("the crops lie in no folders of people", "give folders PERSON/PICTURE, or a table of labels")
    number = {person: index for index, person in enumerate(people)}
    return np.array([UNKNOWN if person is None else number[person] for person in whose], np.int32), people


def _folder(name: str) -> str | None:
    path = PurePosixPath(name)  # source, folders, picture
    return path.parent.name if len(path.parts) > 2 else None


def read_table(path: Path) -> dict[str, str]:
    """Crop's name to identity, from a CSV file that starts with the line `picture,identity`."""
    try:
        with Path(path).open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"cannot read the labels {path} ({error})", "name a CSV file picture,identity") from error
    wrong = next((number for number, row in enumerate(rows, 1) if len(row) != 2 or not all(row)), None)
    if rows[:1] != [COLUMNS]:
        raise InputError(f"{path} holds no labels: its first line is not {','.join(COLUMNS)}", "name a CSV file picture,identity")
    if wrong is not None:
        raise InputError(f"{path}, line {wrong}, is not a picture and an identity", "write it as picture,identity")
    return dict(rows[1:])


def refuse_empty_folders(sources: Iterable[Path]) -> None:
    """Raises InputError where a person's folder below one of the folders `sources` holds nothing."""
    for source in map(Path, sources):
        for folder in sorted(path for path in source.glob("*") if path.is_dir()) if source.is_dir() else ():
            if not any(path.is_file() for path in folder.rglob("*")):
                raise InputError(f"the folder {folder} is empty", f"add pictures of {folder.name}, or remove it")


def split(identities: np.ndarray, share: float, seed: int = 0) -> np.ndarray:
    """Part by person, never by picture: True [N] for the crops of a `share` of the people, drawn by `seed`.

    Crops of nobody known are on the other side. Raises InputError where one side would have nobody.
    """
    people = np.random.default_rng(seed).permutation(np.unique(identities[identities != UNKNOWN]))
    count = round(share * len(people))
    if not 0 < count < len(people):
        raise InputError(f"{len(people)} people cannot be parted {share:g} to {1 - share:g}", "add people, or choose another share")
    return np.isin(identities, people[:count])


def few(identities: np.ndarray, people: int, pictures: int, seed: int = 0) -> np.ndarray:
    """True [N] for at most `pictures` crops each of `people` people, drawn by `seed` among those who have two or more.

    A smaller draw of the same seed lies within a larger one, so that figures over either number compare like with like.
    Raises InputError where there are not so many people.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(identities))
    numbers, counts = np.unique(identities[identities != UNKNOWN], return_counts=True)
    several = rng.permutation(numbers[counts > 1])
    if people > len(several):
        raise InputError(f"{len(several)} people have two pictures or more, not {people}", "ask for fewer people, or add pictures")
    chosen = np.zeros(len(identities), bool)
    for person in several[:people]:
        chosen[order[identities[order] == person][:pictures]] = True
    return chosen
