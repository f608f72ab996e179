"""From sightings without names to people who are recognised, in a minute: the shared clips, one command a step.

  python benchmarks/one_minute.py --data ../shared/data --out build/one-minute

recognize.py --harvest keeps crops of clip `a` of four people and of two strangers; enroll.py cluster brings them together; a CSV
names the clusters of three people (this script knows from the file whom a person would recognise in the contact sheet);
enroll.py name-clusters enrols them; recognize.py then looks at their other clips and at those of strangers. Writes one_minute.json
to --out. Exit status 1 if a clip is told wrongly, or if all takes two minutes or more.
"""

import argparse
import contextlib
import io
import json
import shutil
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from device import enroll, recognize
from device.demo import shared_data
from device.program import HOLDS_NOT, InputError, OmokageError, Parser, replacing, run

HARVESTED = ("p1-a.mp4", "p2-a.mp4", "p3-a.mp4", "p4-a.mp4", "p5-a.mp4", "p6-a.mpg")
NAMED = ("p1", "p2", "p3")
LOOKED_AT = {f"{person}-{clip}.mp4": person if person in NAMED else None for person in (*NAMED, "p4") for clip in "bc"}
LOOKED_AT |= {"p7-a.mpg": None, "p11-a.mp4": None}
LIMIT = 120.0


class Steps:
    """Runs commands and takes their time."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def __call__(self, program: Any, *words: str) -> list[dict[str, Any]]:
        """The JSON lines that the program wrote. Raises OmokageError where it failed."""
        said, told, start = io.StringIO(), io.StringIO(), time.perf_counter()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(told):
            status = program.main([*words])
        seconds = time.perf_counter() - start
        command = " ".join((f"python device/{program.__name__.rpartition('.')[2]}.py", *words))
        if status:
            raise OmokageError(f"{command} ended with {status}", told.getvalue().strip())
        self.rows.append({"command": command, "seconds": round(seconds, 1)})
        print(f"{seconds:6.1f} s  {command}", flush=True)
        return [json.loads(line) for line in said.getvalue().splitlines()]


def names(clusters: list[dict[str, Any]]) -> dict[str, str]:
    """What a person would write into names.csv: a cluster's number and whom most of its pictures show."""
    answers = {}
    for cluster in clusters:
        clip, _ = Counter(Path(source.partition(" track")[0]).name for source in cluster["pictures"]).most_common(1)[0]
        answers[str(cluster["id"])] = clip.partition("-")[0] if clip.partition("-")[0] in NAMED else ""
    return answers


def seen(events: list[dict[str, Any]]) -> set[str | None]:
    """Who was told at the end of the tracks of a clip; None: somebody unknown."""
    return {event["name"] for event in events if event["event"] == "gone"}


def _main(args: argparse.Namespace) -> int:
    clips, out = args.data / "clips", args.out
    if not clips.is_dir():
        raise InputError(f"{args.data} is not the shared data", "name its folder with --data")
    for folder in (harvest := out / "harvest", clusters := out / "clusters"):
        shutil.rmtree(folder, ignore_errors=True)
    (gallery := out / "gallery.db").unlink(missing_ok=True)
    common = ["--encoder", args.encoder] if args.encoder else []
    look = ["--detector", args.detector, *(["--detector-model", str(args.detector_model)] if args.detector_model else [])]
    step = Steps()
    for clip in HARVESTED:
        step(recognize, "--source", str(clips / clip), "--harvest", str(harvest), "--gallery", str(gallery), "--json", *common, *look)
    (made,) = step(enroll, "cluster", str(harvest), "--out", str(clusters), "--json", *common)
    answers = names(made["clusters"])
    (csv := out / "names.csv").write_text("cluster,name\n" + "".join(f"{number},{name}\n" for number, name in answers.items()))
    step(enroll, "name-clusters", str(clusters), "--csv", str(csv), "--gallery", str(gallery), "--json")
    found = {}
    for clip, expected in LOOKED_AT.items():
        told = seen(step(recognize, "--source", str(clips / clip), "--gallery", str(gallery), "--json", *common, *look))
        found[clip] = {"expected": expected, "told": sorted(name or "unknown" for name in told), "right": told == {expected}}
    seconds = sum(row["seconds"] for row in step.rows)
    right = sum(one["right"] for one in found.values())
    with replacing(out / "one_minute.json") as temporary:
        report = {"steps": step.rows, "clusters": made["clusters"], "names": answers, "clips": found, "seconds": seconds}
        temporary.write_text(json.dumps(report, indent=1) + "\n")
    wrong = ", ".join(f"{clip}: {' and '.join(one['told']) or 'nobody'}" for clip, one in found.items() if not one["right"])
    named = sorted({name for name in answers.values() if name})
    told = f"{made['pictures']} crops, {len(made['clusters'])} clusters, {', '.join(named)} named"
    print(f"{told}; {right} of {len(found)} clips told rightly" + (f" ({wrong})" if wrong else "") + f"; {seconds:.0f} s in all")
    return 0 if right == len(found) and seconds < LIMIT else HOLDS_NOT


def main(argv: list[str] | None = None) -> int:
    parser = Parser(__doc__)
    parser.add_argument("--data", type=Path, default=shared_data(), help="the shared data (default $OMOKAGE_DATA)")
    parser.add_argument("--encoder", help="a bundle (default: the newest shipped one)")
    parser.add_argument("--detector", default="auto", help="as recognize.py takes it (default: %(default)s)")
    parser.add_argument("--detector-model", type=Path, help="as recognize.py takes it")
    parser.add_argument("--out", type=Path, default=Path("build/one-minute"))
    return run(_main, parser, argv)


if __name__ == "__main__":
    sys.exit(main())
