"""ReLU6, PReLU and swish in one and the same encoder: what 8 bits cost each, and what each costs on a CPU.

  python benchmarks/activations.py
  python benchmarks/activations.py --only speed

Prints two Markdown tables. Accuracy: a small encoder (fused, half width, 64x64) per activation learns the shipped float encoder's
embeddings from a few thousand crops, is converted with TensorFlow's own post-training quantisation, and is compared with itself
in float on crops that it never saw. Speed: the full-size encoder (112x112; random weights, which do not matter to it), full int8.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import tensorflow as tf
import tf_keras as keras

from convert import check
from device import align, bundle
from device.demo import shared_data
from device.embed import Encoder
from device.program import InputError, Parser, run
from train import data, encoders, metrics, probes

SHIPPED = bundle.MODELS / "simsiam-fused" / "encoder.keras"
CROPS = ("utkface.zip", "aaf.zip")
SIZE, WIDTH = 64, 0.5
HELD_OUT = 1000
CALIBRATION = 256
BATCH, RATE = 64, 2e-3
RUNS, FACES = 7, 60  # of the timing: the best of RUNS means

encoders.ACTIVATIONS["prelu"] = lambda name: keras.layers.PReLU(alpha_initializer="zeros", shared_axes=[1, 2], name=name)
ACTIVATIONS = {"relu": "ReLU6", "prelu": "PReLU", "swish": "swish"}


def shrunk(crops: np.ndarray) -> np.ndarray:
    """Crops uint8 [N, 112, 112, 3] at the small encoder's size."""
    return np.concatenate([tf.image.resize(part, (SIZE, SIZE), antialias=True).numpy().round().astype(np.uint8) for part in batches(crops)])


def batches(crops: np.ndarray) -> list[np.ndarray]:
    return [crops[start : start + 256] for start in range(0, len(crops), 256)]


def learnt(activation: str, small: np.ndarray, targets: np.ndarray, epochs: int, seed: int) -> keras.Model:
    """An encoder with this activation that gives `targets` float32 [N, D] (unit rows) for crops uint8 [N, SIZE, SIZE, 3]."""
    keras.utils.set_random_seed(seed)
    model = encoders.build("fused", size=SIZE, width=WIDTH, activation=activation)
    steps = epochs * (len(small) // BATCH)
    rate = keras.optimizers.schedules.CosineDecay(0.0, steps, warmup_target=RATE, warmup_steps=steps // 10)
    model.compile(optimizer=keras.optimizers.Adam(rate), loss=keras.losses.CosineSimilarity())
    model.fit(encoders.scale(small), targets, BATCH, epochs, verbose=0)
    return model


def quantised(model: keras.Model, crops: np.ndarray, path: Path) -> Path:
    """Write `model` in full int8, uint8 in and out, as TensorFlow's converter makes it with crops uint8 [N, S, S, 3] to calibrate."""
    call = tf.function(lambda x: model(x, training=False)).get_concrete_function(tf.TensorSpec((1, *model.input_shape[1:])))
    converter = tf.lite.TFLiteConverter.from_concrete_functions([call], model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([encoders.scale(crop[None])] for crop in crops)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.uint8
    path.write_bytes(converter.convert())
    return path


def int8_rows(path: Path, small: np.ndarray) -> np.ndarray:
    """Unit embeddings float32 [N, D] of the int8 model."""
    interpreter = tf.lite.Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    feed, fetch = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]
    scale, zero = fetch["quantization"]
    rows = []
    for crop in small:
        interpreter.set_tensor(feed, crop[None])
        interpreter.invoke()
        rows.append(scale * (interpreter.get_tensor(fetch["index"])[0].astype(np.float32) - zero))
    return _unit(np.array(rows))


def float_rows(model: keras.Model, small: np.ndarray) -> np.ndarray:
    return _unit(np.concatenate([model(encoders.scale(part), training=False).numpy() for part in batches(small)]))


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def milliseconds(path: Path, crops: np.ndarray) -> float:
    """Of one core for a face, crops uint8 [N, 112, 112, 3]: processor time, which others on the machine leave alone; the best mean."""
    encoder = Encoder(path, threads=1)
    times = []
    for _ in range(RUNS):
        begin = time.thread_time()
        encoder.embed(crops)
        times.append((time.thread_time() - begin) / len(crops))
    return 1000 * min(times)


def accuracy(args: argparse.Namespace) -> None:
    """Print the first table. The last HELD_OUT of the crops are only compared on."""
    folder = args.data or shared_data()
    if not (folder / "crops").is_dir():
        raise InputError(f"{folder / 'crops'} does not exist", "name the folder of the shared data with --data")
    cohort = data.read_list(folder / "crops" / "cohort.txt")
    crops = data.read_crops([folder / "crops" / name for name in CROPS], without=cohort).images
    crops = crops[np.random.default_rng(args.seed).permutation(len(crops))[: args.limit + HELD_OUT]]
    probe = probes.VerificationProbe.read(folder / "lfw" / "crops.zip", folder / "lfw" / "pairsDevTest.txt")
    targets, small = encoders.embed(encoders.load(str(args.encoder)), crops), shrunk(crops)
    tell("activation", "cosine to the teacher", "int8 to float, mean", "1st percentile", "LFW dev, float", "int8")
    tell(*["---"] * 6)
    for activation, name in ACTIVATIONS.items():
        model = learnt(activation, small[:-HELD_OUT], targets[:-HELD_OUT], args.epochs, args.seed)
        with tempfile.TemporaryDirectory() as place:
            path = quantised(model, small[:CALIBRATION], Path(place) / "small.tflite")
            before, after = float_rows(model, small[-HELD_OUT:]), int8_rows(path, small[-HELD_OUT:])
            mean, first = metrics.parity(before, after)
            learned = float((before * targets[-HELD_OUT:]).sum(axis=1).mean())
            told = [
                probe(embed)["accuracy"]
                for embed in (lambda c, m=model: float_rows(m, shrunk(c)), lambda c, p=path: int8_rows(p, shrunk(c)))
            ]
        tell(name, f"{learned:.3f}", f"{mean:.4f}", f"{first:.4f}", *(f"{share:.1%}" for share in told))


def speed() -> None:
    """Print the second table. Noise will do for crops."""
    crops = np.random.default_rng(0).integers(0, 256, (FACES, align.SIZE, align.SIZE, 3), np.uint8)
    tell("activation", "operations that map", "Edge TPU over USB 3, ms (estimated)", "one core, ms (measured)")
    tell(*["---"] * 4)
    for activation, name in ACTIVATIONS.items():
        with tempfile.TemporaryDirectory() as place:
            path = quantised(encoders.build("fused", activation=activation), crops[:8], Path(place) / "full.tflite")
            report = check.check(path)
            mapped = sum(operation["target"] == "tpu" for operation in report["operations"])
            estimate = report["latency_ms"]["usb3"]["estimate"]
            tell(name, f"{mapped} of {len(report['operations'])}", f"{estimate:.1f}", f"{milliseconds(path, crops):.2f}")


def tell(*cells: str) -> None:
    print(f"| {' | '.join(cells)} |", flush=True)


def _main(args: argparse.Namespace) -> int:
    if args.only != "speed":
        accuracy(args)
    if args.only != "accuracy":
        speed()
    return 0


def main(argv: list[str] | None = None) -> int:
    parser = Parser(__doc__)
    parser.add_argument("--data", type=Path, help="the shared data (default $OMOKAGE_DATA)")
    parser.add_argument("--encoder", type=Path, default=SHIPPED, help="the float encoder that teaches, .keras (%(default)s)")
    parser.add_argument("--only", choices=("accuracy", "speed"), help="one of the two tables")
    parser.add_argument("--limit", type=int, default=4000, help="crops to learn from (%(default)s)")
    parser.add_argument("--epochs", type=int, default=8, help="(%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    return run(_main, parser, argv)


if __name__ == "__main__":
    sys.exit(main())
