"""Images a second of our SimSiam with its views, and of lightly's SimSiam (PyTorch) with the same encoder, in alternating rounds.

  python benchmarks/pretraining_speed.py --data DATA --install --out build/pretraining-speed

An image is a picture of which both views are drawn and learnt from. Both have all cores, crops decoded in memory, the same sizes and
the paper's views (arXiv:2011.10566, appendix A), and each runs in the fastest setting that a short trial finds: ours in float32 or
bfloat16; lightly in float32 or bfloat16, with or without channels_last, with 0 to 2 loader processes (benchmarks/lightly_simsiam.py).
Step only: on views that are already there. lightly lives in an environment of its own: --lightly-python names its Python, or
--install fetches it with pip (about 4 GB) into build/lightly-env.
"""

import argparse
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

from device.program import MissingError, Parser, replacing, run
from train import data, encoders
from train.methods import METHODS, options
from train.views import PRESETS, pairs

ENVIRONMENT = Path("build/lightly-env")
PEER = Path(__file__).with_name("lightly_simsiam.py")
POLICIES = ("float32", "mixed_bfloat16")


def interpreter(args: argparse.Namespace) -> Path:
    """The Python that has lightly. Raises MissingError if there is none and none may be fetched."""
    python = args.lightly_python or ENVIRONMENT / "bin" / "python"
    if args.install and not python.exists():
        venv.create(ENVIRONMENT, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "lightly"], check=True)
    if not python.exists():
        raise MissingError(f"there is no lightly ({python})", "add --install, or name its Python with --lightly-python")
    return python


class Peer:
    """lightly's training as a process that waits between rounds."""

    def __init__(self, python: Path, crops: Path, args: argparse.Namespace):
        told = [f"--{name}={getattr(args, name)}" for name in ("size", "width", "batch", "projection")]
        command = [str(python), str(PEER), f"--crops={crops}", f"--threads={os.cpu_count()}", *told]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.found = self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise MissingError(f"lightly ended with status {self._process.wait()}", "see what it said above")
        return json.loads(line)

    def __call__(self, count: int) -> float:
        assert self._process.stdin is not None
        print(count, file=self._process.stdin, flush=True)
        return self._answer()

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()


class Ours:
    """Our training, one step a call, as train/pretrain.py does it."""

    def __init__(self, crops: np.ndarray, args: argparse.Namespace, policy: str):
        with encoders.precision(policy):
            self.model = METHODS["simsiam"](
                encoders.build("fused", args.size, 128, args.width), options("simsiam", {"projection": args.projection})
            )
        self.model.ready(args.batch, 10**6)
        self._step = tf.function(self.model.train_step)
        views = replace(PRESETS["simsiam"], size=args.size)
        self._views = iter(pairs(tf.constant(crops), views, args.batch, 0, 0).repeat())

    def fixed(self) -> Iterator:
        return itertools.repeat(next(self._views))

    def __call__(self, count: int, views: Iterator | None = None) -> float:
        source, start = views or self._views, time.perf_counter()
        for _ in range(count):
            told = self._step(next(source))
        told["loss"].numpy()
        return time.perf_counter() - start

    def drawn(self, count: int) -> float:
        """The seconds of the views alone."""
        start = time.perf_counter()
        for _ in range(count):
            next(self._views)
        return time.perf_counter() - start


def best(crops: np.ndarray, args: argparse.Namespace) -> tuple[str, Ours, dict[str, float]]:
    """The faster precision, its training, and images a second of both, of the step alone."""
    found = {}
    for policy in POLICIES:
        ours = Ours(crops, args, policy)
        fixed = ours.fixed()
        ours(2, fixed)
        found[policy] = 6 * args.batch / ours(6, fixed)
        keras.backend.clear_session()
    policy = max(found, key=lambda name: found[name])
    ours = Ours(crops, args, policy)
    ours(2)
    return policy, ours, found


def measured(args: argparse.Namespace) -> dict[str, Any]:
    crops = data.read_crops([Path(args.data) / "crops" / args.crops]).images[: args.limit]
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "crops.npy", crops)
        peer = Peer(interpreter(args), Path(folder) / "crops.npy", args)
    try:
        policy, ours, step_only = best(crops, args)
        ours.drawn(4)  # what waits ready from before
        views_only = args.batches * args.batch / ours.drawn(args.batches)
        pictures, rounds = args.batches * args.batch, []
        for number in range(args.rounds):
            ours(2), peer(2)
            rounds.append({"ours": pictures / ours(args.batches), "lightly": pictures / peer(args.batches)})
            print(f"round {number + 1}: {rounds[-1]}", file=sys.stderr)
    finally:
        peer.close()
    middle = {name: statistics.median(row[name] for row in rounds) for name in ("ours", "lightly")}
    return {
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count(), "load": os.getloadavg()[0]},
        "setting": {name: getattr(args, name) for name in ("size", "width", "batch", "projection", "batches")},
        "ours": {
            "precision": policy,
            "step_only": step_only,
            "views_only": views_only,
            "tensorflow": tf.__version__,
            "parameters": ours.model.encoder.count_params(),
        },
        "lightly": peer.found,
        "rounds": rounds,
        "images_per_second": middle,
        "ratio": statistics.median(row["ours"] / row["lightly"] for row in rounds),
    }


def markdown(found: dict[str, Any]) -> str:
    ratios = ", ".join(f"{row['ours'] / row['lightly']:.2f}" for row in found["rounds"])
    setting, ours, peer = found["setting"], found["ours"], found["lightly"]
    versions = ", ".join(f"{name} {version}" for name, version in peer["versions"].items())
    lines = [
        f"{setting['size']}x{setting['size']} pixels, fused encoder of width {setting['width']}, batch {setting['batch']}, "
        f"projector of {setting['projection']}; {found['machine']['cores']} cores; medians of {len(found['rounds'])} alternating rounds",
        "",
        "| | setting | step only, images/s | with its views, images/s |",
        "|---|---|---|---|",
        f"| ours (TensorFlow {ours['tensorflow']}) | {ours['precision']} | {ours['step_only'][ours['precision']]:.0f} "
        f"| {found['images_per_second']['ours']:.0f} |",
        f"| lightly ({versions}) | {peer['precision']}, {peer['workers']} loader processes "
        f"| {peer['step_only'][peer['precision']]:.0f} | {found['images_per_second']['lightly']:.0f} |",
        "",
        f"Ratio {found['ratio']:.2f} (of each round: {ratios}). Our views alone: {ours['views_only']:.0f} images/s.",
    ]
    return "\n".join(lines) + "\n"


def _main(args: argparse.Namespace) -> int:
    found = measured(args)
    for suffix, text in ((".json", json.dumps(found, indent=1) + "\n"), (".md", markdown(found))):
        with replacing(args.out.with_suffix(suffix)) as temporary:
            temporary.write_text(text)
    print(markdown(found), end="")
    return 0


def main(argv: list[str] | None = None) -> int:
    parser = Parser(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with crops/ of aligned faces as zips")
    parser.add_argument("--crops", default="celeba10k.zip", help="the zip below crops/ (default %(default)s)")
    parser.add_argument("--limit", type=int, default=4096, help="of crops (default %(default)s)")
    parser.add_argument("--size", type=int, default=64, help="of a view in pixels (default %(default)s)")
    parser.add_argument("--width", type=float, default=0.5, help="of the encoder (default %(default)s)")
    parser.add_argument("--batch", type=int, default=128, help="(default %(default)s)")
    parser.add_argument("--projection", type=int, default=2048, help="width of the projector (default: the paper's, %(default)s)")
    parser.add_argument("--batches", type=int, default=24, help="of a round (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="(default %(default)s)")
    parser.add_argument("--lightly-python", type=Path, help=f"default {ENVIRONMENT}/bin/python")
    parser.add_argument("--install", action="store_true", help="fetch lightly with pip into that environment if it is not there")
    parser.add_argument("--out", type=Path, default=Path("build/pretraining-speed"), help="without suffix (default %(default)s)")
    return run(_main, parser, argv)


if __name__ == "__main__":
    sys.exit(main())
