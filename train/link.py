"""Train the linker of an encoder: the graph network by which faces without names are clustered (docs/few-labels.md).

  python train/link.py --encoder models/omokage-s
  python train/link.py --encoder models/omokage-s --conv gcn --out build/linker.npz

The first call adds linker.npz to the bundle. It learns from the labelled people of CelebA in the shared data, parted by person: a
part trains, the other chooses thresholds, the curve of the purity, and which method is the default. A minute or two on two cores.
Embeddings are kept in build/embeddings, so that only an encoder's first call makes them. benchmarks/clustering.py measures these
convolutions, and two that need eigenvectors, on other people.
"""

import argparse
import sys
import time
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from device import bundle, linker
from device.convolutions import CONVOLUTIONS
from device.demo import shared_data
from device.linker import CONVOLUTION
from device.program import Parser, run
from train import embedded, evaluate
from train.embedded import CELEBA


def _main(args: argparse.Namespace) -> int:
    from train.graph import training  # TensorFlow takes seconds to import

    encoder = evaluate.open_encoder(args.encoder or bundle.find(None).path)
    place = embedded.Place.of(args.out, encoder, linker.FILE)
    people, others = embedded.parted(embedded.celeba(encoder, args.data))
    settings, start = training.Settings(args.conv, epochs=args.epochs, seed=args.seed), time.monotonic()
    trained = training.train(people, settings)
    seconds = time.monotonic() - start
    chosen = training.choose(trained.likeness, others)
    made: dict[str, Any] = {"time": datetime.now(timezone.utc).isoformat(timespec="seconds")}
    made |= {"recipe": f"train/link.py --conv {args.conv} --epochs {args.epochs} --seed {args.seed}", "data": list(CELEBA)}
    made |= {
        "pictures": len(people),
        "people": len(set(people.identities.tolist())),
        "validation": chosen.scores,
        "seconds": round(seconds),
        "settings": asdict(settings),
    }
    place.write(trained.linker(encoder.identity, chosen, **made).save)
    print(
        f"{place.path}: {made['people']} people, {len(people)} pictures, {seconds:.0f} s; the linker from {chosen.linker_from} pictures on"
    )
    for pictures, scores in chosen.scores.items():
        told = ", ".join(f"{name} {score:.4f}" for name, score in scores.items())
        print(f"{pictures} pictures of people kept back, B-cubed F: {told}")
    return 0


def build_parser() -> Parser:
    parser = Parser(__doc__)
    parser.add_argument("--encoder", type=Path, help="what evaluate.py takes (default: the newest shipped bundle)")
    parser.add_argument("--data", type=Path, default=shared_data(), help="the shared data (default $OMOKAGE_DATA)")
    parser.add_argument("--out", type=Path, help="the file to write (default: added to the bundle of --encoder)")
    parser.add_argument("--conv", choices=tuple(CONVOLUTIONS), default=CONVOLUTION, help="the graph convolution (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    return parser


def main(argv: list[str] | None = None) -> int:
    return run(_main, build_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
