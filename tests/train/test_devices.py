"""Devices that are not here are pretended; replicas are real, each of two logical processors or a process of its own."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from replicas import BATCH, STEPS, encoder

from device.program import InputError, MissingError
from train import devices, encoders
from train.methods import METHODS, options
from train.views import WHOLE, Share


def start(*arguments: str, **environment: str) -> subprocess.Popen:
    root = Path(__file__).parents[2]
    command = [sys.executable, str(Path(__file__).with_name("replicas.py")), *arguments]
    own = os.environ | {"PYTHONPATH": str(root), "CUDA_VISIBLE_DEVICES": ""} | environment
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=own, text=True)


def result(process: subprocess.Popen) -> dict[str, list[float]]:
    printed, _ = process.communicate(timeout=600)
    assert process.returncode == 0
    return json.loads(printed.splitlines()[-1])


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.mark.slow
def test_two_processors_and_two_machines_learn_what_one_does():
    cluster = {"worker": [f"127.0.0.1:{free_port()}" for _ in range(2)]}
    tasks = [json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}}) for index in range(2)]
    started = [start("auto"), start("mirrored"), *(start("multiworker", TF_CONFIG=task) for task in tasks)]
    try:
        alone, *others = map(result, started)
        for found in others:
            for method, rows in alone.items():
                assert len(rows) == STEPS + 1
                assert found[method] == pytest.approx(rows, abs=1e-4, rel=1e-4), method
    finally:
        for process in started:
            process.kill()
            process.stdout.close()
            process.wait()


def trained(accumulate: int, policy: str = "float32") -> keras.Model:
    """After a step on 8 copies of the same two pictures: what BatchNorm sees of them is the same in each part of the batch."""
    keras.utils.set_random_seed(0)
    with encoders.precision(policy):
        model = METHODS["simsiam"](encoder(), options("simsiam", {"projection": 16}))
    model.ready(256, 1, accumulate=accumulate)
    pictures = np.tile(np.random.default_rng(0).uniform(-1, 1, (2, 2, 8, 8, 3)), (1, 4, 1, 1, 1)).astype(np.float32)
    model.fit(tf.data.Dataset.from_tensors(tuple(pictures)), verbose=0)
    return model


def test_a_batch_in_parts_teaches_the_same():
    whole, parts = trained(1), trained(4)
    assert float(parts.loss_mean.result()) == pytest.approx(float(whole.loss_mean.result()), abs=1e-5)
    for one, other in zip(whole.trainable_variables, parts.trainable_variables, strict=True):
        np.testing.assert_allclose(other.numpy(), one.numpy(), atol=1e-4)


def test_float16_scales_the_loss_and_teaches_nearly_the_same():
    whole, half = trained(1), trained(1, "mixed_float16")
    assert isinstance(half.optimizer, keras.mixed_precision.LossScaleOptimizer)
    assert float(half.loss_mean.result()) == pytest.approx(float(whole.loss_mean.result()), abs=0.02)
    for one, other in zip(whole.trainable_variables, half.trainable_variables, strict=True):
        np.testing.assert_allclose(other.numpy(), one.numpy(), atol=0.01)


def card(monkeypatch, *capabilities: tuple[int, int]) -> None:
    """Pretends graphics cards."""
    cards = [SimpleNamespace(name=f"GPU:{number}", capability=each) for number, each in enumerate(capabilities)]
    details = lambda one: {"compute_capability": one.capability, "device_name": "a card"}  # noqa: E731
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: cards if kind == "GPU" else [])
    monkeypatch.setattr(tf.config.experimental, "get_device_details", details)


@pytest.mark.parametrize(
    ("capabilities", "policy"),
    [([(9, 0)], "mixed_bfloat16"), ([(7, 5)], "mixed_float16"), ([(6, 1)], "float32"), ([(8, 6), (7, 5)], "mixed_float16")],
)
def test_precision_follows_the_oldest_card(monkeypatch, capabilities, policy):
    card(monkeypatch, *capabilities)
    assert devices.precision("auto") == policy
    assert devices.precision("float32") == "float32", "what is asked for is not changed"


@pytest.mark.parametrize(("flags", "policy"), [({"avx2"}, "float32"), ({"avx2", "amx_bf16"}, "mixed_bfloat16"), (set(), "float32")])
def test_precision_follows_the_processor(monkeypatch, flags, policy):
    card(monkeypatch)
    monkeypatch.setattr(devices, "_flags", lambda: flags)
    assert devices.precision("auto") == policy


def test_the_line_at_the_start_names_the_device(monkeypatch):
    alone = tf.distribute.get_strategy()
    card(monkeypatch)
    assert devices.told(alone, "float32") == f"training on the processor ({os.cpu_count()} cores), float32"
    card(monkeypatch, (9, 0), (9, 0))
    assert (
        devices.told(SimpleNamespace(num_replicas_in_sync=2), "mixed_bfloat16")
        == "training on a card, 2 replicas on 1 machine, mixed_bfloat16"
    )


def test_the_batch_follows_the_memory(monkeypatch):
    inputs = keras.layers.Input((8, 8, 3))
    encoder = keras.Model(inputs, keras.layers.Flatten()(inputs))  # 192 numbers a view
    each = 2 * 192 * 4
    for memory, expected in ((10**9, 256), (2 * 100 * each, 64), (2 * 64 * each, 64), (2 * 2 * each, 2)):
        monkeypatch.setattr(devices, "_memory", lambda memory=memory: memory)
        assert devices.batch(encoder, 4) == expected
    monkeypatch.setattr(devices, "_memory", lambda: each)
    with pytest.raises(MissingError, match="give a smaller --size or --width"):
        devices.batch(encoder, 4)


def test_one_device_is_no_strategy(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    strategy = devices.strategy("auto")
    assert strategy.num_replicas_in_sync == 1
    assert devices.share(strategy, 7) == WHOLE
    with pytest.raises(MissingError, match="leave --strategy out"):
        devices.strategy("mirrored")
    with pytest.raises(InputError, match="TF_CONFIG names no other machine"):
        devices.strategy("multiworker")
    monkeypatch.setenv("TF_CONFIG", "{")
    with pytest.raises(InputError, match="TF_CONFIG cannot be read"):
        devices.strategy("auto")


def test_shares_are_equal():
    assert [Share(number, 4).rows(BATCH) for number in range(4)] == [slice(2 * number, 2 * number + 2) for number in range(4)]
    with pytest.raises(InputError, match="a batch of 8 does not divide by 3: give --batch 9"):
        devices.share(SimpleNamespace(num_replicas_in_sync=3), BATCH)


def test_other_machines_write_into_a_copy(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.toml").write_text("mine")

    def place(kind: str, number: int) -> SimpleNamespace:
        spec = SimpleNamespace(as_dict=lambda: {"chief": ["a:1"], "worker": ["b:1", "c:1"]})
        return SimpleNamespace(cluster_resolver=SimpleNamespace(task_type=kind, task_id=number, cluster_spec=lambda: spec))

    with devices.folder(place("chief", 0), tmp_path / "run") as first:
        assert first == tmp_path / "run"
    with devices.folder(place("worker", 0), tmp_path / "run") as second:
        assert second != tmp_path / "run"
        assert (second / "config.toml").read_text() == "mine"
    assert not second.exists()
