"""The verbs `cluster` and `name-clusters` of enroll.py: faces without names into clusters, and clusters into people."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

import cv2
import numpy as np

from device import sheet, unnamed
from device.bundle import Bundle
from device.cluster import cluster
from device.coverage import MOST, SAME
from device.detect import Detector
from device.embed import Encoder
from device.gallery import Gallery, Template
from device.program import InputError
from device.sightings import distinct, gather
from device.store import private
from device.unnamed import IGNORE, NAMES, PAGE, SHEET, Plan, Unnamed

HELP = f"""a name, or
  (nothing)      leave it out
  {IGNORE}              nobody who matters: its pictures are remembered as faces to ignore
  /3 5 NAME      split off its pictures 3 and 5: they show NAME (or {IGNORE}, or with no name nobody); the cluster is asked for again
Clusters of one name are merged. Ctrl-D ends the questions, Ctrl-C stops: what was answered is kept for the next call."""


def make(folder: Path, out: Path, used: Bundle, encoder: Encoder, detector: Detector, method: str | None) -> tuple[Unnamed, list[str]]:
    """Cluster the faces of `folder` into the new folder `out`; returns the clusters, and what to say about pictures of no use.

    Raises InputError: no folder, no face, one face alone, all the same picture, a folder in use.
    """
    unnamed.check_free(out)
    candidates, skipped = gather(folder, detector)
    embeddings = encoder.embed(np.stack([candidate.crop for candidate in candidates]))
    kept, same = distinct(embeddings, [candidate.quality for candidate in candidates])
    if len(kept) < 2:
        wrong = "shows one face only" if not same else f"shows the very same picture {len(candidates)} times"
        raise InputError(f"{folder} {wrong}, there is nothing to cluster", "add other pictures, or enrol it with enroll.py add")
    found = cluster(embeddings[kept], used, method)
    templates = unnamed.templates_of([candidates[row] for row in kept], embeddings[kept], used, detector.name)
    result = Unnamed.of(found, templates)
    unnamed.save(out, result)
    with private(out / PAGE) as temporary:
        temporary.write_text(sheet.page(result), "utf-8")
    if result.clusters:
        with private(out / SHEET) as temporary:
            cv2.imwrite(str(temporary), sheet.contact_sheet(result))
    hints = [f"skipped: {entry.error.wrong}" for entry in skipped]
    hints += [f"skipped: {same} copies of the very same picture"] if same else []
    return result, hints


def ask(folder: Path, found: Unnamed, typed: TextIO | None = None, say: Callable[[str], None] | None = None) -> dict[str, str]:
    """Ask for the name of every cluster, on a terminal; what is answered is in names.csv at once, also if it is interrupted.

    Clusters that have a name there already are not asked for again.
    """
    tell = say or (lambda text: print(text, file=sys.stderr, flush=True))
    answers = unnamed.read_names(folder / NAMES) if (folder / NAMES).is_file() else {}
    tell(f"look at {folder / SHEET} or {folder / PAGE}, and give for each cluster {HELP}")
    for number, rows in enumerate(found.clusters, 1):
        while not answers.get(str(number)):
            tell(f"cluster {number} of {len(found.clusters)}, {len(rows)} pictures: who is it?")
            line = (typed or sys.stdin).readline()
            if not line:
                return answers
            try:
                asked_again = _answered(answers, found, number, line.strip())
            except InputError as error:
                tell(str(error))
                continue
            unnamed.write_names(folder, answers)
            if not asked_again:
                break
    return answers


def _answered(answers: dict[str, str], found: Unnamed, number: int, line: str) -> bool:
    """Note an answer; whether the cluster is to be asked for again. Raises InputError, with nothing noted, for a wrong one."""
    if not line.startswith("/"):
        unnamed.plan(found, {str(number): line})
        answers[str(number)] = line
        return False
    words = line.removeprefix("/").split()
    count = next((place for place, word in enumerate(words) if not word.isdecimal()), len(words))
    if not count:
        raise InputError("no picture is named", "write /3 5 NAME to split off pictures 3 and 5")
    split = {f"{number}/{picture}": " ".join(words[count:]) for picture in words[:count]}
    unnamed.plan(found, split)
    answers.update(split)
    return True


def apply(gallery: Gallery, planned: Plan, more: bool, keep_crops: bool = False) -> dict[str, int]:
    """Add everybody of a plan to the gallery in one transaction; returns how many templates each person got.

    Raises InputError where there is nobody to add, a name is there already and not `more`, or all their pictures are there.
    """
    added: dict[str | None, list[Template]] = {}
    there = {person.name for person in gallery.people()}
    for name, templates in planned.people.items():
        known = [entry.template for entry in gallery.entries(name)] if name is None or (more and name in there) else []
        fresh = [t for t in templates if not any(float(t.embedding @ other.embedding) >= SAME for other in known)]
        if fresh and name is not None:
            added[name] = unnamed.thinned(fresh, MOST)
        elif fresh:
            added[None] = [unnamed.denying(template) for template in fresh]
    if not added:
        wrong = "no cluster has a name" if not planned.people else "all these pictures are in the gallery already"
        raise InputError(wrong, "write names into names.csv, or answer on a terminal" if not planned.people else "name other clusters")
    gallery.load([(name, rows if keep_crops else list(map(unnamed.bare, rows))) for name, rows in added.items()], more)
    return {name or IGNORE: len(templates) for name, templates in added.items()}
