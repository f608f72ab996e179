"""The encoder families side by side: size, arithmetic, time, and what trained ones recognise.

  python benchmarks/encoders.py models/simsiam-fused

Prints a Markdown table. Size and time are those of full-int8 models with random weights, which do not matter to them; the
accuracies are those in the report.json of the bundles that are named (default: all shipped ones). The models are kept in
--out, so that a second run, on a machine at rest, takes seconds.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np

from convert import calibration, cost, quantize, tflite_graph
from device import bundle
from device.embed import Encoder
from device.program import Parser, replacing, run
from train import encoders

SHAPES = (("fused", 0.5), ("fused", 1.0), ("mobileface", 0.5), ("mobileface", 1.0), ("mobilenetv2", 0.5), ("mobilenetv2", 1.0))
FACES, RUNS = 10, 30
HOSTS = ("usb3", "pi4")


def int8(model, path: Path) -> None:
    """Write `model` as a full-int8 file, calibrated on noise."""
    folded = encoders.folded(model)
    student = quantize.fake_quantised(folded)
    found = quantize.reached(folded, np.random.default_rng(0).integers(0, 256, (8, 112, 112, 3)).astype(np.uint8))
    quantize.calibrate(student, {name: calibration.bounds(values, "min-max") for name, values in found.items()})
    with replacing(path) as temporary:
        temporary.write_bytes(quantize.to_tflite(student))


def milliseconds(path: Path) -> float:
    """A face on one core: the least of RUNS means."""
    encoder = Encoder(path, threads=1)
    crops = np.random.default_rng(0).integers(0, 256, (FACES, 112, 112, 3)).astype(np.uint8)
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        encoder.embed(crops)
        times.append((time.perf_counter() - start) / FACES)
    return 1000 * min(times)


def row(architecture: str, width: float, folder: Path, trained: dict[str, list[str]]) -> str:
    model = encoders.build(architecture, width=width)
    path = folder / f"{model.name}.tflite"
    if not path.exists():
        int8(model, path)
    estimate = cost.estimate(tflite_graph.read(path).graphs[0])
    facts = [
        model.name,
        f"{encoders.folded(model).count_params() / 1e6:.2f}",
        f"{sum(operation.macs for operation in estimate.operations) / 1e6:.0f}",
        f"{path.stat().st_size:,}",
        f"{milliseconds(path):.2f}",
        *(f"{1000 * estimate.latency(cost.HOSTS[host]).estimate:.1f}" for host in HOSTS),
        *trained.get(model.name, ["", "", ""]),
    ]
    print(f"{model.name} done", file=sys.stderr)
    return f"| {' | '.join(facts)} |"


def measured(path: Path) -> tuple[str, list[str]]:
    """The name of a bundle's family and width, and its LFW accuracies, float and int8, with the bundle's own name."""
    found = bundle.load(path)
    lfw = json.loads((found.path / "report.json").read_text("utf-8")).get("lfw")
    accuracies = [f"{lfw[kind]['accuracy']['mean']:.2%}" for kind in ("float", "int8")] if lfw else ["", ""]
    return encoders.load(str(found.path / "encoder.keras")).name, [*accuracies, found.name]


def _main(args: argparse.Namespace) -> int:
    bundles = args.bundles or sorted(path.parent for path in bundle.MODELS.glob("*/manifest.json"))
    trained = dict(sorted((measured(path) for path in bundles), key=lambda entry: entry[1][1]))  # of one family the best
    hosts = [f"Edge TPU, {host}, ms (estimate)" for host in HOSTS]
    columns = ["encoder", "M parameters", "MMAC", "int8 bytes", "ms a face, one core", *hosts, "LFW float", "LFW int8", "bundle"]
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for architecture, width in SHAPES:
        print(row(architecture, width, args.out, trained), flush=True)
    return 0


def main(argv: list[str] | None = None) -> int:
    parser = Parser(__doc__)
    parser.add_argument("bundles", type=Path, nargs="*", help="trained encoders whose accuracies are shown (default: all shipped)")
    parser.add_argument("--out", type=Path, default=Path("build/encoders"), help="folder of the int8 models (default %(default)s)")
    return run(_main, parser, argv)


if __name__ == "__main__":
    sys.exit(main())
