"""Self-supervised methods at the same budget: LFW after as many pictures of each, on one small encoder.

  python benchmarks/ssl_methods.py --data ../shared/data --out build/ssl-methods

Every row but the last two sees the same unlabelled faces (utkface, aaf, celeba10k less cohort.txt) in the same order, in batches of
256 and the same views; beside them the network as chance made it, and one trained on celeba_id's 299 labelled people for as many
pictures. About two hours on two cores; run it again and it goes on where it broke off. Nothing is chosen by LFW's test pairs:
ssl_ablation.py asks the development pairs. Writes ssl_methods.json and ssl_methods.md to --out.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from small_scale import (
    IDENTITIES,
    SHAPE,
    UNLABELLED,
    Budget,
    Judge,
    Results,
    common,
    crops,
    machine,
    pretrained,
    speed,
    table,
    tell,
    tuned,
    untrained,
)

from device.program import run
from train import encoders, finetune
from train.data import read_crops, read_list
from train.methods import METHODS
from train.views import PRESETS

RANDOM, SUPERVISED = "random", "supervised"
SHOTS = 3
COMMON: dict[str, Any] = {"batch": 256, "warmup": 0.05}
# Not measured yet: where two thousand steps on small crops are likely to want other figures than the papers' hundreds of thousands.
# Whoever tunes one by ssl_ablation.py tunes all, or the comparison is of guesses.
RECIPES: dict[str, dict[str, Any]] = {
    "simsiam": {"rate": 0.25, "projection": 512},
    "simclr": {},
    "byol": {"target_momentum": 0.99},  # 0.996 remembers hundreds of steps
    "swav": {"prototypes": 300},  # about as many as a batch has pictures
    "moco": {"rate": 0.3, "target_momentum": 0.99, "temperature": 0.1},
}


def measured(args: argparse.Namespace) -> Results:
    budget = Budget(args.data, args.pictures, args.limit)
    results, judge = Results(args.out / "ssl_methods.json"), Judge(args.data, SHOTS)
    for method in args.methods:
        settings = budget.settings(method=method, views=args.views, **COMMON | RECIPES[method])
        results.measure(method, lambda settings=settings: _of_run(judge, pretrained, settings, args.out / settings.method))
    sources, without = map(Path, crops(args.data, UNLABELLED)), read_list(args.data / "crops" / "cohort.txt")
    results.measure(RANDOM, lambda: judge(untrained(read_crops(sources, without).images[: args.limit])))
    labelled = finetune.Settings(
        crops=crops(args.data, ("celeba_id.zip",)),
        labels=str(args.data / "crops" / IDENTITIES),
        objective="softmax",
        limit=args.limit,
    )

    def train(settings: finetune.Settings, folder: Path) -> Path:
        return tuned(settings, max(args.pictures // SHAPE["batch"], 1), folder)

    results.measure(SUPERVISED, lambda: _of_run(judge, train, labelled, args.out / SUPERVISED))
    return results


def _of_run(judge: Judge, train: Callable[[Any, Path], Path], settings: Any, folder: Path) -> dict[str, Any]:
    encoder = encoders.load(str(train(settings, folder)))
    return {**judge(encoder), "images_per_second": speed(folder)}


def markdown(results: Results, args: argparse.Namespace) -> str:
    rows = [
        (
            name,
            f"{found['accuracy']:.2%} +- {found['std']:.2%}",
            f"{found['tar']['0.01']:.1%}",
            f"{found['identification']['rank1']['mean']:.1%}",
            f"{found['development']['accuracy']:.2%}",
            f"{found['images_per_second']:.0f}" if "images_per_second" in found else "",
        )
        for name, found in results.rows.items()
    ]
    columns = ("method", "LFW, 6,000 pairs", "TAR at FAR 0.01", f"rank-1, {SHOTS} shots", "LFW dev pairs", "images/s")
    return f"{machine()}. About {args.pictures} pictures each, views `{args.views}`.\n\n{table(columns, rows)}"


def _main(args: argparse.Namespace) -> int:
    args.out.mkdir(parents=True, exist_ok=True)
    tell(markdown(measured(args), args), args.out / "ssl_methods.md")
    return 0


def main(argv: list[str] | None = None) -> int:
    parser = common(__doc__, "build/ssl-methods")
    parser.add_argument("--pictures", type=int, default=500_000, help="of each training (default %(default)s)")
    parser.add_argument("--views", choices=list(PRESETS), default="face", help="(default %(default)s)")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS), help="(default: all)")
    return run(_main, parser, argv)


if __name__ == "__main__":
    sys.exit(main())
