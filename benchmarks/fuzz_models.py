"""Damages model files at random and gives them to check.py and audit.py: no crash, no file over 5 s, no memory over 500 MB.

The seeds are the public pairs of source and compiled models. Each mutant is checked, costed, audited, and told as table, page and
JSON. A refusal (one line) is a good answer. Exit status 1 where something went wrong; the mutant is kept in --keep.

  python benchmarks/fuzz_models.py --data ../shared/data
  python benchmarks/fuzz_models.py --data ../shared/data --count 1000 --seed 7
"""

import argparse
import json
import random
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from convert import audit, check, page
from device.demo import shared_data
from device.program import HOLDS_NOT, InputError, Parser, run

SECONDS = 5.0
HANG = 120  # seconds, until a mutant is given up
MEGABYTES = 500
EDGES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFF0, 0x7FFFFFFF, 0x80000000, 0xFFFFFFF0, 0xFFFFFFFF)  # of 32-bit words


def mutant(content: bytes, chance: random.Random) -> bytes:
    """`content` after one to eight blows: bits, bytes and words changed, parts copied, cut out or off."""
    damaged = bytearray(content)
    for _ in range(chance.randint(1, 8)):
        if len(damaged) < 8:
            break
        chance.choice(BLOWS)(damaged, chance)
    return bytes(damaged)


def _place(damaged: bytearray, chance: random.Random, width: int = 1) -> int:
    """Anywhere, but mostly where the tables are rather than the weights: at the ends of the file."""
    last = len(damaged) - width
    if chance.random() < 0.7:
        near = min(last, 4096)
        return chance.randint(0, near) if chance.random() < 0.5 else chance.randint(last - near, last)
    return chance.randint(0, last)


def _bit(damaged: bytearray, chance: random.Random) -> None:
    damaged[_place(damaged, chance)] ^= 1 << chance.randrange(8)


def _byte(damaged: bytearray, chance: random.Random) -> None:
    damaged[_place(damaged, chance)] = chance.randrange(256)


def _word(damaged: bytearray, chance: random.Random) -> None:
    struct.pack_into("<I", damaged, _place(damaged, chance, 4) & ~3, chance.choice(EDGES))


def _nudge(damaged: bytearray, chance: random.Random) -> None:
    """An offset or a length that leads a little elsewhere."""
    place = _place(damaged, chance, 4) & ~3
    struct.pack_into("<I", damaged, place, (struct.unpack_from("<I", damaged, place)[0] + chance.choice((-8, -4, 4, 8, 64))) & 0xFFFFFFFF)


def _copy(damaged: bytearray, chance: random.Random) -> None:
    length = chance.randint(1, 64)
    source, target = _place(damaged, chance, min(length, len(damaged))), _place(damaged, chance, min(length, len(damaged)))
    damaged[target : target + length] = damaged[source : source + length]


def _cut(damaged: bytearray, chance: random.Random) -> None:
    place = _place(damaged, chance)
    del damaged[place : place + chance.randint(1, 64)]


def _end(damaged: bytearray, chance: random.Random) -> None:
    if chance.random() < 0.2:
        del damaged[chance.randint(8, len(damaged)) :]


BLOWS: tuple[Callable[[bytearray, random.Random], None], ...] = (_bit, _byte, _word, _word, _nudge, _nudge, _copy, _cut, _end)


def examine(path: Path) -> str:
    """All that check.py and audit.py do with `path`: "read", or "refused" in one line."""
    answer = "refused"
    for work in (_check, _audit):
        try:
            work(path)
            answer = "read"
        except InputError as error:
            str(error).encode()
    return answer


def _check(path: Path) -> None:
    report = check.check(path)
    json.dumps(report, allow_nan=False)
    check.table(report).encode()
    page.page([report]).encode()


def _audit(path: Path) -> None:
    report = audit.audit(path)
    json.dumps(report, allow_nan=False)
    audit.table(report).encode()


@dataclass(frozen=True)
class Outcome:
    """How many mutants were answered how, and the longest time that one took, in seconds of CPU (others may use the machine)."""

    answers: Counter[str]
    slowest: float

    @property
    def wrong(self) -> int:
        return self.answers["crashed"] + self.answers["too slow"]


def fuzz(seeds: list[Path], count: int, seed: int, keep: Path) -> Outcome:
    """What became of `count` mutants of the files `seeds`; those that were answered wrongly lie in `keep` afterwards."""
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    chance = random.Random(seed)
    contents = [path.read_bytes() for path in seeds]
    answers: Counter[str] = Counter()
    slowest = 0.0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mutant.tflite"
        for number in range(count):
            path.write_bytes(mutant(chance.choice(contents), chance))
            answer, took = _timed(path)
            slowest = max(slowest, took)
            answers[answer] += 1
            if answer in ("crashed", "too slow"):
                keep.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, keep / f"{answer.replace(' ', '-')}-{seed}-{number}.tflite")
    return Outcome(answers, slowest)


def _timed(path: Path) -> tuple[str, float]:
    begin = time.process_time()
    signal.alarm(HANG)  # a hang ends the program, as if interrupted
    try:
        answer = examine(path)
    except Exception:
        answer = "crashed"
        traceback.print_exc()
    signal.alarm(0)
    took = time.process_time() - begin
    return ("too slow" if took > SECONDS and answer != "crashed" else answer), took


def _main(args: argparse.Namespace) -> int:
    seeds = sorted((args.data / "edgetpu" / "pairs").glob("*/*.tflite"))
    if not seeds:
        raise InputError(f"{args.data} is not the shared data", "name its folder with --data")
    outcome = fuzz(seeds, args.count, args.seed, args.keep)
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    print(f"{args.count} mutants of {len(seeds)} files (seed {args.seed}): {dict(outcome.answers)}")
    print(f"slowest {outcome.slowest:.2f} s of CPU (limit {SECONDS:g}), most memory {megabytes:.0f} MB (limit {MEGABYTES})")
    return HOLDS_NOT if outcome.wrong or megabytes > MEGABYTES else 0


def main(argv: list[str] | None = None) -> int:
    parser = Parser(__doc__)
    parser.add_argument("--data", type=Path, default=shared_data(), help="the shared data (default $OMOKAGE_DATA)")
    parser.add_argument("--count", type=int, default=10_000, metavar="N", help="mutants (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the random numbers (%(default)s)")
    parser.add_argument("--keep", type=Path, default=Path("build") / "fuzz", metavar="DIR", help="where failures go (%(default)s)")
    return run(_main, parser, argv)


if __name__ == "__main__":
    sys.exit(main())
