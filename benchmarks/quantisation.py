"""What 8 bits cost, way by way: on an encoder of yours, and on one that is hard to quantise.

  python benchmarks/quantisation.py models/omokage-s
  python benchmarks/quantisation.py models/omokage-s --hard 2

Measures on LFW's 6,000 pairs: float, TensorFlow Lite's own post-training quantisation, and quantize.py's three ways (ptq,
qat and distill, all calibrated as its sweep chooses), each with the paired bootstrap interval of what it loses, and how like float
the embeddings of held-out crops stay. With --hard that of a MobileNetV2 with swish, which the given encoder teaches first (it
is kept in --out and not trained twice). Writes ENCODER.json and ENCODER.md to --out.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from convert import quantize
from device import bundle
from device.demo import shared_data
from device.embed import Encoder
from device.program import InputError, Parser, run
from train import data, encoders, evaluate, finetune, probes

OWN_CROPS = 512  # that calibrate TensorFlow Lite's own
CROPS = ("utkface.zip", "aaf.zip", "celeba10k.zip")
HARD: dict[str, Any] = {"architecture": "mobilenetv2", "width": 0.5, "activation": "swish", "rate": 3e-3}


def own_ptq(source: quantize.Source) -> bytes:
    """TensorFlow Lite's own post-training quantisation of the same encoder, calibrated on OWN_CROPS of the same crops."""

    @tf.function(input_signature=[tf.TensorSpec((1, *source.teacher.input_shape[1:]), tf.float32, name="crop")])
    def embed(crop: tf.Tensor) -> tf.Tensor:
        return source.teacher(crop, training=False)

    converter = tf.lite.TFLiteConverter.from_concrete_functions([embed.get_concrete_function()], source.teacher)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([encoders.scale(crop[None])] for crop in source.images[:OWN_CROPS])
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = tf.uint8
    converter.inference_output_type = tf.uint8
    return converter.convert()


def ways(source: quantize.Source, settings: quantize.Settings) -> Iterator[tuple[str, Callable[[], quantize.Quantised | bytes]]]:
    """(name, what makes the int8 model) of every way, from the simplest on."""
    yield "TensorFlow Lite's own", lambda: own_ptq(source)
    for method in quantize.METHODS:
        yield method, lambda method=method: quantize.quantise(source, replace(settings, method=method))


def measure(
    source: quantize.Source, settings: quantize.Settings, held_out: np.ndarray, probe: probes.VerificationProbe
) -> dict[str, dict[str, Any]]:
    """Each way's LFW figures, its loss against float, and its parity on `held_out` crops."""
    float_ = evaluate.verify(lambda crops: encoders.embed(source.teacher, crops), probe)
    reference = encoders.embed(source.teacher, held_out)
    found: dict[str, dict[str, Any]] = {"float": {"lfw": float_.as_json("float", "pairs.txt")}}
    for name, make in ways(source, settings):
        start = time.monotonic()
        made = make()
        seconds = time.monotonic() - start
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "encoder.tflite"
            path.write_bytes(made if isinstance(made, bytes) else made.tflite)
            int8 = Encoder(path)
            verified = evaluate.verify(int8.embed, probe)
            found[name] = {
                "lfw": verified.as_json(name, "pairs.txt"),
                "float_minus_this": evaluate.compare(verified, float_),
                **quantize.parities(reference, int8.embed(held_out)),
                "seconds": seconds,
            }
            if isinstance(made, quantize.Quantised):
                layers = quantize.layers(made, path, held_out[: quantize.LAYER_CROPS])
                found[name] |= {**made.log, "worst_layer": max(layers, key=lambda layer: layer["lost"])["name"]}
        print(f"{name}: {verified.result.accuracy:.2%} in {seconds:.0f} s", file=sys.stderr)
    return found


def taught(teacher: Path, crops: tuple[Path, ...], cohort: Path, out: Path, epochs: int) -> Path:
    """The .keras file of the hard encoder after so many epochs of learning the embeddings of `teacher`; the run `out` is gone on with."""
    learning = finetune.Settings(
        **HARD,
        crops=tuple(map(str, crops)),
        without=str(cohort),
        teacher=str(teacher),
        cache=str(out.parent / "teacher"),
        epochs=epochs,
        area=0.85,
        rotation=8.0,
        strength=0.3,
        erase=0.0,
    )
    return finetune.finetune(learning, out, resume=out.exists()).encoder


def table(name: str, found: dict[str, dict[str, Any]]) -> str:
    columns = ["", "LFW", "float minus this, points (95 %)", "AUC", "TAR at 1e-3", "cosine", "centred", "1st percentile", "worst layer"]
    lines = [f"**{name}**", "", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for way, figures in found.items():
        lfw = figures["lfw"]
        calibrated = " ({crops} crops, {ranges})".format(**figures["calibration"]) if "calibration" in figures else ""
        row = [way + calibrated, f"{lfw['accuracy']['mean']:.2%}", "", f"{lfw['auc']:.4f}", f"{lfw['tar']['0.001']:.2%}", "", "", "", ""]
        if "parity" in figures:
            points = {key: 100 * value for key, value in figures["float_minus_this"].items()}
            row[2] = "{difference:+.2f} ({low:+.2f} to {high:+.2f})".format(**points)
            centred = figures["parity_centred"]
            row[5:8] = [f"{v:.4f}" for v in (figures["parity"]["mean"], centred["mean"], centred["first_percentile"])]
            row[8] = figures.get("worst_layer", "")
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines) + "\n"


def sweep_table(tried: list[dict[str, Any]]) -> str:
    """Rows: crops; columns: ways of calibration; cells: cosine to float after the mean is removed."""
    kinds, sizes = (list(dict.fromkeys(entry[key] for entry in tried)) for key in ("ranges", "crops"))
    cells = {(entry["crops"], entry["ranges"]): f"{entry['mean']:.4f}" for entry in tried}
    lines = [f"| crops | {' | '.join(kinds)} |", "|---" * (1 + len(kinds)) + "|"]
    lines += [f"| {size} | {' | '.join(cells[size, kind] for kind in kinds)} |" for size in sizes]
    return "\n".join(lines) + "\n"


def float_of(path: Path) -> Path:
    """The .keras file of a bundle, or the file itself."""
    return bundle.load(path).path / "encoder.keras" if path.is_dir() else path


def _main(args: argparse.Namespace) -> int:
    folder = args.data or shared_data()
    if not (folder / "lfw").is_dir():
        raise InputError(f"{folder} holds no lfw", "name the shared data with --data")
    args.out.mkdir(parents=True, exist_ok=True)
    crops = tuple(folder / "crops" / name for name in CROPS)
    cohort = folder / "crops" / "cohort.txt"
    settings = quantize.Settings(float_of(args.encoder), crops, cohort, limit=args.limit, epochs=args.epochs)
    source = quantize.read(settings)
    held_out = quantize.held_out(data.read_crops(crops, only=data.read_list(cohort)).images)
    probe = probes.VerificationProbe.read(folder / "lfw" / "crops.zip", folder / "lfw" / "pairs.txt")
    name = args.encoder.stem
    if args.hard:
        hard = taught(settings.encoder, crops, cohort, args.out / "hard", args.hard)
        fewer = source.images[: len(source.images) // 2]  # it trains at half the speed
        source = quantize.Source(encoders.folded(encoders.load(str(hard))), fewer, source.watched)
        name = source.teacher.name
    found = measure(source, settings, held_out, probe)
    text = table(name, found) + "\n" + sweep_table(found["ptq"]["sweep"])
    (args.out / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
    (args.out / f"{name}.md").write_text(text)
    print(text)
    return 0


def main(argv: list[str] | None = None) -> int:
    parser = Parser(__doc__)
    parser.add_argument("encoder", type=Path, help="bundle, or .keras file")
    parser.add_argument("--out", type=Path, default=Path("build/quantisation"), help="(default %(default)s)")
    parser.add_argument("--data", type=Path, help="folder of the shared data (default $OMOKAGE_DATA)")
    parser.add_argument("--limit", type=int, default=8000, help="crops to train on (default %(default)s)")
    parser.add_argument("--epochs", type=int, default=1, help="(default %(default)s)")
    parser.add_argument("--hard", type=int, metavar="EPOCHS", help="measure the hard encoder, after so many epochs of learning")
    return run(_main, parser, argv)


if __name__ == "__main__":
    sys.exit(main())
