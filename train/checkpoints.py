"""Where a training stands, kept so that it goes on as if nothing had happened: after Ctrl-C, a kill, a full disk, a bad loss."""

import contextlib
import math
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import numpy as np
import tensorflow as tf
import tf_keras as keras

from device.program import InputError, OmokageError, StoredError


class Checkpoints:
    """The newest checkpoint in `folder`: the model with the running means of its figures, its optimisers, and the place:
    `epoch` is under way and its first `step` steps are done."""

    def __init__(self, folder: Path, model: keras.Model, optimizers: dict[str, keras.optimizers.Optimizer]):
        self._folder, self._model = folder, model
        self._epoch, self._step = (tf.Variable(0, dtype=tf.int64) for _ in range(2))
        state = tf.train.Checkpoint(model=model, epoch=self._epoch, step=self._step, **optimizers)
        self._manager = tf.train.CheckpointManager(state, str(folder), max_to_keep=1)
        if latest := self._manager.latest_checkpoint:
            try:
                state.restore(latest).expect_partial()  # the optimisers' variables come into being with the first step
            except (tf.errors.OpError, ValueError, IndexError) as error:
                raise StoredError(f"the checkpoint {latest} is damaged ({type(error).__name__})", "start a new run") from error
        self._means = [metric.get_weights() for metric in model.metrics]

    @property
    def epoch(self) -> int:
        return int(self._epoch)

    @property
    def step(self) -> int:
        return int(self._step)

    def save(self, epoch: int, step: int) -> None:
        """The one before is removed once this one is whole. Raises OmokageError, and keeps that, where weights are no numbers."""
        if not all(np.isfinite(variable.numpy()).all() for variable in self._model.trainable_variables):
            raise no_number("a weight", epoch)
        self._epoch.assign(epoch)
        self._step.assign(step)
        try:
            with writing(self._folder.parent, f"make room, then go on with --resume {self._folder.parent}"):
                self._manager.save()
        finally:
            for half in self._folder.glob("*_temp"):  # there only where it failed
                shutil.rmtree(half, ignore_errors=True)

    def stop(self) -> NoReturn:
        """Once that is saved: say how to go on, and end as Ctrl-C does."""
        print(f"stopped in epoch {self.epoch + 1} after {self.step} steps; go on with --resume {self._folder.parent}", file=sys.stderr)
        raise KeyboardInterrupt

    def restore_means(self) -> None:
        """The figures go on from where the epoch broke off: Keras sets them back when it starts on the rest of it."""
        for metric, weights in zip(self._model.metrics, self._means, strict=True):
            metric.set_weights(weights)


@contextlib.contextmanager
def writing(run: Path, mend: str) -> Iterator[None]:
    """Raises InputError where the disk is full, or the folder `run` cannot be written to."""
    try:
        yield
    except (OSError, tf.errors.OpError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error.message).rpartition("; ")[2].partition(" [Op:")[0]
        raise InputError(f"cannot write into {run} ({reason})", mend) from error


def no_number(what: str, epoch: int) -> OmokageError:
    return OmokageError(f"{what} is not a finite number any more in epoch {epoch + 1}", "lower --rate; the checkpoint before is kept")


class Wish:
    """Ctrl-C or SIGTERM as a wish: `made` says so, and the step under way is finished first. A second one ends at once.

    Nothing is said in the handler: it may have interrupted somebody who is writing to the same stream.
    """

    made = False

    def __enter__(self) -> "Wish":
        there = threading.current_thread() is threading.main_thread()  # Python takes signals nowhere else
        heeded = (signal.SIGINT, signal.SIGTERM) if there else ()
        self._before = {number: signal.signal(number, self._heed) for number in heeded}
        return self

    def _heed(self, number: int, frame: FrameType | None) -> None:
        if self.made:
            raise KeyboardInterrupt
        self.made = True

    def __exit__(self, *error: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


class Keeper(keras.callbacks.Callback):
    """Saves within an epoch of `steps` steps every `every` seconds and when it is to stop; stops where the loss is no number."""

    def __init__(self, checkpoints: Checkpoints, wish: Wish, steps: int, every: float):
        super().__init__()
        self._checkpoints, self._wish, self._steps, self._every = checkpoints, wish, steps, every
        self._epoch, self._first = checkpoints.epoch, checkpoints.step

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        if self._first:
            self._checkpoints.restore_means()
        self._saved = time.monotonic()

    def on_train_batch_end(self, batch: int, logs: dict[str, float]) -> None:
        if not math.isfinite(logs["loss"]):
            raise no_number("the loss", self._epoch)
        done = self._first + batch + 1
        if done == self._steps:
            return  # the end of an epoch is kept with its figures
        if self._wish.made or time.monotonic() - self._saved >= self._every:
            self._checkpoints.save(self._epoch, done)
            self._saved = time.monotonic()
        if self._wish.made:
            self._checkpoints.stop()
