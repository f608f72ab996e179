"""What a SimSiam start buys the shipped recipe: an encoder distilled from a teacher, with and without it, on few and on many pictures.

  python benchmarks/starts.py --data ../shared/data --out build/starts

A small encoder learns what the teacher says of the unlabelled crops of utkface, aaf and celeba10k, all of them and a tenth:

  SimSiam              pretrained on these pictures without a teacher, then distilled
  random, as long      distilled from random weights for as many views as pretraining and distilling take together
  random, distil only  distilled from random weights for as many views as the distilling above

Pretraining takes as many steps whatever the number of pictures. About three quarters of an hour on two cores; run it again and it
goes on where it broke off. Writes starts.json and starts.md to --out.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from small_scale import BATCH, UNLABELLED, Judge, Results, Start, arguments, crops, machine, table, tell, tuned

from device.program import run
from train import encoders, finetune
from train.data import read_crops, read_list

PART = 10  # of all pictures, one in so many
SIMSIAM, AS_LONG, DISTIL = STARTS = ("SimSiam", "random, as long", "random, distil only")


def measured(data: Path, out: Path, start: Path, steps: int, epochs: int, limit: int | None) -> Results:
    results, judge = Results(out / "starts.json"), Judge(data)
    without = data / "crops" / "cohort.txt"
    count = len(read_crops(map(Path, crops(data, UNLABELLED)), read_list(without))) if limit is None else limit
    for pictures, begun in ((count, Start(data, start, epochs, limit)), (count // PART, None)):
        begun = begun or Start(data, start.with_name(f"{start.name}-{pictures}"), PART * epochs, pictures)
        common: dict[str, Any] = {
            "crops": begun.settings.crops,
            "without": str(without),
            "limit": begun.limit,
            "objective": "distill",
            "teacher": "dlib",
            "cache": str(out / "teacher"),
        }
        alone = results.measure(f"SimSiam alone, {pictures}", lambda begun=begun: _alone(begun, judge))
        spent = {SIMSIAM: steps, AS_LONG: steps + alone["views"] // BATCH, DISTIL: steps}
        for name in STARTS:
            settings = finetune.Settings(init=str(begun.folder) if name == SIMSIAM else finetune.RANDOM, **common)
            row = {"start": name, "pictures": pictures, "steps": spent[name]}
            folder = out / f"{name.lower().replace(', ', '-').replace(' ', '-')}-{pictures}"

            def distil(settings=settings, row=row, folder=folder) -> dict[str, Any]:
                return {**row, **judge(encoders.load(str(tuned(settings, row["steps"], folder))))}

            results.measure(f"{name}, {pictures}", distil)
    return results


def _alone(start: Start, judge: Judge) -> dict[str, Any]:
    encoder = encoders.load(str(start.trained()))
    return {"start": "SimSiam alone", "pictures": len(start.images()), "steps": 0, "views": start.views(), **judge(encoder)}


def markdown(results: Results) -> str:
    rows = [
        (
            str(row["pictures"]),
            row["start"],
            str(row["steps"]),
            f"{row['accuracy']:.2%} +- {row['std']:.2%}",
            f"{row['auc']:.4f}",
            f"{row['tar']['0.01']:.1%}",
            f"{row['identification']['rank1']['mean']:.1%}",
        )
        for row in results.rows.values()
    ]
    columns = ("pictures", "start", "steps of distilling", "LFW, 6,000 pairs", "AUC", "TAR at FAR 0.01", "rank-1, one shot")
    return f"{machine()}. Batches of {BATCH} views.\n\n{table(columns, rows)}"


def _main(args: argparse.Namespace) -> int:
    args.out.mkdir(parents=True, exist_ok=True)
    tell(markdown(measured(args.data, args.out, args.start, args.steps, args.pretraining, args.limit)), args.out / "starts.md")
    return 0


def main(argv: list[str] | None = None) -> int:
    return run(_main, arguments(__doc__, "build/starts", steps=600), argv)


if __name__ == "__main__":
    sys.exit(main())
