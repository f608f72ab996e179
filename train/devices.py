"""What trains: processor or graphics cards, in which precision, on how large a batch, alone or several together.

Several replicas train as one (tf.distribute): the batch is shared among them, BatchNorm sees the whole of it, gradients are
summed. So a step is the same step however many take part, and its checkpoint too.
"""

import contextlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import tensorflow as tf
import tf_keras as keras
from tensorflow.python.client import device_lib

from device.program import InputError, MissingError
from train.views import WHOLE, Share

PRECISIONS = ("auto", "float32", "mixed_bfloat16", "mixed_float16")
STRATEGIES = ("auto", "mirrored", "multiworker")
BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # of Intel and AMD, and of ARM
MOST = 256  # SimSiam learns as well from 256 as from 2048 (arXiv:2011.10566, table 2): more memory asks for no larger batch
FREE = 0.5  # share of the memory that a batch may fill

M = TypeVar("M", bound=keras.Model)


def precision(asked: str) -> str:
    """The Keras policy for `asked`: with "auto", what the device that trains is fast in.

    Graphics cards have fast bfloat16 from compute capability 8, float16 from 7; processors where their flags say so.
    """
    if asked != "auto":
        return asked
    cards = tf.config.list_physical_devices("GPU")
    if not cards:
        return "mixed_bfloat16" if BFLOAT16_FLAGS & _flags() else "float32"
    oldest = min(_capability(card) for card in cards)
    return "mixed_bfloat16" if oldest >= 8 else "mixed_float16" if oldest >= 7 else "float32"


def _flags() -> set[str]:
    """What the processor can, as Linux tells it; elsewhere nothing is known."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return {flag for line in lines if line.lower().startswith(("flags", "features")) for flag in line.partition(":")[2].split()}


def _capability(card: tf.config.PhysicalDevice) -> float:
    major, minor = tf.config.experimental.get_device_details(card).get("compute_capability", (0, 0))
    return major + minor / 10


def _grow() -> None:
    """Take memory of graphics cards as it is needed, instead of all of it. Once TensorFlow has begun, it stays as it is."""
    for card in tf.config.list_physical_devices("GPU"):
        with contextlib.suppress(RuntimeError):
            tf.config.experimental.set_memory_growth(card, True)


def strategy(asked: str) -> tf.distribute.Strategy:
    """How replicas train together. `auto`: several machines where the variable TF_CONFIG names them, else all graphics cards of
    this one, else one device. Raises InputError or MissingError where `asked` cannot be."""
    _grow()
    workers = _workers()
    if asked == "multiworker" and not workers:
        raise InputError("TF_CONFIG names no other machine", "set it on each machine as docs/pretraining.md shows")
    if asked == "multiworker" or (asked == "auto" and workers > 1):
        return tf.distribute.MultiWorkerMirroredStrategy()
    devices = [device.name for device in tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")]
    if asked == "mirrored" and len(devices) < 2:
        raise MissingError(f"only {devices[0]} is there", "leave --strategy out")
    return tf.distribute.MirroredStrategy(devices) if len(devices) > 1 else tf.distribute.get_strategy()


def _workers() -> int:
    """How many machines TF_CONFIG names; 0 without it."""
    try:
        cluster = json.loads(os.environ.get("TF_CONFIG") or "{}").get("cluster", {})
        return sum(len(cluster.get(kind, [])) for kind in ("chief", "worker"))
    except (ValueError, AttributeError, TypeError) as error:
        raise InputError(f"TF_CONFIG cannot be read ({error})", "set it on each machine as docs/pretraining.md shows") from error


def share(strategy: tf.distribute.Strategy, batch: int) -> Share:
    """This machine's share of a batch. Raises InputError if the replicas cannot share it equally."""
    Share(0, strategy.num_replicas_in_sync).rows(batch)
    resolver = strategy.cluster_resolver
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy) or resolver is None:
        return WHOLE
    return Share(_place(resolver), _workers())


def _place(resolver: tf.distribute.cluster_resolver.ClusterResolver) -> int:
    """This machine's number among those of TF_CONFIG, the chief first."""
    before = len(resolver.cluster_spec().as_dict().get("chief", [])) if resolver.task_type == "worker" else 0
    return before + resolver.task_id


def dealt(model: keras.Model, batches: tf.data.Dataset) -> tf.data.Dataset:
    """This machine's `batches`, dealt to its replicas of `model`."""
    if model.distribute_strategy.num_replicas_in_sync == 1:
        return batches
    size = batches.element_spec[0].shape[0]
    assert isinstance(size, int)

    def deal(machine: tf.distribute.InputContext) -> tf.data.Dataset:
        return batches.rebatch(size * machine.num_input_pipelines // machine.num_replicas_in_sync, drop_remainder=True)

    return model.distribute_strategy.distribute_datasets_from_function(deal, tf.distribute.InputOptions(experimental_fetch_to_device=False))


def replicated(strategy: tf.distribute.Strategy, make: Callable[[], M]) -> M:
    """The model that `make` makes, on every replica, beginning with the weights that it has on one device; each BatchNorm sees the
    whole batch (what is saved of it is a plain one)."""
    alone = make()
    if strategy.num_replicas_in_sync == 1:
        return alone
    with strategy.scope():
        model = make()
    model.set_weights(alone.get_weights())
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.fused, layer.synchronized = False, True
    model.distribute_reduction_method = "first"  # figures are those of all replicas already
    return model


@contextlib.contextmanager
def folder(strategy: tf.distribute.Strategy, run: Path) -> Iterator[Path]:
    """Where this machine writes: the first one in the folder `run`, which all can read; the others, which do the same, in a copy
    that is removed at the end."""
    resolver = strategy.cluster_resolver
    if resolver is None or resolver.task_type is None or _place(resolver) == 0:
        yield run
        return
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary) / run.name
        if run.exists():
            shutil.copytree(run, copy)
        yield copy


def batch(encoder: keras.Model, bytes_each: int) -> int:
    """How many pictures a batch may have by memory: a power of two, 256 at most. Both views of a picture keep every layer's
    output, of `bytes_each` a number, until its gradient is there; this may fill half of the memory."""
    numbers = sum(math.prod(layer.output_shape[1:]) for layer in encoder.layers if isinstance(layer.output_shape, tuple))
    fit = FREE * _memory() / (2 * numbers * bytes_each)
    if fit < 2:
        raise MissingError("the memory does not hold a batch of two pictures", "give a smaller --size or --width")
    return min(MOST, 2 ** int(math.log2(fit)))


def _memory() -> int:
    """Bytes of the smallest graphics card, or of the machine."""
    cards = [device.memory_limit for device in device_lib.list_local_devices() if device.device_type == "GPU"]
    return min(cards) if cards else os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def told(strategy: tf.distribute.Strategy, policy: str) -> str:
    """One line: which device trains, and how."""
    cards = tf.config.list_physical_devices("GPU")
    names = {tf.config.experimental.get_device_details(card).get("device_name", card.name) for card in cards}
    device = ", ".join(sorted(names)) if cards else f"the processor ({os.cpu_count()} cores)"
    replicas = strategy.num_replicas_in_sync
    together = f", {replicas} replicas on {max(_workers(), 1)} machine{'s' if _workers() > 1 else ''}" if replicas > 1 else ""
    return f"training on {device}{together}, {policy}"
