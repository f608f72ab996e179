"""What whitening does to a SimSiam encoder: LFW's development pairs, before and after, for several strengths.

  python benchmarks/whitening.py runs/simsiam-64

Prints a Markdown table. The run's own crops fit the whitening; pairsDevTest judges it (never the test pairs).
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from device.demo import shared_data
from device.program import InputError, Parser, run
from train import data, encoders, pretrain, probes, runs

SHRINKS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)


def table(source: runs.Run, probe: probes.VerificationProbe) -> str:
    settings = source.settings(pretrain.Settings)
    model = pretrain.restored(source)
    without = data.read_list(Path(settings.without)) if settings.without else set()
    images = data.read_crops([Path(path) for path in settings.crops], without).images
    images = images[:: max(len(images) // pretrain.WHITENING_CROPS, 1)]
    raw = encoders.outputs(model.encoder, images)
    shares = np.sort(np.linalg.eigvalsh(np.cov(raw.T)))[::-1] / np.trace(np.cov(raw.T))
    rows = [("as SimSiam leaves it", model.encoder)]
    rows += [(f"whitened, shrink {shrink:g}", encoders.whitened(model.encoder, images, shrink)) for shrink in SHRINKS]
    lines = ["| embedding | accuracy | AUC |", "|---|---|---|"]
    for name, encoder in rows:
        found = probe(lambda crops, encoder=encoder: encoders.embed(encoder, crops))
        lines.append(f"| {name} | {found['accuracy']:.2%} | {found['auc']:.4f} |")
    lines.append(f"\nShare of the variance in the first direction {shares[0]:.0%}, in the first four {shares[:4].sum():.0%}.")
    return "\n".join(lines)


def _main(args: argparse.Namespace) -> int:
    lfw = args.lfw or shared_data() / "lfw"
    if not lfw.is_dir():
        raise InputError(f"{lfw} does not exist", "name the folder of crops.zip and pairsDevTest.txt with --lfw")
    probe = probes.VerificationProbe.read(lfw / "crops.zip", lfw / "pairsDevTest.txt")
    print(table(runs.Run.open(args.run), probe))
    return 0


def main(argv: list[str] | None = None) -> int:
    parser = Parser(__doc__)
    parser.add_argument("run", type=Path, help="run folder of train/pretrain.py")
    parser.add_argument("--lfw", type=Path, help="folder of crops.zip and pairsDevTest.txt (default $OMOKAGE_DATA/lfw)")
    return run(_main, parser, argv)


if __name__ == "__main__":
    sys.exit(main())
