"""What self-supervision buys when labels are few: LFW and few-shot identification against the number of labelled people.

  python benchmarks/label_efficiency.py --data ../shared/data --out build/label_efficiency

A small encoder is tuned to 10, 30, 100 and 299 people of celeba_id and then to all identities of celeba10k too:

  SimSiam              pretrained without labels, then tuned
  random, as long      tuned from random weights for as many views as pretraining and tuning take together
  random, tuning only  tuned from random weights for as many views as the tuning above

With 0 people an encoder is judged as it starts. People who are in both sets are one person: identities decide, not
folders. About two hours on two cores; run it again and it goes on where it broke off. Writes label_efficiency.json,
label_efficiency.md and label_efficiency.png to --out.
"""

import argparse
import csv
import sys
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from small_scale import BATCH, IDENTITIES, LABELLED, Judge, Results, Start, arguments, crops, left_out, machine, table, tell, tuned

from device.program import replacing, run
from train import encoders, finetune, labels
from train.data import read_list

PEOPLE = (10, 30, 100, 299)  # of celeba_id; then everybody
SIMSIAM, AS_LONG, TUNING = STARTS = ("SimSiam", "random, as long", "random, tuning only")


def label_tables(data: Path, out: Path) -> dict[Path, tuple[int, int]]:
    """Tables of labels of ever more people, each with its number of people and of pictures."""
    everything = labels.read_table(data / "crops" / IDENTITIES)
    without = read_list(Path(left_out(data, out)))
    names = [name for name in everything if name.startswith("celeba_id/")]
    people, _ = labels.read(names, data / "crops" / IDENTITIES)
    chosen = [[name for name, ok in zip(names, labels.few(people, count, len(names)), strict=True) if ok] for count in PEOPLE]
    found = {}
    for rows in [*chosen, [name for name in everything if name not in without]]:
        count = len({everything[name] for name in rows})
        path = out / f"people-{count}.csv"
        with replacing(path) as temporary, temporary.open("w", newline="") as file:
            csv.writer(file).writerows([labels.COLUMNS, *((name, everything[name]) for name in rows)])
        found[path] = (count, len(rows))
    return found


def measured(start: Start, out: Path, steps: int, objective: str) -> Results:
    data, begun = start.data, start.trained()
    results, judge = Results(out / "label_efficiency.json"), Judge(data)
    nobody = {"people": 0, "pictures": 0, "steps": 0}
    results.measure(f"{SIMSIAM}, 0 people", lambda: {"start": SIMSIAM, **nobody, **judge(encoders.load(str(begun)))})
    untrained = results.measure(
        f"{AS_LONG}, 0 people", lambda: {"start": AS_LONG, **nobody, "views": start.views(), **judge(start.untrained())}
    )
    spent = {SIMSIAM: steps, AS_LONG: steps + untrained["views"] // BATCH, TUNING: steps}
    for path, (people, pictures) in label_tables(data, out).items():
        common: dict[str, Any] = {"labels": str(path), "without": left_out(data, out), "objective": objective}
        common["crops"] = crops(data, LABELLED if people > max(PEOPLE) else LABELLED[:1])
        for name in STARTS:
            settings = finetune.Settings(init=str(start.folder) if name == SIMSIAM else finetune.RANDOM, **common)
            row = {"start": name, "people": people, "pictures": pictures, "steps": spent[name]}
            folder = out / f"{name.lower().replace(', ', '-').replace(' ', '-')}-{people}"

            def tune(settings=settings, row=row, folder=folder) -> dict[str, Any]:
                return {**row, **judge(encoders.load(str(tuned(settings, row["steps"], folder))))}

            results.measure(f"{name}, {people} people", tune)
    return results


def markdown(results: Results, objective: str) -> str:
    rows = [
        (
            f"{row['people']} ({row['pictures']})",
            row["start"],
            str(row["steps"]),
            f"{_accuracy(row):.2%} +- {row['std']:.2%}",
            f"{row['auc']:.4f}",
            f"{_rank1(row):.1%}",
        )
        for row in sorted(results.rows.values(), key=lambda row: (row["people"], STARTS.index(row["start"])))
    ]
    columns = ("people (pictures)", "start", "steps", "LFW, 6,000 pairs", "AUC", "rank-1, one shot")
    return f"{machine()}. Objective {objective}, batches of {BATCH} views.\n\n{table(columns, rows)}"


def _accuracy(row: dict[str, Any]) -> float:
    return row["accuracy"]


def _rank1(row: dict[str, Any]) -> float:
    return row["identification"]["rank1"]["mean"]


def plot(results: Results, path: Path) -> None:
    """Accuracy and rank-1 against the number of labelled people, a line a start."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    shown = {"LFW, 6,000 pairs: right (%)": _accuracy, "LFW, one picture enrolled: rank-1 (%)": _rank1}
    for axes, (title, of) in zip(figure.subplots(1, 2), shown.items(), strict=True):
        for start, style in zip(STARTS, ("o-", "s--", "^:"), strict=True):
            rows = sorted((row["people"], 100 * of(row)) for row in results.rows.values() if row["start"] == start)
            axes.plot(*zip(*rows, strict=True), style, label=start)
        axes.set_xscale("symlog", linthresh=10)
        people = sorted({row["people"] for row in results.rows.values()})
        axes.set_xticks(people, map(str, people))
        axes.minorticks_off()
        axes.set(title=title, xlabel="labelled people", xlim=(-1, None))
        axes.grid(alpha=0.3)
    axes.legend()
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=100)


def _main(args: argparse.Namespace) -> int:
    args.out.mkdir(parents=True, exist_ok=True)
    start = Start(args.data, args.start, args.pretraining, args.limit)
    results = measured(start, args.out, args.steps, args.objective)
    tell(markdown(results, args.objective), args.out / "label_efficiency.md")
    plot(results, args.out / "label_efficiency.png")
    return 0


def main(argv: list[str] | None = None) -> int:
    parser = arguments(__doc__, "build/label_efficiency", steps=800)
    parser.add_argument("--objective", default="softmax", help="of labels, as benchmarks/objectives.py compares them (default %(default)s)")
    return run(_main, parser, argv)


if __name__ == "__main__":
    sys.exit(main())
