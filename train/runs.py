"""Run folders: what a training was told, what it measured, and where it can go on.

config.json      the settings, as given
metrics.jsonl    one object an epoch
checkpoints/     everything that resuming needs
encoder.keras    the network after the last whole epoch (detector.keras: of train/detector)
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import tensorflow as tf
import tf_keras as keras
from tqdm import tqdm

from device.program import InputError, OmokageError, Parser, StoredError, replacing
from train import encoders, probes

ENCODER = "encoder.keras"
RANK_CROPS = 2000  # how many training crops the effective rank is taken over

T = TypeVar("T")


@dataclass(frozen=True)
class Run:
    path: Path
    config: dict[str, Any]

    @classmethod
    def create(cls, path: Path, config: Any) -> "Run":
        """A new run folder for `config`, a dataclass. Raises InputError if the folder is in use."""
        check_free(path)
        run = cls(Path(path), asdict(config))
        with replacing(run.path / "config.json") as temporary:
            temporary.write_text(json.dumps(run.config, indent=1, default=str) + "\n")
        return run

    @classmethod
    def open(cls, path: Path) -> "Run":
        path = Path(path)
        try:
            return cls(path, json.loads((path / "config.json").read_text("utf-8")))
        except FileNotFoundError as error:
            raise InputError(f"{path} is not a run (it holds no config.json)", "name a folder that a training wrote") from error
        except (OSError, ValueError) as error:
            raise StoredError(f"{path / 'config.json'} is damaged ({error})", "start a new run") from error

    def settings(self, kind: type[T]) -> T:
        """What the run was started with, a dataclass `kind`. Raises StoredError if it is of another program."""
        try:
            return kind(**_tuples(self.config))
        except TypeError as error:
            raise StoredError(f"{self.path / 'config.json'} is not of this program ({error})", "start a new run") from error

    @property
    def encoder(self) -> Path:
        return self.path / ENCODER

    def log(self, **figures: float) -> None:
        """Append one line to metrics.jsonl."""
        with (self.path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(figures) + "\n")

    def save(self, model: keras.Model, name: str) -> None:
        with replacing(self.path / name) as temporary:
            model.save(temporary, save_format="keras")


def add_arguments(parser: Parser, settings: Any) -> None:
    """The options that every training has, with the defaults of `settings`, its dataclass."""
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--out", type=Path, help="folder of a new run")
    where.add_argument("--resume", type=Path, help="run folder to go on with; its own settings apply")
    given = parser.add_argument
    given("--batch", type=int, default=settings.batch, help="(default %(default)s)")
    given("--epochs", type=int, default=settings.epochs, help="(default %(default)s)")
    given("--warmup", type=float, default=settings.warmup, help="share of all steps over which the rate rises (default %(default)s)")
    given("--weight-decay", type=float, default=settings.weight_decay, help="(default %(default)s)")
    given("--precision", choices=("float32", "mixed_bfloat16"), default=settings.precision)
    given("--seed", type=int, default=settings.seed)


def asked(args: argparse.Namespace, kind: type[T]) -> tuple[T, Path]:
    """The settings, a dataclass `kind`, and the folder of the run that is to be begun or gone on with."""
    if args.resume is not None:
        return Run.open(args.resume).settings(kind), args.resume
    return kind(**_tuples({field.name: getattr(args, field.name) for field in fields(kind)})), args.out  # type: ignore[arg-type]


def _tuples(given: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}


def check_free(path: Path) -> None:
    """Raises InputError if `path` cannot become a run folder because something is there."""
    path = Path(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"{path} is in use", f"choose another --out, or go on with --resume {path}")


class Progress(keras.callbacks.Callback):
    """Images a second and time left on stderr: a bar on a terminal, elsewhere a line every `every` seconds."""

    def __init__(self, epoch: int, epochs: int, batch: int, every: float = 60.0):
        super().__init__()
        self.epoch, self.epochs, self.batch, self.every = epoch, epochs, batch, every
        self.bar: tqdm | None = None

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self.start = self.told = time.monotonic()
        label = f"epoch {self.epoch + 1}/{self.epochs}"
        if sys.stderr.isatty():
            self.bar = tqdm(total=self.params["steps"] * self.batch, unit="img", desc=label, leave=False)

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        done, now = (batch + 1) * self.batch, time.monotonic()
        figures = " ".join(f"{name} {value:.4f}" for name, value in (logs or {}).items())
        if self.bar is not None:
            self.bar.update(self.batch)
            self.bar.set_postfix_str(figures)
        elif now - self.told >= self.every:
            self.told = now
            left = (self.params["steps"] * (self.epochs - self.epoch) * self.batch - done) * (now - self.start) / done
            share = done / (self.params["steps"] * self.batch)
            speed = f"{done / (now - self.start):.0f} images/s, {left / 60:.0f} min left"
            print(f"  epoch {self.epoch + 1}/{self.epochs} {share:4.0%}, {speed}, {figures}", file=sys.stderr)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        if self.bar is not None:
            self.bar.close()


class Cosine(keras.optimizers.schedules.LearningRateSchedule):
    """From `rate` to 0 over `steps` along half a cosine, after a linear rise over `warmup` steps."""

    def __init__(self, rate: float, steps: int, warmup: int = 0):
        self.rate, self.steps, self.warmup = rate, steps, warmup

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        step = tf.cast(step, tf.float32)
        rising = step / max(self.warmup, 1)
        falling = 0.5 * (1 + tf.cos(math.pi * tf.clip_by_value((step - self.warmup) / max(self.steps - self.warmup, 1), 0.0, 1.0)))
        return self.rate * tf.where(step < self.warmup, rising, falling)

    def get_config(self) -> dict:
        return {"rate": self.rate, "steps": self.steps, "warmup": self.warmup}


def train(
    run: Run,
    model: keras.Model,
    optimizers: dict[str, keras.optimizers.Optimizer],
    epochs: int,
    batch: int,
    batches: Callable[[int], tf.data.Dataset],
    finish: Callable[[dict[str, float]], tuple[keras.Model, dict[str, float]]],
    kept: str = ENCODER,
) -> None:
    """Train `model` to the last of `epochs` from the run's newest checkpoint on.

    `batches(epoch)` gives an epoch's data; `finish(figures)` what an epoch leaves: the network to keep in the file `kept`, and
    all figures to log. `epoch` and `images_per_second` are added. Raises OmokageError where the loss is no number any more.
    """
    done = tf.Variable(0, dtype=tf.int64)
    checkpoint = tf.train.Checkpoint(model=model, epoch=done, **optimizers)
    manager = tf.train.CheckpointManager(checkpoint, str(run.path / "checkpoints"), max_to_keep=1)
    if manager.latest_checkpoint:
        checkpoint.restore(manager.latest_checkpoint)
    for epoch in range(int(done), epochs):
        dataset, start = batches(epoch), time.monotonic()
        progress = Progress(epoch, epochs, batch)
        history = model.fit(dataset, initial_epoch=epoch, epochs=epoch + 1, verbose=0, callbacks=[progress]).history
        figures = {name: float(values[-1]) for name, values in history.items()}
        if not math.isfinite(figures["loss"]):
            raise OmokageError(f"the loss is {figures['loss']} in epoch {epoch + 1}", "lower --rate; the run keeps the epoch before")
        figures["images_per_second"] = len(dataset) * batch / (time.monotonic() - start)
        network, figures = finish(figures)
        done.assign(epoch + 1)
        manager.save()
        run.save(network, kept)
        run.log(epoch=epoch + 1, **figures)
        print(", ".join([f"epoch {epoch + 1}/{epochs}", *(f"{name} {value:.4g}" for name, value in figures.items())]), file=sys.stderr)


def probed(encoder: keras.Model, images: np.ndarray, probe: probes.VerificationProbe | None) -> dict[str, float]:
    """What an epoch is judged by: the effective rank of the embeddings of crops `images`, and the probe where there is one."""
    found = {"effective_rank": probes.effective_rank(encoders.embed(encoder, images[:RANK_CROPS]))}
    if probe is not None:
        found |= probe(lambda crops: encoders.embed(encoder, crops))
    return found


def history(encoder: Path) -> list[dict[str, Any]]:
    """The runs that led to `encoder`, the first one first: their settings and an object of figures an epoch. Empty where its
    folder is no run. Paths are reduced to names: where the crops lay is nobody's business."""
    folder = Path(encoder).parent
    if not (folder / "config.json").exists():
        return []
    run = Run.open(folder)
    lines = (folder / "metrics.jsonl").read_text("utf-8").splitlines()
    stage = {"run": folder.name, "settings": _named(run.config), "epochs": [json.loads(line) for line in lines]}
    return [*history(Path(run.config["init"] or "") / run.encoder.name), stage]


def _named(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _named(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_named(inner) for inner in value]
    return Path(value).name if isinstance(value, str) and value else value
