"""Every family of encoders taught alike, so that their accuracies can be compared: for benchmarks/encoders.py.

  python benchmarks/families.py --data ../shared/data --out build/families
  python benchmarks/encoders.py build/families/*/

dlib's face model teaches each, from random weights, on the same 112x112 crops in the same order, for as many views; then 8 bits by
calibration alone. Too short a training for any of them: the shipped encoder saw fourteen times as much. About an hour and a half
on two cores; run it again and it goes on where it broke off. Each is a bundle in --out, with LFW's 6,000 pairs in its report.json.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from encoders import SHAPES
from small_scale import BATCH, UNLABELLED, common, crops, tuned

from convert import quantize
from device.align import SIZE
from device.program import run
from train import encoders, finetune

CALIBRATION = 2_000  # crops at most that ranges are chosen from


def made(architecture: str, width: float, args: argparse.Namespace) -> Path:
    """The bundle of that encoder, taught or there already."""
    name = encoders.build(architecture, width=width).name
    out, folder = args.out / name, args.out.with_name(f"{args.out.name}-runs") / name
    if out.exists():
        return out
    sources, cohort = crops(args.data, UNLABELLED), args.data / "crops" / "cohort.txt"
    settings = finetune.Settings(
        crops=sources,
        without=str(cohort),
        limit=args.limit,
        teacher="dlib",
        cache=str(args.out.with_name(f"{args.out.name}-teacher")),
        architecture=architecture,
        rate=2e-3,
    )
    shape: dict[str, Any] = {"size": SIZE, "width": width, "batch": BATCH, "precision": "mixed_bfloat16"}
    encoder = tuned(settings, args.steps, folder, shape)
    asked = quantize.Settings(encoder, tuple(map(Path, sources)), cohort, args.data / "lfw", "ptq", limit=CALIBRATION)
    told = quantize.Told(recipe="python benchmarks/families.py", taught="dlib's face model, briefly", licence="research, non-commercial")
    return quantize.make_bundle(asked, out, told, folder / "quantised.html").path


def _main(args: argparse.Namespace) -> int:
    args.out.mkdir(parents=True, exist_ok=True)
    for architecture, width in SHAPES:
        print(made(architecture, width, args), flush=True)
    return 0


def main(argv: list[str] | None = None) -> int:
    parser = common(__doc__, "build/families")
    parser.add_argument("--steps", type=int, default=800, help=f"of {BATCH} views each (default %(default)s)")
    return run(_main, parser, argv)


if __name__ == "__main__":
    sys.exit(main())
