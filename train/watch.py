"""What a training shows of itself: progress, what each epoch is judged by, curves, and whether it collapses."""

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras
from tqdm import tqdm

from device.program import HOLDS_NOT, InputError, OmokageError
from train import encoders, plots, probes
from train.views import Views, view

RANK_CROPS = 2000  # how many training crops the effective rank and the uniformity are taken over
PAIRS = 1000  # how many pairs of views the alignment is taken over
COLLAPSED = 0.2  # of the healthy standard deviation
PATIENCE = 2  # epochs


class Progress(keras.callbacks.Callback):
    """Images a second and time left on stderr: a bar on a terminal, elsewhere a line every `every` seconds.

    `first`: the step of the epoch that `fit` begins with.
    """

    def __init__(self, epoch: int, epochs: int, batch: int, first: int = 0, every: float = 60.0):
        super().__init__()
        self.epoch, self.epochs, self.batch, self.first, self.every = epoch, epochs, batch, first, every
        self.bar: tqdm | None = None

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self.start = self.told = time.monotonic()
        self.steps = self.first + self.params["steps"]
        self.label = f"epoch {self.epoch + 1}/{self.epochs}"
        if sys.stderr.isatty():  # the bar is for the eye, not for the log
            start, total = self.first * self.batch, self.steps * self.batch
            self.bar = tqdm(total=total, initial=start, unit="img", desc=self.label, leave=False, file=sys.__stderr__)

    def on_train_batch_end(self, batch: int, logs: dict[str, float]) -> None:
        now = time.monotonic()
        if self.bar is not None:
            self.bar.update(self.batch)
            self.bar.set_postfix_str(_listed(logs), refresh=False)
        elif now - self.told >= self.every:
            self.told = now
            speed = (batch + 1) / (now - self.start)  # steps a second
            done = self.first + batch + 1
            left = (self.steps * (self.epochs - self.epoch) - done) / speed
            pace = f"{speed * self.batch:.0f} images/s, {left / 60:.0f} min left"
            print(f"  {self.label} {done / self.steps:4.0%}, {pace}, {_listed(logs)}", file=sys.stderr)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        if self.bar is not None:
            self.bar.close()


def _listed(figures: Mapping[str, float]) -> str:
    return " ".join(f"{name} {value:.4f}" for name, value in figures.items())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `Probes`. What asks how often is left out where it is not given: a resumed run has it (runs.asked)."""
    given = parser.add_argument
    given("--probe-crops", help="LFW crops, for a verification probe while it trains")
    given("--probe-pairs", help="its pairsDevTest.txt")
    given("--knn-crops", help="folder or zip of people's crops, for a nearest-neighbour probe while it trains")
    given("--knn-labels", help="CSV picture,identity of --knn-crops; without it their folders are the people")
    given("--probe-every", type=int, default=argparse.SUPPRESS, help="epochs from one probing to the next (default 1)")


class Probes:
    """What an encoder is asked after every `settings.probe_every`-th epoch and after the last: the effective rank, alignment
    and uniformity of what it makes of training crops, and verification and nearest neighbours where `settings` names crops.

    `crops` uint8 [N, 112, 112, 3] are the training's, an array or a tensor; `views` how it varies them.
    """

    def __init__(self, settings: Any, crops: Any, views: Views):
        if bool(settings.probe_crops) != bool(settings.probe_pairs):
            raise InputError("a verification probe needs crops and pairs", "give both --probe-crops and --probe-pairs")
        if settings.knn_labels and not settings.knn_crops:
            raise InputError("--knn-labels are labels of no crops", "add --knn-crops")
        if settings.probe_every < 1:
            raise InputError(f"--probe-every is {settings.probe_every}", "give a number above 0")
        self._every, self._epochs = settings.probe_every, settings.epochs
        self._crops = np.asarray(crops[:: max(len(crops) // RANK_CROPS, 1)][:RANK_CROPS])
        self._pairs = [_bytes(view(tf.constant(self._crops[:PAIRS]), tf.constant([settings.seed, -number]), views)) for number in (1, 2)]
        self._asked: list[Callable] = []
        if settings.probe_crops:
            self._asked.append(probes.VerificationProbe.read(Path(settings.probe_crops), Path(settings.probe_pairs)))
        if settings.knn_crops:
            table = Path(settings.knn_labels) if settings.knn_labels else None
            self._asked.append(probes.NeighbourProbe.read(Path(settings.knn_crops), table))

    def __call__(self, epoch: int, encoder: keras.Model, plain: keras.Model | None = None) -> dict[str, float]:
        """The figures, none where `epoch` (from 1) is not one to ask after. `plain` is the encoder before it was whitened,
        which would hide that its rank falls."""
        if epoch % self._every and epoch != self._epochs:
            return {}

        def embed(crops: np.ndarray) -> np.ndarray:
            return encoders.embed(encoder, crops)

        found = {
            "effective_rank": probes.effective_rank(encoders.embed(plain or encoder, self._crops)),
            "alignment": probes.alignment(*map(embed, self._pairs)),
            "uniformity": probes.uniformity(embed(self._crops)),
        }
        for ask in self._asked:
            found |= ask(embed)
        return found


def _bytes(views: tf.Tensor) -> np.ndarray:
    """Views in -1..1 as crops are: uint8."""
    return tf.cast(tf.round((views + 1) * 127.5), tf.uint8).numpy()


class Collapse(OmokageError):
    """All embeddings become equal: the training went through, and what was checked does not hold."""

    status = HOLDS_NOT


def collapse(epochs: Sequence[Mapping[str, float]], patience: int = PATIENCE) -> Collapse | None:
    """Whether the last `patience` of `epochs` had a `std` under a fifth of `std_healthy`; methods that have none do not collapse."""
    last = list(epochs)[-patience:]
    if len(last) < patience or not all("std_healthy" in row and row["std"] < COLLAPSED * row["std_healthy"] for row in last):
        return None
    row = last[-1]
    found = f"std {row['std']:.2g} in epoch {row['epoch']}, {row['std'] / row['std_healthy']:.0%} of the healthy {row['std_healthy']:.2g}"
    mend = "lower --rate, give --warmup 0.05 or a larger --batch; --on-collapse warn goes on"
    return Collapse(f"the embeddings collapse ({found})", mend)


def show(epochs: Sequence[Mapping[str, float]], folder: Path, events: tf.summary.SummaryWriter) -> None:
    """The figures of all `epochs` as curves.png in `folder`, those of the last as TensorBoard's scalars."""
    plots.curves(epochs, folder / "curves.png")
    # What tf.summary.scalar writes; that itself wants TensorBoard installed, which only the reader needs.
    scalar = tf.compat.v1.SummaryMetadata(plugin_data=tf.compat.v1.SummaryMetadata.PluginData(plugin_name="scalars"))
    with events.as_default(step=int(epochs[-1]["epoch"])):
        for name, value in epochs[-1].items():
            tf.summary.write(name, tf.constant(value, tf.float32), metadata=scalar)
    events.flush()
