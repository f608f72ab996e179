"""Kill -9 a program that enrols and removes people, over and over, and see what is left of the gallery each time.

  python benchmarks/gallery_crashes.py --cycles 1000

Each cycle a process enrols people of three templates and removes most of them again, and is killed at a random moment. Exit
status 1: the gallery did not open or is damaged, a person is half there, what was told as done is not, or the name or the
embeddings of somebody who is gone are still in a file.
"""

import argparse
import os
import random
import re
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from device.bundle import Bundle
from device.gallery import Gallery, Template
from device.program import HOLDS_NOT, Parser, run

ENCODER = "0123456789abcdef"
BUNDLE = Bundle(Path("none"), {"encoder": ENCODER, "dimension": 128, "preprocessing": {"version": 1}})
EACH = 3  # templates of a person
LONGEST_S = 0.25  # until the kill; a few enrolments and removals fit in
FEW = 5  # people who stay at most
NAME = re.compile(rb"Margarethe \d+-\d+ von Sorgenfrei")


def name_of(cycle: int, number: int) -> str:
    return f"Margarethe {cycle}-{number} von Sorgenfrei"


def templates_of(name: str) -> list[Template]:
    """The same for the same name, unlike for any other."""
    rows = np.random.default_rng(list(name.encode())).normal(size=(EACH, 128)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return [Template(row, ENCODER, 1, "none", 0.9, f"{name}.jpg") for row in rows]


def work(path: Path, cycle: int, pipe: int) -> None:
    """Enrol and remove until killed; every step is told before it begins and when it is done."""
    with Gallery(path, create=True) as gallery:
        here = [person.name for person in gallery.people()]
        for number in range(1_000_000):
            name = name_of(cycle, number)
            os.write(pipe, f"add {name}\n".encode())
            gallery.add(name, templates_of(name))
            os.write(pipe, f"added {name}\n".encode())
            here.append(name)
            while len(here) > FEW or (here and random.random() < 0.6):
                gone = here.pop(random.randrange(len(here)))
                os.write(pipe, f"remove {gone}\n".encode())
                gallery.remove(gone)
                os.write(pipe, f"removed {gone}\n".encode())


def killed(path: Path, cycle: int, after: float) -> list[tuple[str, str]]:
    """Let `work` go on for `after` seconds and kill it; what it told, as pairs of a step and a name."""
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        random.seed(cycle)
        try:
            work(path, cycle, into)
        finally:
            os._exit(1)
    os.close(into)
    time.sleep(after)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with os.fdopen(out, "rb") as pipe:
        told = pipe.read().decode()
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in told.splitlines()]


class Examiner:
    """Knows who is to be there, and looks at the gallery after each kill."""

    def __init__(self, folder: Path):
        self.path = folder / "gallery.db"
        self.present: set[str] = set()
        self.steps = 0
        self.faults: list[str] = []
        self._gone: set[str] = set()

    def examine(self, cycle: int, told: list[tuple[str, str]], all_gone: bool) -> None:
        """Compare the gallery with what was told. `all_gone`: look for everybody who ever went, not only for those of this cycle."""
        self.steps += len(told)
        sure = set(self.present)
        for step, name in told:
            (sure.add if step == "added" else sure.discard)(name)
        unsure = {name for step, name in told[-1:] if step in ("add", "remove")}  # killed in the middle of it
        if not self.path.exists():
            self.faults += [f"cycle {cycle}: no file"] * bool(sure)
            return
        with Gallery(self.path, create=True) as gallery:
            people = {person.name for person in gallery.people()}
            if people - unsure != sure - unsure:
                self.faults.append(f"cycle {cycle}: {len(people ^ sure)} people too many or missing")
            if gallery._db.execute("PRAGMA integrity_check").fetchone() != ("ok",):
                self.faults.append(f"cycle {cycle}: the file is damaged")
            embeddings, names = gallery.templates(BUNDLE)
            for name in people:
                own = embeddings[[owner == name for owner in names]]
                if not np.array_equal(own, [template.embedding for template in templates_of(name)]):
                    self.faults.append(f"cycle {cycle}: {name} is half there")
            new = {name for _, name in told} - people
            self._gone |= new
            self._search(cycle, {name for name in new if ("remove", name) in told})
        self._search(cycle, self._gone if all_gone else new)
        self.present = people

    def _search(self, cycle: int, gone: set[str]) -> None:
        """Neither names nor embeddings of those who have `gone` are in any file."""
        content = b"".join(path.read_bytes() for path in self.path.parent.iterdir())
        traces = {match.decode() for match in NAME.findall(content)} & gone
        traces |= {name for name in gone if any(template.embedding[:16].tobytes() in content for template in templates_of(name))}
        self.faults += [f"cycle {cycle}: traces of {name}" for name in sorted(traces)]


def crash(folder: Path, cycles: int, seed: int = 0) -> Examiner:
    """So many cycles in `folder`."""
    moments = random.Random(seed)
    examiner = Examiner(folder)
    for cycle in range(cycles):
        told = killed(examiner.path, cycle, moments.uniform(0.0, LONGEST_S))
        examiner.examine(cycle, told, all_gone=cycle % 100 == 99 or cycle == cycles - 1)
        if cycle % 100 == 99:
            print(f"{cycle + 1} of {cycles}, {len(examiner.faults)} faults", file=sys.stderr)
    return examiner


def _main(args: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory() as folder:
        examiner = crash(Path(folder), args.cycles)
    for fault in examiner.faults[:20]:
        print(fault)
    print(f"{args.cycles} kills, {examiner.steps} steps told by those killed, {len(examiner.faults)} faults")
    return HOLDS_NOT if examiner.faults else 0


def main(argv: list[str] | None = None) -> int:
    parser = Parser(__doc__)
    parser.add_argument("--cycles", type=int, default=1000, help="how many kills (default: %(default)s, a few minutes)")
    return run(_main, parser, argv)


if __name__ == "__main__":
    sys.exit(main())
