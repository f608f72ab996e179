"""How far the latency estimates of convert/cost.py are off, on every published measurement whose model can be built here.

Keras models are built with random weights and converted (MobileNets to int8, the larger ones as they are: only shapes count);
the small models of two public studies are written down as their authors generated them. With --fit also prints the figures
that cost.py should hold. What was fitted on one half of the models is shown on the other.

  python benchmarks/edgetpu_latency.py --data ../shared/data
  python benchmarks/edgetpu_latency.py --data ../shared/data --large --fit
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import astuple, dataclass, fields
from math import prod
from pathlib import Path

import numpy as np
from scipy.optimize import least_squares

from convert import cost, tflite_graph
from convert.cost import Estimate, Host, Load
from convert.tflite_graph import Graph, Operation, Tensor
from device.demo import shared_data
from device.program import InputError, Parser, run

FOLDER = Path("build") / "latency"
SMALL = ("MobileNet", "MobileNetV2")

# Milliseconds that Google published. coral.ai/docs/edgetpu/benchmarks: a desktop with USB 3, the Dev Board (PCIe).
# google-coral/edgetpu, benchmarks/reference: x86 with USB 3, Dev Board, Raspberry Pi 4 with USB 3, Raspberry Pi 3B+ with USB 2.
# Left out: models that Keras has not, and Inception-ResNet v2 (57 ms cannot be Keras's: 50 MB would have to stream meanwhile).
PUBLISHED = {
    ("MobileNet", 224): {"usb3": (2.4, 2.17), "pcie": (2.4, 2.22), "pi4": (4.2,), "usb2": (9.0,)},
    ("MobileNetV2", 224): {"usb3": (2.6, 2.29), "pcie": (2.6, 2.56), "pi4": (4.5,), "usb2": (10.6,)},
    ("ResNet50", 299): {"usb3": (49.0,), "pcie": (56.0,)},
    ("ResNet50V2", 299): {"usb3": (50.0,), "pcie": (59.0,)},
    ("ResNet152V2", 299): {"usb3": (128.0,), "pcie": (151.0,)},
    ("DenseNet121", 224): {"usb3": (20.0,), "pcie": (25.0,)},
    ("VGG16", 224): {"usb3": (296.0,), "pcie": (343.0,)},
}
# Three USB 2 rows of one study contradict its others by a factor of ten: they have a line of their own.
ODD = ("iwa_model_padding_128x256x3", "iwa_model_padding_256x512x3", "iwa_model_padding_512x256x3")


@dataclass(frozen=True)
class Row:
    """A published measurement of a model on a host; `study` names a third party's (None: Google's own).

    `pair`: source and compiled file are among the 100 public pairs.
    """

    model: str
    host: str
    milliseconds: float
    estimate: Estimate
    study: str | None
    pair: bool = False

    @property
    def ratio(self) -> float:
        """Estimated to measured, with the figures that cost.py holds."""
        return self.estimate.latency(cost.HOSTS[self.host]).estimate * 1e3 / self.milliseconds


# --- models of the two studies ----------------------------------------------------------------------------------------------


class Network:
    """Writes a chain of int8 operations down as a Graph."""

    def __init__(self, *shape: int):
        self.tensors: list[Tensor] = []
        self.operations: list[Operation] = []
        self.last = self._tensor(shape)

    def graph(self) -> Graph:
        return Graph(0, tuple(self.tensors), tuple(self.operations), (0,), (self.last,))

    def pad(self, height: int, width: int) -> "Network":
        return self._then("PAD", (), (1, height, width, self._shape[-1]))

    def conv(self, size: int, channels: int, stride: tuple[int, int] = (1, 1)) -> "Network":
        height, width = (-(-side // step) for side, step in zip(self._shape[1:3], stride, strict=True))
        return self._then("CONV_2D", ((channels, size, size, self._shape[-1]), (channels,)), (1, height, width, channels))

    def dense(self, units: int) -> "Network":
        return self._then("FULLY_CONNECTED", ((units, prod(self._shape)), (units,)), (1, units))

    def quantize(self) -> "Network":
        return self._then("QUANTIZE", (), self._shape)

    @property
    def _shape(self) -> tuple[int, ...]:
        return self.tensors[self.last].shape

    def _then(self, name: str, constants: tuple[tuple[int, ...], ...], shape: tuple[int, ...]) -> "Network":
        inputs = (self.last, *(self._tensor(each, constant=True) for each in constants))
        self.last = self._tensor(shape)
        self.operations.append(Operation(len(self.operations), name, 0, 1, inputs, (self.last,), {}))
        return self

    def _tensor(self, shape: tuple[int, ...], constant: bool = False) -> int:
        data = memoryview(b"") if constant else None
        self.tensors.append(Tensor(len(self.tensors), "", "INT8", shape, shape, (1.0,), (0,), False, data))
        return len(self.tensors) - 1


def iwatake(name: str) -> Graph:
    """A model of iwatake2222/EdgeTPU_Analysis, whose names hold the sizes (model_generator_*.py)."""
    sizes = [int(size) for size in name.rsplit("_", 1)[1].split("x")]
    height, width = sizes[:2]
    if "model_stride" in name:
        return Network(1, height, width, 3).conv(1, 1, (height, width)).graph()
    if "model_dense" in name:
        network = Network(1, 2, 2, 3)
        for units in [sizes[3]] * sizes[4] + [1]:
            network.dense(units)
        return network.graph()
    network = Network(1, 2, 2, 3).pad(height, width)
    if "model_conv" in name:
        for _ in range(sizes[5]):
            network.conv(sizes[4], sizes[3])
    if "model_padding_stride" in name or "model_conv" in name:
        network.conv(1, 1, (height, width))
    return network.graph()


def jorgitou(name: str, macs: int) -> Graph:
    """A model of Jorgitou98/EdgeTPU-QuantRL-Evaluation: 3x3 convolutions of N channels on 64x64 (CONV_linear_MACs_creator.py)."""
    channels = int(name.split("-")[0].removeprefix("jor_N"))
    layers = round((macs / (64 * 64 * 9) - 3 * channels) / channels**2)
    network = Network(1, 64, 64, 3).quantize()
    for _ in range(1 + layers):
        network.conv(3, channels)
    return network.graph()


# --- measurements -----------------------------------------------------------------------------------------------------------


def rows(data: Path, large: bool) -> list[Row]:
    estimates = {f"{name} {size}": _keras(name, size) for name, size in PUBLISHED if large or name in SMALL}
    found = [
        Row(f"{name} {size}", host, milliseconds, estimates[f"{name} {size}"], None)
        for (name, size), hosts in PUBLISHED.items()
        if f"{name} {size}" in estimates
        for host, measured in hosts.items()
        for milliseconds in measured
    ]
    measured = json.loads((data / "edgetpu" / "latency" / "measured.json").read_text())
    for name, facts in measured["iwatake"].items():
        built = (
            estimates["MobileNetV2 224"] if "mobilenet" in name else cost.estimate(graph := iwatake(name), [True] * len(graph.operations))
        )
        found += [Row(name, host, facts[f"{host}_ms"], built, "iwatake", facts["in_pairs_all"]) for host in ("usb3", "usb2")]
    for name, facts in measured["jorgitou"].items():
        graph = jorgitou(name, facts["macs"])
        built = cost.estimate(graph, [operation.name != "QUANTIZE" for operation in graph.operations])
        found += [Row(name, "usb3", milliseconds, built, "jorgitou", True) for milliseconds in facts["measured_ms"]]
    return found


def _keras(name: str, size: int) -> Estimate:
    """Builds, converts and reads a model of tf_keras.applications; TensorFlow runs in a process of its own."""
    path = FOLDER / f"{name}-{size}.tflite"
    if not path.exists():
        print(f"building {path}", file=sys.stderr)
        path.parent.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "TF_USE_LEGACY_KERAS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
        command = [sys.executable, "-c", BUILD, name, str(size), str(path), str(int(name in SMALL))]
        subprocess.run(command, env=environment, check=True, capture_output=True)
    graph = tflite_graph.read(path).graphs[0]
    return cost.estimate(graph, [True] * len(graph.operations))


BUILD = """
import sys
import numpy as np
import tensorflow as tf
import tf_keras as keras

name, size, path, quantised = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4] == "1"
model = getattr(keras.applications, name)(input_tensor=keras.Input((size, size, 3), batch_size=1), weights=None)
converter = tf.lite.TFLiteConverter.from_keras_model(model)
if quantised:
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([np.random.rand(1, size, size, 3).astype("f")] for _ in range(2))
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.uint8
content = converter.convert()
open(path, "wb").write(content)
"""


# --- fit --------------------------------------------------------------------------------------------------------------------

FITTED = [each.name for each in fields(Host) if each.name not in ("mac", "element")]
# Where a fit begins: round figures from data sheets (4 TOPS; USB 3, USB 2 and PCIe in practice), guesses elsewhere, nothing fitted.
START = {
    "usb3": (3e-4, 2.5e-9, 2.5e-9, 1e-7),
    "usb2": (3e-4, 2.5e-8, 2.5e-8, 1e-7),
    "pcie": (3e-4, 2.5e-9, 2.5e-9, 1e-7),
    "pi4": (1e-3, 2.5e-9, 2.5e-9, 1e-7),
}
START_RATES = Load(dispatches=1e-6, dense=5e-13, depthwise=5e-12, passed=1e-10, moved=1e-10, weights=1e-10)
HOLD = 0.1  # how much a figure resists to leave that: most rows say nothing of most figures


def fit(measured: list[Row]) -> tuple[Load, dict[str, Host]]:
    """The figures that make the estimates of `measured` closest to the truth: least squares of the logarithm, robust."""
    names = list(cost.HOSTS)
    start = np.log([*astuple(START_RATES), *(figure for name in names for figure in START[name])])
    works = [_work(row) for row in measured]

    def residuals(figures: np.ndarray) -> np.ndarray:
        values = np.exp(figures)
        errors = []
        for row, (loads, streamed, sent, fixed) in zip(measured, works, strict=True):
            host = _values(values, names.index(row.host))
            busy = np.maximum(loads @ values[: len(fields(Load))], streamed * host[1]).sum()
            total = fixed + busy + sent @ host
            errors.append(np.log(total * 1e3 / row.milliseconds))
        return np.concatenate([errors, HOLD * (figures - start)])

    values = np.exp(least_squares(residuals, start, loss="soft_l1").x)
    rates = Load(*values[: len(fields(Load))])
    hosts = {
        name: Host(*_values(values, number), mac=cost.HOSTS[name].mac, element=cost.HOSTS[name].element)
        for number, name in enumerate(names)
    }
    return rates, hosts


def _values(values: np.ndarray, host: int) -> np.ndarray:
    first = len(fields(Load)) + host * len(FITTED)
    return values[first : first + len(FITTED)]


def _work(row: Row) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """What a row's time is made of: (loads [N, 6], streamed bytes [N], (1, bytes sent, bytes and pixels received), CPU seconds)."""
    on_tpu = [each for each in row.estimate.operations if each.on_tpu]
    on_cpu = sum(each.seconds(cost.HOSTS[row.host]) for each in row.estimate.operations if not each.on_tpu)
    loads, streamed = np.array([astuple(each.load) for each in on_tpu]), np.array([each.streamed for each in on_tpu])
    crossing = row.estimate.crossing
    sent = crossing.sent + cost.EXECUTABLE + sum(each.instructions for each in on_tpu)
    return loads, streamed, np.array([1, sent, crossing.received, crossing.pixels]), on_cpu


def halves(measured: list[Row]) -> tuple[list[Row], list[Row]]:
    """Every second model of each study, so that both halves have small and large ones; all rows of a model stay together."""
    models = list(dict.fromkeys(row.model for row in measured))
    first = set(models[::2])
    return [row for row in measured if row.model in first], [row for row in measured if row.model not in first]


def family(row: Row) -> str:
    """What a model is one of: a series of one study, in which only sizes change, or Google's own."""
    return "Google's" if row.study is None else row.model.rsplit("_", 1)[0] if row.study == "iwatake" else row.study


# --- tables -----------------------------------------------------------------------------------------------------------------


def summary(name: str, ratios: Iterable[float]) -> str:
    errors = np.abs(np.log(np.array(list(ratios))))
    middle, worst = np.exp(np.median(errors)) - 1, np.exp(np.quantile(errors, 0.9)) - 1
    return f"| {name} | {len(errors)} | {100 * middle:.0f} % | {100 * worst:.0f} % | {100 * np.mean(errors <= np.log(2)):.0f} % |"


def ratio_with(rates: Load, hosts: dict[str, Host]) -> Callable[[Row], float]:
    return lambda row: row.estimate.latency(hosts[row.host], rates).estimate * 1e3 / row.milliseconds


def report(measured: list[Row], shipped: Callable[[Row], float]) -> str:
    lines = ["| model | host | published ms | estimate ms | ratio |", "|---|---|---|---|---|"]
    for row in measured:
        if row.study is None:
            published = row.milliseconds
            lines.append(f"| {row.model} | {row.host} | {published:g} | {published * shipped(row):.1f} | {shipped(row):.2f} |")
    usual = [row for row in measured if row.model not in ODD or row.host != "usb2"]
    lines += ["", "| rows | number | median error | nine of ten within | within a factor of 2 |", "|---|---|---|---|---|"]
    for number, (half, other) in enumerate([halves(usual), halves(usual)[::-1]], start=1):
        fitted = ratio_with(*fit(half))
        lines.append(summary(f"fitted on half {number}, shown on the other", map(fitted, other)))
        lines.append(summary(f"fitted on half {number}, shown on the other, the pairs alone", (fitted(row) for row in other if row.pair)))
    for name in dict.fromkeys(map(family, usual)):
        fitted = ratio_with(*fit([row for row in usual if family(row) != name]))
        lines.append(summary(f"fitted without {name}, shown on it", (fitted(row) for row in usual if family(row) == name)))
    lines.append(summary("as shipped, all rows", map(shipped, usual)))
    lines.append(summary("as shipped, the pairs alone", (shipped(row) for row in usual if row.pair)))
    for host in cost.HOSTS:
        lines.append(summary(f"as shipped, {host}", (shipped(row) for row in usual if row.host == host)))
    lines.append(summary("as shipped, with the odd rows", map(shipped, measured)))
    return "\n".join(lines)


def _main(args: argparse.Namespace) -> int:
    if not (args.data / "edgetpu" / "latency").is_dir():
        raise InputError(f"{args.data} is not the shared data", "name its folder with --data")
    measured = rows(args.data, args.large)
    print(report(measured, lambda row: row.ratio))
    if args.rows:
        for row in measured:
            print(f"{row.model:45} {row.host:5} {row.milliseconds:8.2f} {row.ratio:6.2f}")
    if args.fit:
        rates, hosts = fit([row for row in measured if row.model not in ODD or row.host != "usb2"])
        print(f"RATES = {_rounded(rates)}", *(f"{name}: {_rounded(host)}" for name, host in hosts.items()), sep="\n")
        print(summary("fitted on all", map(ratio_with(rates, hosts), measured)))
    return 0


def _rounded(figures: Load | Host) -> str:
    values = ", ".join(f"{each.name}={getattr(figures, each.name):.2g}" for each in fields(figures))
    return f"{type(figures).__name__}({values})"


def main(argv: list[str] | None = None) -> int:
    parser = Parser(__doc__)
    parser.add_argument("--data", type=Path, default=shared_data(), help="the shared data (default $OMOKAGE_DATA)")
    parser.add_argument("--large", action="store_true", help="with ResNets and others: builds 1.3 GB of models in build/latency first")
    parser.add_argument("--rows", action="store_true", help="every measurement, with the ratio of the estimate to it")
    parser.add_argument("--fit", action="store_true", help="the figures that a fit to all measurements gives")
    return run(_main, parser, argv)


if __name__ == "__main__":
    sys.exit(main())
