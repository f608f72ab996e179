"""What makes identity emerge without labels: one setting changed at a time, judged by LFW's development pairs.

  python benchmarks/ssl_ablation.py --data ../shared/data --out build/ssl-ablation
  python benchmarks/ssl_ablation.py --method simsiam --out build/ssl-ablation-simsiam

Every row is a training of its own on about as many pictures of the same faces, at 64x64, from the method's recipe with the views
`face`: views (geometry, colour, resolution, occlusion, mirror, crop), encoder, projector, batch, and what is the method's own. Four
minutes a row on two cores; rows that are done are not done again, --rows names some. pairsDevTest judges, never the test pairs.
Writes ssl_ablation.json and ssl_ablation.md to --out.
"""

import argparse
import sys
from typing import Any

from small_scale import Budget, Results, common, crops, machine, pretrained, speed, table, tell
from ssl_methods import COMMON, RECIPES

from device.program import InputError, run
from train import encoders, probes, runs
from train.methods import METHODS

BASE = "the recipe"
# What changes in each row, of pretrain's settings.
VIEWS: dict[str, dict[str, Any]] = {
    "the paper's views": {"views": "simsiam"},
    "no mirror": {"flip": 0.0},
    "no rotation, no shear": {"rotation": 0.0, "shear": 0.0},
    "no shift": {"shift": 0.0},
    "twice the geometry": {"rotation": 30.0, "shear": 0.5, "shift": 0.2},
    "no crop": {"area": 1.0},
    "crop of at least 0.4": {"area": 0.4},
    "crop of at least 0.2": {"area": 0.2},
    "no colour, no grey": {"strength": 0.0, "grey": 0.0},
    "half the colour": {"strength": 0.5},
    "no low resolution, no blur": {"coarse": 0.0, "blur": 0.0},
    "low resolution twice as often": {"coarse": 0.6},
    "no box": {"erase": 0.0},
    "a box always": {"erase": 1.0},
}
SIZES: dict[str, dict[str, Any]] = {
    "encoder of width 0.3": {"width": 0.3},
    "encoder of width 0.8": {"width": 0.8},
    "embedding of 256": {"dimension": 256},
    "batch of 64": {"batch": 64},
    "batch of 128": {"batch": 128},
    "batch of 512": {"batch": 512},
    "a third of the rate": {"rate": 1 / 3},
    "three times the rate": {"rate": 3.0},
    "weight decay of 5e-4": {"weight_decay": 5e-4},
}
PROJECTOR: dict[str, dict[str, Any]] = {"no projector": {"projection": 0}, "hidden layer of 512": {"hidden": 512}}
COOLER: dict[str, dict[str, Any]] = {"temperature of 0.05": {"temperature": 0.05}, "temperature of 0.2": {"temperature": 0.2}}
OWN: dict[str, dict[str, dict[str, Any]]] = {
    "simsiam": {
        "projector of 2048": {"projection": 2048},
        "projector of 128": {"projection": 128},
        "without weight decay": {"weight_decay": 0.0},
        "ten times the rate": {"rate": 10.0},
    },
    "simclr": PROJECTOR | COOLER,
    "byol": PROJECTOR | {"target momentum of 0.9": {"target_momentum": 0.9}, "target momentum of 0.999": {"target_momentum": 0.999}},
    "swav": PROJECTOR | {"100 prototypes": {"prototypes": 100}, "3000 prototypes": {"prototypes": 3000}},
    "moco": PROJECTOR | COOLER | {"queue of 1024": {"queue": 1024}, "queue of 16384": {"queue": 16384}},
}


def rows_of(method: str) -> dict[str, dict[str, Any]]:
    """The changes by name."""
    return {BASE: {}} | VIEWS | SIZES | OWN[method]


def measured(args: argparse.Namespace) -> Results:
    rows, asked = rows_of(args.method), args.rows or list(rows_of(args.method))
    if unknown := [name for name in asked if name not in rows]:
        raise InputError(f"no row is called {unknown[0]}", f"choose of: {'; '.join(rows)}")
    budget, results = Budget(args.data, args.pictures, args.limit), Results(args.out / "ssl_ablation.json")
    crops(args.data, ())  # said before LFW is read
    probe = probes.VerificationProbe.read(args.data / "lfw" / "crops.zip", args.data / "lfw" / "pairsDevTest.txt")
    recipe = {"method": args.method, "views": "face", **COMMON, **RECIPES[args.method]}
    usual = METHODS[args.method].takes().rate
    for name in asked:
        changed = dict(rows[name])
        if "rate" in changed:
            changed["rate"] *= recipe.get("rate", usual)
        settings, folder = budget.settings(**recipe | changed), args.out / name.replace(" ", "-").replace(",", "").replace("'", "")

        def train(settings=settings, folder=folder) -> dict[str, Any]:
            encoder = encoders.load(str(pretrained(settings, folder)))
            last = runs.Run.open(folder).epochs()[-1]
            found = probe(lambda some: encoders.embed(encoder, some))
            told = {key: last[key] for key in ("std", "std_healthy", "effective_rank")}
            return {**found, **told, "epochs": settings.epochs, "images_per_second": speed(folder)}

        results.measure(name, train)
    return results


def markdown(results: Results, args: argparse.Namespace) -> str:
    base = results.rows.get(BASE)
    rows = [
        (
            name,
            f"{found['accuracy']:.1%}",
            f"{100 * (found['accuracy'] - base['accuracy']):+.1f}" if base else "",
            f"{found['auc']:.4f}",
            f"{found['std'] / found['std_healthy']:.2f}",
            f"{found['effective_rank']:.0f}",
            f"{found['images_per_second']:.0f}",
        )
        for name, found in results.rows.items()
    ]
    columns = (args.method, "LFW dev pairs", "points", "AUC", "std, of 1/sqrt(d)", "rank", "images/s")
    return f"{machine()}. About {args.pictures} pictures each; 1,000 pairs: one point is noise.\n\n{table(columns, rows)}"


def _main(args: argparse.Namespace) -> int:
    args.out.mkdir(parents=True, exist_ok=True)
    tell(markdown(measured(args), args), args.out / "ssl_ablation.md")
    return 0


def main(argv: list[str] | None = None) -> int:
    parser = common(__doc__, "build/ssl-ablation")
    parser.add_argument("--method", choices=list(METHODS), default="simclr", help="(default %(default)s)")
    parser.add_argument("--pictures", type=int, default=100_000, help="of each training (default %(default)s)")
    parser.add_argument("--rows", nargs="+", metavar="ROW", help="some rows only, e.g. 'no mirror' 'no box'")
    return run(_main, parser, argv)


if __name__ == "__main__":
    sys.exit(main())
