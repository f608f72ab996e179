"""A folder of clusters that wait for names: what enroll.py cluster leaves and name-clusters reads.

    clusters.npz   embeddings, crops and what templates need, arrays and nothing that is executed
    sheet.png      the contact sheet, a row a cluster
    index.html     the same as a page that writes names.csv
    names.csv      cluster,name: to be filled in

All of it is for its owner's eyes alone, and holds pictures of people: delete it when it has served.
"""

import csv
import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from device.bundle import Bundle
from device.cluster import Clusters
from device.collect import Candidate
from device.coverage import Look, choose
from device.gallery import Template, valid_name
from device.program import InputError, StoredError
from device.store import private

STORED, SHEET, PAGE, NAMES = "clusters.npz", "sheet.png", "index.html", "names.csv"
COLUMNS = ["cluster", "name"]
IGNORE = "-"  # the name of what never matters
LEAST = 2  # pictures of a cluster that is shown


@dataclass(frozen=True, eq=False)
class Unnamed:
    """`clusters`: the rows of `templates`, best quality first, of each cluster of LEAST or more; the user counts from 1.

    `templates` have their crops. `purity`: of each cluster, or None.
    """

    templates: list[Template]
    clusters: list[list[int]]
    purity: list[float | None]

    @classmethod
    def of(cls, found: Clusters, templates: list[Template]) -> "Unnamed":
        members = [sorted(found.members(number).tolist(), key=lambda row: -templates[row].quality) for number in range(len(found))]
        shown = [number for number, rows in enumerate(members) if len(rows) >= LEAST]
        purity = [None if found.purity is None else float(found.purity[number]) for number in shown]
        return cls(templates, [members[number] for number in shown], purity)

    def as_json(self) -> list[dict[str, Any]]:
        return [
            {
                "id": number,
                "size": len(rows),
                "purity": None if purity is None else round(purity, 3),
                "pictures": [self.templates[row].source for row in rows],
            }
            for number, (rows, purity) in enumerate(zip(self.clusters, self.purity, strict=True), 1)
        ]


def templates_of(candidates: Sequence[Candidate], embeddings: np.ndarray, used: Bundle, detector: str) -> list[Template]:
    return [
        Template(row, used.encoder, used.preprocessing, detector, c.quality, c.source, c.look, c.crop)
        for row, c in zip(embeddings, candidates, strict=True)
    ]


def check_free(folder: Path) -> None:
    """Raises InputError where `folder` is in use: names in it are not written over."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is in use", "name another folder with --out, or delete it: its names go with it")


def save(folder: Path, unnamed: Unnamed) -> None:
    """Write clusters.npz and an empty names.csv into the new folder. Raises InputError where it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise InputError(f"cannot write to {folder} ({error.strerror})", "name another folder with --out") from error
    templates = unnamed.templates
    facts = [
        {name: value for name, value in asdict(t).items() if name not in ("embedding", "crop", "look")}
        | {"look": None if t.look is None else list(asdict(t.look).values())}
        for t in templates
    ]
    with private(folder / STORED) as temporary:
        np.savez(
            temporary,
            embeddings=np.stack([t.embedding for t in templates]),
            crops=np.stack([t.crop for t in templates if t.crop is not None]),
            facts=np.array(json.dumps({"templates": facts, "clusters": unnamed.clusters, "purity": unnamed.purity})),
        )
    write_names(folder, {str(number): "" for number in range(1, len(unnamed.clusters) + 1)})


def load(folder: Path) -> Unnamed:
    """What `save` wrote. Raises InputError (nothing there) or StoredError (damaged)."""
    path = Path(folder) / STORED
    if not path.is_file():
        raise InputError(f"{folder} holds no clusters", "name a folder that enroll.py cluster wrote")
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
            facts, rows, crops = json.loads(str(stored["facts"])), stored["embeddings"], stored["crops"]
        templates = [
            Template(row, crop=crop, look=None if look is None else Look(*look), **known)
            for row, crop, look, known in ((r, c, f.pop("look"), f) for r, c, f in zip(rows, crops, facts["templates"], strict=True))
        ]
        unnamed = Unnamed(templates, facts["clusters"], facts["purity"])
        if any(not 0 <= row < len(templates) for rows in unnamed.clusters for row in rows):
            raise ValueError("a picture is missing")
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise StoredError(f"{path} is damaged ({error})", "run enroll.py cluster again") from error
    return unnamed


def write_names(folder: Path, answers: dict[str, str]) -> None:
    with private(folder / NAMES) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([COLUMNS, *answers.items()])


def read_names(path: Path) -> dict[str, str]:
    """Cluster, or CLUSTER/PICTURE, to name. Raises InputError for anything but a CSV cluster,name that names each once."""
    try:
        with Path(path).open(newline="", encoding="utf-8-sig") as file:
            rows = [[cell.strip() for cell in row] for row in csv.reader(file) if any(cell.strip() for cell in row)]
    except (OSError, ValueError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"cannot read the names {path} ({reason})", "name a CSV file cluster,name") from error
    if rows[:1] != [COLUMNS]:
        raise InputError(f"{path} holds no names: its first line is not {','.join(COLUMNS)}", "write one like names.csv")
    answers: dict[str, str] = {}
    for row in rows[1:]:
        if len(row) != 2:
            raise InputError(f"{path}: {','.join(row)} is not a cluster and a name", "write cluster,name; quote a name with a comma")
        if answers.setdefault(row[0], row[1]) != row[1]:
            raise InputError(f"{path}: cluster {row[0]} has two names, {answers[row[0]]} and {row[1]}", "leave one of them")
    return answers


@dataclass(frozen=True, eq=False)
class Plan:
    """What answers come to: the `people` to be added, by name, in the order of the clusters; None has the faces to ignore.

    `left`: how many pictures get no name.
    """

    people: dict[str | None, list[Template]]
    left: int


def plan(unnamed: Unnamed, answers: dict[str, str]) -> Plan:
    """Whose the pictures are if `answers` hold: clusters of one name are merged, a picture that is named itself is split off its
    cluster, IGNORE is nobody who matters, and no name leaves pictures out. Raises InputError for what is not there."""
    named: dict[int, str] = {}
    for key, name in sorted(answers.items(), key=lambda answer: "/" in answer[0]):  # pictures after their clusters
        named.update(dict.fromkeys(_rows(unnamed, key), name))
    people: dict[str | None, list[Template]] = {}
    for rows in unnamed.clusters:
        for row in rows:
            if named.get(row):
                whose = None if named[row] == IGNORE else valid_name(named[row])
                people.setdefault(whose, []).append(unnamed.templates[row])
    return Plan(people, len(unnamed.templates) - sum(map(len, people.values())))


def _rows(unnamed: Unnamed, key: str) -> list[int]:
    """The rows that CLUSTER or CLUSTER/PICTURE means, both counted from 1."""
    cluster, slash, picture = key.partition("/")
    count = len(unnamed.clusters)
    if not cluster.isdecimal() or not 1 <= int(cluster) <= count:
        raise InputError(f"there is no cluster {cluster}", f"the clusters are 1 to {count}" if count else "none was found")
    rows = unnamed.clusters[int(cluster) - 1]
    if not slash:
        return rows
    if not picture.isdecimal() or not 1 <= int(picture) <= len(rows):
        raise InputError(f"cluster {cluster} has no picture {picture}", f"its pictures are 1 to {len(rows)}")
    return [rows[int(picture) - 1]]


def thinned(templates: Sequence[Template], most: int) -> list[Template]:
    """The best and most different of a person's."""
    chosen = choose(np.stack([t.embedding for t in templates]), [t.quality for t in templates], most)
    return [templates[index] for index in chosen]


def bare(template: Template) -> Template:
    """Without its crop: a gallery holds embeddings only."""
    return replace(template, crop=None)


def denying(template: Template) -> Template:
    """As a face that never matters."""
    return replace(template, denies=True)
