"""Estimates what a model costs on the Edge TPU: memory for its parameters, and seconds per host, per operation and whole.

The machine that is assumed (docs/estimates.md): sixteen tiles of 64 lanes that share 8 MiB, fed by a host over a link. Its
figures were fitted to published measurements by benchmarks/edgetpu_latency.py, which also says how far off the estimates are.
"""

from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from math import ceil, prod

from convert import rules
from convert.tflite_graph import Graph, Operation, Tensor

GRID = 4  # tiles down and across; each computes its part of a map
TILES = GRID * GRID
LANES = 64  # output channels that a tile computes at once
DEPTH = 4  # input channels that a lane takes at once
SPARSE = 8  # bytes per weight of a depthwise filter, seven of them zero
CHIP = 8 * 2**20  # bytes, for activations and parameters
KEPT = 48 * 2**10  # bytes of them that the compiler never gives to either
EXECUTABLE = 7_000  # bytes of instructions of any model, which the host sends with every inference
INSTRUCTIONS = 1_600  # bytes more per operation
SLICED = 6 * 2**20  # bytes; larger activations pass in slices: 1920x1058x3 left 1.73 MiB to parameters

FILTERED = {"CONV_2D": 4, "DEPTHWISE_CONV_2D": 4, "TRANSPOSE_CONV": 4, "FULLY_CONNECTED": 2}  # and the rank of the filters
CPU_COPIES = ("QUANTIZE", "DEQUANTIZE", "RESHAPE", "CONCATENATION", "PAD", "PACK", "SLICE", "STRIDED_SLICE", "RELU", "RELU6", "ADD", "MUL")
COPY = 8  # times faster on a CPU than interpolating or comparing

# The truth was within the estimate divided and multiplied by these for all but the odd model (docs/estimates.md).
SPREAD = 2.0
SPREAD_CPU = 3.0  # where operations stay on the host's CPU, of which there are many kinds


@dataclass(frozen=True)
class Load:
    """What an operation asks of the Edge TPU, in the units that its time is counted in."""

    dispatches: float = 0  # 1, but 0 for what moves nothing
    dense: float = 0  # multiply-accumulates, with the lanes that stand idle
    depthwise: float = 0  # the same, of depthwise convolutions
    passed: float = 0  # bytes that convolutions read and write
    moved: float = 0  # bytes that all other operations read and write
    weights: float = 0  # bytes, from the chip's own memory


# Seconds per unit, fitted. Dense is 2e12 a second: the 4 TOPS of the data sheet.
RATES = Load(dispatches=9.5e-7, dense=5e-13, depthwise=3.6e-12, passed=2.6e-11, moved=1.4e-10, weights=1.8e-10)


@dataclass(frozen=True)
class Host:
    """What the host adds, seconds: per inference, per byte that it sends, per byte and per pixel of output (it puts them in order).

    `mac` and `element` are those of its own CPU, for the operations that stay there.
    """

    call: float
    sent: float
    received: float
    pixel: float
    mac: float
    element: float


# A desktop with USB 3; USB 2 with a CPU like a Raspberry Pi 3's; the Dev Board; a Raspberry Pi 4 with USB 3. Fitted, but for the last
# two of each, and for what the Dev Board and the Pi 4 receive: those follow Coral's table (Unet, DeepLab, the CPU's columns).
HOSTS = {
    "usb3": Host(2.6e-4, 2.4e-9, 6.2e-9, 1.1e-7, 6e-11, 5e-9),
    "usb2": Host(9.5e-5, 2.8e-8, 5.4e-8, 1.8e-7, 3e-10, 3e-8),
    "pcie": Host(2.8e-4, 2.4e-9, 6.7e-9, 2.5e-7, 3e-10, 3e-8),
    "pi4": Host(1.9e-3, 3.4e-9, 6.7e-9, 1.5e-7, 1.5e-10, 1.5e-8),
}


@dataclass(frozen=True)
class Memory:
    """Bytes. `parameters` as the compiler lays them out in the file: `on_chip` of them stay there, the rest are `streamed`.

    `activations` is the most that is alive at a time, `available` what they leave for parameters, in which these take
    `occupied`: more than their own bytes where channels do not fill the lanes. `executable`: instructions, sent every time.
    """

    parameters: int
    on_chip: int
    streamed: int
    activations: int
    available: int
    occupied: int
    executable: int


@dataclass(frozen=True)
class Cost:
    """Of one operation. On the CPU it has no load, no parameters and no activations."""

    name: str
    on_tpu: bool
    macs: int
    written: int  # elements
    load: Load
    parameters: int  # bytes
    streamed: int  # of them
    activations: int  # bytes alive per tile while it runs

    @property
    def instructions(self) -> int:
        """Bytes."""
        return round(INSTRUCTIONS * self.load.dispatches)

    def seconds(self, host: Host, rates: Load = RATES) -> float:
        """On the Edge TPU, which computes while parameters stream in, or on the CPU."""
        if self.on_tpu:
            return max(_dot(self.load, rates), self.streamed * host.sent) + self.instructions * host.sent
        return self.macs * host.mac + self.written * host.element / (COPY if self.name in CPU_COPIES else 1)


@dataclass(frozen=True)
class Crossing:
    """What goes between host and Edge TPU in an inference: bytes, and pixels (places of a map, whatever its channels)."""

    sent: int
    received: int
    pixels: int


@dataclass(frozen=True)
class Time:
    """Seconds: the estimate, and the range in which to expect the truth."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class Estimate:
    """`operations` in execution order."""

    operations: tuple[Cost, ...]
    memory: Memory
    crossing: Crossing

    def latency(self, host: Host, rates: Load = RATES) -> Time:
        """Of an inference after the first, which also fills the chip's memory."""
        total = sum(cost.seconds(host, rates) for cost in self.operations)
        if any(cost.on_tpu for cost in self.operations):
            total += host.call + EXECUTABLE * host.sent + _dot(self.crossing, (host.sent, host.received, host.pixel))
        spread = SPREAD if all(cost.on_tpu for cost in self.operations) else SPREAD_CPU
        return Time(total, total / spread, total * spread)


def estimate(graph: Graph, mapped: Sequence[bool] | None = None) -> Estimate:
    """What `graph` costs where the `mapped` operations (default: those that rules.place maps) run on the Edge TPU."""
    if mapped is None:
        mapped = [finding is None for finding in rules.place(graph)]
    alive = _alive(graph, mapped)
    activations = max(alive, default=0)
    available = CHIP - KEPT - min(activations, SLICED)
    streamed, occupied = _caching(graph, mapped, available)
    costs = tuple(
        _cost(graph, operation, on_tpu, part, ceil(live / TILES))
        for operation, on_tpu, part, live in zip(graph.operations, mapped, streamed, alive, strict=True)
    )
    parameters = sum(each.parameters for each in costs)
    executable = sum(each.instructions for each in costs) + (EXECUTABLE if any(mapped) else 0)
    memory = Memory(parameters, parameters - sum(streamed), sum(streamed), activations, available, occupied, executable)
    return Estimate(costs, memory, _crossing(graph, mapped))


def _dot(quantities: Load | Crossing, rates: Load | Iterable[float]) -> float:
    rates = astuple(rates) if isinstance(rates, Load) else rates
    return sum(quantity * rate for quantity, rate in zip(astuple(quantities), rates, strict=True))


# --- an operation -----------------------------------------------------------------------------------------------------------


def _cost(graph: Graph, operation: Operation, on_tpu: bool, streamed: int, alive: int) -> Cost:
    macs, written = _macs(graph, operation), _size(graph.of(operation.outputs))
    if not on_tpu:
        return Cost(operation.name, False, macs, written, Load(), 0, 0, 0)
    load = _load(graph, operation, macs)
    return Cost(operation.name, True, macs, written, load, _parameters(graph, operation), streamed, alive)


def _load(graph: Graph, operation: Operation, macs: int) -> Load:
    if operation.name in ("RESHAPE", "SQUEEZE", "EXPAND_DIMS"):
        return Load()
    filters, outputs = _filters(graph, operation), graph.of(operation.outputs)
    touched = _size(tensor for tensor in graph.of(operation.inputs + operation.outputs) if not tensor.constant)
    if filters is None or not outputs:
        return Load(dispatches=1, moved=touched)
    busy, weights = macs * _idle(operation.name, filters, outputs[0]), _parameters(graph, operation)
    if operation.name == "DEPTHWISE_CONV_2D":
        return Load(dispatches=1, depthwise=busy, passed=touched, weights=weights)
    return Load(dispatches=1, dense=busy, passed=touched, weights=weights)


def _idle(name: str, filters: Tensor, output: Tensor) -> float:
    """How often a multiply-accumulate's time passes per one that counts: maps and channels rarely fill tiles and lanes."""
    channels = output.shape[-1] if output.shape else 1
    idle = _up(channels, LANES) / max(1, channels)
    if name in ("CONV_2D", "TRANSPOSE_CONV"):
        idle *= _up(filters.shape[3], DEPTH) / max(1, filters.shape[3])
    if prod(output.shape[-3:-1]) > 1:
        for side in output.shape[-3:-1]:
            idle *= _up(side, GRID) / max(1, side)
    return idle


def _macs(graph: Graph, operation: Operation) -> int:
    """Multiply-accumulates of the operations that have filters, 0 for the others."""
    filters, outputs = _filters(graph, operation), graph.of(operation.outputs)
    if filters is None or not outputs:
        return 0
    if operation.name == "TRANSPOSE_CONV":
        source = graph.of(operation.inputs)[-1]
        return _size([filters]) * prod(source.shape[:-1])
    if operation.name == "DEPTHWISE_CONV_2D":
        return _size(outputs) * prod(filters.shape[1:3])
    return _size(outputs) * prod(filters.shape[1:])


def _filters(graph: Graph, operation: Operation) -> Tensor | None:
    if operation.name not in FILTERED or len(operation.inputs) < 2 or operation.inputs[1] < 0:
        return None
    filters = graph.tensors[operation.inputs[1]]
    return filters if len(filters.shape) == FILTERED[operation.name] else None


# --- memory -----------------------------------------------------------------------------------------------------------------


def _caching(graph: Graph, mapped: Sequence[bool], available: int) -> tuple[list[int], int]:
    """(bytes that each operation streams, bytes of the chip that the others fill) where parameters have `available` bytes.

    The compiler caches in the order of execution. A layer without height and width lies on as many tiles as it has 64 channels
    and can fill those only; any other is spread over all.
    """
    free = [available / TILES] * TILES
    streamed = []
    for operation, on_tpu in zip(graph.operations, mapped, strict=True):
        laid_out, occupied, tiles = _layout(graph, operation) if on_tpu else (0, 0, TILES)
        share = occupied / tiles
        taken = min(share, *free[:tiles])
        free[:tiles] = [rest - taken for rest in free[:tiles]]
        streamed.append(round(laid_out * (1 - taken / share)) if share else 0)
    return streamed, round(available - sum(free))


def _parameters(graph: Graph, operation: Operation) -> int:
    return _layout(graph, operation)[0]


def _layout(graph: Graph, operation: Operation) -> tuple[int, int, int]:
    """(bytes in the file, bytes on the chip, tiles) of an operation's parameters: channels are padded to the lanes."""
    filters = _filters(graph, operation)
    if filters is None:
        constants = [tensor for tensor in graph.of(operation.inputs) if tensor.constant and tensor.type in rules.ACTIVATION_TYPES]
        size = _size(constants)
        return size, size, TILES
    extra = 8 if len(filters.scales) > 1 else 4  # bias, and a scale of its own
    if operation.name == "FULLY_CONNECTED":
        channels, depth = filters.shape
        wide = _up(channels, LANES) if channels > LANES // 4 else _up(channels, LANES // 4)
        size = (depth + extra) * wide
        return size, size, min(TILES, ceil(wide / LANES))
    if operation.name == "DEPTHWISE_CONV_2D":
        channels, per_channel = filters.shape[3], SPARSE * prod(filters.shape[1:3]) + extra
    else:
        channels, per_channel = filters.shape[0], prod(filters.shape[1:3]) * _up(filters.shape[3], DEPTH) + extra
    output = graph.of(operation.outputs)[0] if operation.outputs else filters
    spread = prod(output.shape[-3:-1]) > 1
    tiles = TILES if spread else min(TILES, max(1, ceil(channels / LANES)))
    return per_channel * channels, per_channel * _up(channels, LANES), tiles


def _alive(graph: Graph, mapped: Sequence[bool]) -> list[int]:
    """Per operation the bytes of activations that wait on the Edge TPU while it runs; 0 where it runs on the CPU."""
    on_tpu = [operation for operation, on in zip(graph.operations, mapped, strict=True) if on]
    last = {index: operation.index for operation in on_tpu for index in operation.inputs + operation.outputs if index >= 0}
    ending: dict[int, list[int]] = {}
    for index, end in last.items():
        ending.setdefault(end, []).append(index)
    alive = [0] * len(graph.operations)
    held: set[int] = set()
    total = 0
    for operation in on_tpu:
        for index in {*operation.inputs, *operation.outputs} - {-1} - held:
            held.add(index)
            total += _activation(graph.tensors[index])
        alive[operation.index] = total
        for index in ending.get(operation.index, ()):
            total -= _activation(graph.tensors[index])
    return alive


def _activation(tensor: Tensor) -> int:
    return 0 if tensor.constant else prod(tensor.shape)


def _crossing(graph: Graph, mapped: Sequence[bool]) -> Crossing:
    """The Edge TPU's inputs come from the host, its outputs go there: to the CPU's operations and out of the model."""
    on_tpu = [operation for operation, on in zip(graph.operations, mapped, strict=True) if on]
    on_cpu = [operation for operation, on in zip(graph.operations, mapped, strict=True) if not on]
    read = {index for operation in on_tpu for index in operation.inputs if index >= 0}
    made = {index for operation in on_tpu for index in operation.outputs}
    wanted = {index for operation in on_cpu for index in operation.inputs} | set(graph.outputs)
    sent = [graph.tensors[index] for index in read - made if not graph.tensors[index].constant and not graph.tensors[index].variable]
    received = [graph.tensors[index] for index in made & wanted]
    return Crossing(_size(sent), _size(received), sum(prod(tensor.shape[:-1]) for tensor in received))


def _size(tensors: Iterable[Tensor]) -> int:
    """Elements; on the Edge TPU also bytes."""
    return sum(prod(tensor.shape) for tensor in tensors)


def _up(number: int, step: int) -> int:
    """`number`, rounded up to a multiple of `step`."""
    return -(-number // step) * step
