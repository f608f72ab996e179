"""Two programs that change a gallery and one that reads it, for a minute: does anybody see "database is locked"?

  python benchmarks/gallery_writers.py --seconds 60

Each writer enrols a person and removes the last one or renames him, opening the gallery anew now and then; the reader opens, lists
and reads all templates. Exit status 1: anybody saw an error.
"""

import argparse
import multiprocessing
import sys
import tempfile
import time
from multiprocessing.queues import Queue
from pathlib import Path

import numpy as np

from device.bundle import Bundle
from device.gallery import Gallery, Template
from device.program import HOLDS_NOT, Parser, run

ENCODER = "0123456789abcdef"
BUNDLE = Bundle(Path("none"), {"encoder": ENCODER, "dimension": 128, "preprocessing": {"version": 1}})
REOPEN = 20  # turns with one connection
STANDING = 50  # people who are there all the time


def templates(seed: int) -> list[Template]:
    rows = np.random.default_rng(seed).normal(size=(3, 128)).astype(np.float32)
    return [Template(row / np.linalg.norm(row), ENCODER, 1, "none", 0.9, "photo.jpg") for row in rows]


def write(path: Path, who: str, end: float, answers: Queue) -> None:
    """Enrol, rename and remove; tells how many verbs, the longest one in seconds, and the errors."""
    done, longest, errors = 0, 0.0, []
    while time.monotonic() < end:
        with Gallery(path) as gallery:
            for turn in range(REOPEN):
                name = f"{who} {turn}"
                steps = (
                    (gallery.add, name, templates(turn)),
                    (gallery.rename, name, f"{name} again"),
                    (gallery.remove, f"{name} again"),
                )
                for verb, *arguments in steps:
                    began = time.monotonic()
                    try:
                        verb(*arguments)
                    except Exception as error:
                        errors.append(str(error))
                    done, longest = done + 1, max(longest, time.monotonic() - began)
                if time.monotonic() > end:
                    break
    answers.put((who, done, longest, errors))


def read(path: Path, who: str, end: float, answers: Queue) -> None:
    done, longest, errors = 0, 0.0, []
    while time.monotonic() < end:
        began = time.monotonic()
        try:
            with Gallery(path) as gallery:
                people = gallery.people()
                _, names = gallery.templates(BUNDLE)
                if any(person.templates != 3 for person in people) or not 3 * STANDING <= len(names) <= 3 * STANDING + 6:
                    errors.append("a person is half there")
        except Exception as error:
            errors.append(str(error))
        done, longest = done + 1, max(longest, time.monotonic() - began)
    answers.put((who, done, longest, errors))


def together(folder: Path, seconds: float) -> list[tuple[str, int, float, list[str]]]:
    """What two writers and a reader told: who, how many verbs, the longest in seconds, and the errors that they saw."""
    path = folder / "gallery.db"
    with Gallery(path, create=True) as gallery:
        gallery.load([(f"standing {number}", templates(number)) for number in range(STANDING)])
    context = multiprocessing.get_context("spawn")
    answers, end = context.Queue(), time.monotonic() + seconds  # the clock is the machine's, the same for all processes
    roles = [(write, "first writer"), (write, "second writer"), (read, "reader")]
    processes = [context.Process(target=role, args=(path, who, end, answers)) for role, who in roles]
    for process in processes:
        process.start()
    told = [answers.get() for _ in processes]
    for process in processes:
        process.join()
    return sorted(told)


def _main(args: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory() as folder:
        told = together(Path(folder), args.seconds)
    for who, done, longest, errors in told:
        print(
            f"{who}: {done} {'reads' if who == 'reader' else 'verbs'}, the longest took {longest:.2f} s, {len(errors)} errors {errors[:3]}"
        )
    return HOLDS_NOT if any(errors for *_, errors in told) else 0


def main(argv: list[str] | None = None) -> int:
    parser = Parser(__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="for how long (default: %(default)s)")
    return run(_main, parser, argv)


if __name__ == "__main__":
    sys.exit(main())
