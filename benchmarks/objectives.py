"""All objectives at equal compute from the same start: LFW after as many steps of each, from one small SimSiam encoder.

  python benchmarks/objectives.py --data ../shared/data --out build/objectives

Every row sees the same crops (celeba_id and celeba10k), the same views and the same number of steps on batches of 128;
`distill` has a teacher instead of labels. Below two hours on two cores; run it again and it goes on where it broke off.
Writes objectives.json and objectives.md to --out.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from small_scale import BATCH, IDENTITIES, LABELLED, Judge, Results, Start, arguments, crops, left_out, machine, table, tell, tuned

from device.program import run
from train import encoders, finetune, objectives

START = "SimSiam, the start"
PICTURES = 4  # of a person in a batch of pairs or triplets
ROWS: dict[str, dict[str, Any]] = {
    "contrastive": {"objective": "contrastive"},
    "triplet, batch-all": {"objective": "triplet", "mining": "batch-all"},
    "triplet, batch-hard": {"objective": "triplet", "mining": "batch-hard"},
    "triplet, semi-hard": {"objective": "triplet", "mining": "semi-hard"},
    "quadruplet": {"objective": "quadruplet"},
    "softmax": {"objective": "softmax"},
    "arcface": {"objective": "arcface"},
    "distill": {"objective": "distill", "teacher": "dlib"},
    "distill+triplet": {"objective": "distill+triplet", "teacher": "dlib"},
}


def measured(start: Start, out: Path, steps: int) -> Results:
    data, begun = start.data, start.trained()
    results, judge = Results(out / "objectives.json"), Judge(data)
    results.measure(START, lambda: judge(encoders.load(str(begun))))
    common: dict[str, Any] = {
        "crops": crops(data, LABELLED),
        "without": left_out(data, out),
        "limit": start.limit,
        "labels": str(data / "crops" / IDENTITIES),
        "init": str(start.folder),
        "people": BATCH // PICTURES,
        "pictures": PICTURES,
        "cache": str(out / "teacher"),
    }
    for name, own in ROWS.items():
        settings, folder = finetune.Settings(**common, **own), out / name.replace(", ", "-")

        def tune(settings=settings, folder=folder) -> dict[str, Any]:
            return judge(encoders.load(str(tuned(settings, steps, folder))))

        results.measure(name, tune)
    return results


def markdown(results: Results, steps: int) -> str:
    rows = [
        (
            name,
            _taught_by(name),
            f"{found['accuracy']:.2%} +- {found['std']:.2%}",
            f"{found['auc']:.4f}",
            f"{found['tar']['0.01']:.1%}",
            f"{found['identification']['rank1']['mean']:.1%}",
            f"{found['development']['accuracy']:.2%}",
        )
        for name, found in results.rows.items()
    ]
    columns = ("objective", "taught by", "LFW, 6,000 pairs", "AUC", "TAR at FAR 0.01", "rank-1, one shot", "LFW dev pairs")
    return f"{machine()}. {steps} steps of {BATCH} views each.\n\n{table(columns, rows)}"


def _taught_by(row: str) -> str:
    summands = objectives.terms(ROWS[row]["objective"]) if row in ROWS else []
    return ", ".join(objectives.OBJECTIVES[name].needs for _, name in summands) or "nobody"


def _main(args: argparse.Namespace) -> int:
    args.out.mkdir(parents=True, exist_ok=True)
    start = Start(args.data, args.start, args.pretraining, args.limit)
    tell(markdown(measured(start, args.out, args.steps), args.steps), args.out / "objectives.md")
    return 0


def main(argv: list[str] | None = None) -> int:
    return run(_main, arguments(__doc__, "build/objectives", steps=2000), argv)


if __name__ == "__main__":
    sys.exit(main())
