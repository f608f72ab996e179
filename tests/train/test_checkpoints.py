"""Trainings that break off anywhere, and go on: a small network on numbers, whose whole run takes a moment."""

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from hypothesis import given, settings
from hypothesis import strategies as st

from device.program import InputError, OmokageError, StoredError
from train import plots, runs, watch
from train.checkpoints import Checkpoints

EPOCHS, STEPS, BATCH = 3, 4, 8


@dataclass(frozen=True)
class Told:
    epochs: int = EPOCHS


class Broken(BaseException):
    """What a kill looks like from inside: nothing catches it, nothing is tidied up."""


class Small(keras.Model):
    """BatchNorm, whose statistics must go on too, and AdamW, whose moments must. `before(n)` is called before the n-th step."""

    def __init__(self, before):
        super().__init__()
        layers = keras.layers
        self.net = keras.Sequential([layers.Dense(6), layers.BatchNormalization(), layers.ReLU(), layers.Dense(3)])
        self.net.build((None, 5))
        self.means = {name: keras.metrics.Mean(name) for name in ("loss", "std")}
        self.before, self.count = before, 0

    @property
    def metrics(self):
        return list(self.means.values())

    def train_step(self, batch):
        with tf.GradientTape() as tape:
            out = self.net(batch, training=True)  # [B, 3]
            loss = tf.reduce_mean(tf.square(out - batch[:, :3]))
        self.optimizer.minimize(loss, self.net.trainable_variables, tape)
        self.means["loss"].update_state(loss)
        self.means["std"].update_state(tf.reduce_mean(tf.math.reduce_std(out, axis=0)))
        return {name: mean.result() for name, mean in self.means.items()}

    def make_train_function(self, force=False):
        if self.train_function is None:  # Keras asks again for each epoch
            step = super().make_train_function(force)

            def watched(iterator):
                self.before(self.count)
                self.count += 1
                return step(iterator)

            self.train_function = watched
        return self.train_function


def batches(epoch):
    """Numbers of an epoch, in an order of its own."""
    rows = np.random.default_rng(0).normal(size=(STEPS * BATCH, 5)).astype(np.float32)
    return tf.data.Dataset.from_tensor_slices(rows).shuffle(len(rows), seed=epoch).batch(BATCH)


def trained(out, before=lambda step: None, std=0.1, data=batches, **how):
    """The model after a training in `out`, begun or gone on with; `std` is what it would be if it were healthy."""
    keras.utils.set_random_seed(0)
    model = Small(before)
    model.compile(keras.optimizers.AdamW(0.01), run_eagerly=True)  # no graph to build: an epoch takes a moment
    run = runs.Run.open(out) if out.exists() else runs.Run.create(out, Told())
    finish = lambda figures: (model.net, figures | {"std_healthy": std})  # noqa: E731
    runs.train(run, model, {"optimizer": model.optimizer}, EPOCHS, BATCH, data, finish, **how)
    return model


def figures(out):
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "images_per_second"} for row in rows]


def alike(one, two):
    return all(np.array_equal(a, b) for a, b in zip(one.get_weights(), two.get_weights(), strict=True))


@pytest.fixture(scope="module", autouse=True)
def undrawn():
    """Curves take longer than these trainings; test_watch.py draws some."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "curves", lambda epochs, path: path.touch())
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory, undrawn):
    """A run that nothing broke: its model and its figures."""
    out = tmp_path_factory.mktemp("whole") / "run"
    return trained(out), figures(out)


def raising(error, *steps):
    def before(step):
        if step in steps:
            raise error

    return before


@pytest.mark.slow
@settings(max_examples=4, deadline=None, derandomize=True)
@given(killed=st.lists(st.integers(0, EPOCHS * STEPS - 1), min_size=1, max_size=2), every=st.sampled_from([0, 1e9]))
def test_a_run_killed_anywhere_becomes_what_an_unbroken_one_is(whole, tmp_path_factory, killed, every):
    out = tmp_path_factory.mktemp("killed") / "run"
    for step in killed:
        with contextlib.suppress(Broken):  # a second kill may come when all is done
            trained(out, raising(Broken(), step), save_every=every)
    model = trained(out)
    assert alike(model, whole[0]), "bit for bit"
    assert figures(out) == whole[1]


@pytest.mark.slow
def test_a_real_kill(whole, tmp_path):
    call = (
        "import os, signal, sys; sys.path.insert(0, os.path.dirname(sys.argv[2])); from pathlib import Path; import test_checkpoints as t; "
    )
    call += "t.trained(Path(sys.argv[1]), lambda step: step == 6 and os.kill(os.getpid(), signal.SIGKILL), save_every=0)"
    ended = subprocess.run([sys.executable, "-c", call, str(tmp_path / "run"), __file__], capture_output=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    assert [row["epoch"] for row in figures(tmp_path / "run")] == [1]
    steps = []
    assert alike(trained(tmp_path / "run", steps.append), whole[0])
    assert len(steps) == EPOCHS * STEPS - 6, "no step is done twice"
    assert figures(tmp_path / "run") == whole[1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_wish_to_stop_is_granted_after_the_step(whole, tmp_path, capsys, number):
    out, before = tmp_path / "run", signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        trained(out, lambda step: step == 5 and os.kill(os.getpid(), number))
    assert f"stopped in epoch 2 after 2 steps; go on with --resume {out}" in capsys.readouterr().err
    assert "KeyboardInterrupt" in (out / "log").read_text()
    assert signal.getsignal(number) is before
    steps = []
    assert alike(trained(out, steps.append), whole[0])
    assert len(steps) == EPOCHS * STEPS - 6


def test_a_second_wish_is_granted_at_once(tmp_path):
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        trained(out, lambda step: [os.kill(os.getpid(), signal.SIGINT) for _ in range(2)])
    assert not list((out / "checkpoints").glob("ckpt-*"))


@pytest.mark.parametrize("step", [5, STEPS * 2 - 1])
def test_a_full_disk_is_told_and_the_checkpoint_before_is_kept(whole, tmp_path, step):
    """Files may grow to a kilobyte only: what the system then says differs from a full disk by its number."""
    out, none = tmp_path / "run", resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(InputError, match=r"cannot write into .*run \(File too large\): make room, then go on with --resume"):
            trained(out, lambda at: at == step and resource.setrlimit(resource.RLIMIT_FSIZE, (1000, none[1])), save_every=0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, none)
    assert not list((out / "checkpoints").glob("*_temp")), "no half checkpoint takes the room"
    steps = []
    assert alike(trained(out, steps.append), whole[0])
    assert len(steps) == EPOCHS * STEPS - step
    assert figures(out) == whole[1]


def test_a_disk_that_was_full_from_the_start(tmp_path):
    none = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, none[1]))
    try:
        with pytest.raises(InputError, match="make room, then start again"):
            runs.Run.create(tmp_path / "run", Told())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, none)
    runs.Run.create(tmp_path / "run", Told())


def test_what_was_recorded_of_an_epoch_that_was_not_kept_is_recorded_once(whole, tmp_path, monkeypatch):
    out = tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(Broken):
        patch.setattr(watch, "show", lambda rows, *others: raising(Broken(), 2)(len(rows)))
        trained(out)
    assert [row["epoch"] for row in figures(out)] == [1, 2]
    trained(out)
    assert figures(out) == whole[1]


def test_a_loss_that_is_no_number_stops_the_run_at_once_and_spoils_nothing(whole, tmp_path):
    def spoilt(epoch):
        return batches(epoch).map(lambda rows: rows * np.nan) if epoch == 1 else batches(epoch)

    steps = []
    with pytest.raises(OmokageError, match="the loss is not a finite number any more in epoch 2: lower --rate"):
        trained(tmp_path / "run", steps.append, data=spoilt, save_every=0)
    assert len(steps) == STEPS + 1
    assert alike(trained(tmp_path / "run"), whole[0])


def test_weights_that_are_no_numbers_are_not_kept(whole, tmp_path):
    """The step before, whose loss was a number still, may have made them so."""
    keras.utils.set_random_seed(0)
    model = Small(lambda step: None)
    checkpoints = Checkpoints(tmp_path, model, {})
    checkpoints.save(0, 1)
    model.net.layers[0].kernel.assign(tf.fill((5, 6), np.inf))
    with pytest.raises(OmokageError, match="lower --rate; the checkpoint before is kept"):
        checkpoints.save(0, 2)
    again = Small(lambda step: None)
    assert Checkpoints(tmp_path, again, {}).step == 1
    assert np.isfinite(again.net.layers[0].kernel).all()


def test_a_damaged_checkpoint_is_told(tmp_path):
    trained(tmp_path / "run")
    data = next((tmp_path / "run" / "checkpoints").glob("*.data-*"))
    data.write_bytes(data.read_bytes()[:100])
    with pytest.raises(StoredError, match="is damaged"):
        trained(tmp_path / "run")


def test_a_collapse_stops_the_run_after_two_epochs_and_can_be_let_be(tmp_path, capsys):
    out = tmp_path / "run"
    with pytest.raises(watch.Collapse, match=r"the embeddings collapse \(std .* in epoch 2, .*--on-collapse warn") as stopped:
        trained(out, std=100.0)
    assert stopped.value.status == 1
    assert (out / "encoder.keras").exists()
    assert "Collapse" in (out / "log").read_text()
    trained(out, std=100.0, on_collapse="warn")
    assert "the embeddings collapse" in capsys.readouterr().err
    assert [row["epoch"] for row in figures(out)] == [1, 2, 3]
