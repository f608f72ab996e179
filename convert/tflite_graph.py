"""Reads a TFLite model file into plain data: subgraphs of tensors and operations in execution order.

No TensorFlow and no interpreter: the flatbuffer is read directly (schema: tensorflow/lite/schema/schema.fbs). The file is
not trusted: whatever is wrong with it becomes one InputError, and the work stays in proportion to its size.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import tflite
from tflite.utils import BUILTIN_OPCODE2NAME

from device.program import InputError

EDGETPU = "edgetpu-custom-op"  # what edgetpu_compiler puts in the place of the operations that it mapped
LARGEST = 2**31 - 1  # bytes; offsets of a flatbuffer are 32 bits
WORK = 2  # bytes that are read, as a multiple of the file's: what two tables share counts twice, a sound file stays below 1
CUSTOM = 32  # builtin code of a custom operation
RANK = 16  # dimensions of a tensor at most; TFLite itself computes on up to 8
ELEMENTS = 2**48  # of a tensor at most; no machine holds that many
NAME = 1000  # characters of a name that are kept
LIST = 256  # values of a constant that is read as axes, paddings or strides

TYPES = {code: name for name, code in vars(tflite.TensorType).items() if not name.startswith("_")}
OPTIONS = {code: name for name, code in vars(tflite.BuiltinOptions).items() if not name.startswith("_")}
ACTIVATIONS = {code: name for name, code in vars(tflite.ActivationFunctionType).items() if not name.startswith("_")}

# The options that the rules ask for, by the schema's names; an operation has those of its own table.
FIELDS = ("FusedActivationFunction", "DilationWFactor", "DilationHFactor", "WeightsFormat", "Axis", "EllipsisMask", "NewAxisMask")


@dataclass(frozen=True)
class Tensor:
    """`signature` is the shape with -1 where it is not known before the model runs. `data` is None unless constant.

    Quantised tensors have `scales` and `zero_points`: one for the whole tensor, or one per channel.
    """

    index: int
    name: str
    type: str  # of the schema: "INT8", "FLOAT32", ...
    shape: tuple[int, ...]
    signature: tuple[int, ...]
    scales: tuple[float, ...]
    zero_points: tuple[int, ...]
    variable: bool
    data: memoryview | None

    @property
    def constant(self) -> bool:
        return self.data is not None

    @property
    def integers(self) -> tuple[int, ...] | None:
        """The values of a short constant INT32 or INT64 tensor (axes, paddings, strides); None for any other."""
        width = {"INT32": 4, "INT64": 8}.get(self.type)
        if self.data is None or width is None or len(self.data) % width or len(self.data) > LIST * width:
            return None
        return tuple(np.frombuffer(self.data, f"<i{width}").tolist())

    @cached_property
    def zero(self) -> bool:
        """Whether this is a constant INT8 or UINT8 tensor whose values are all its zero point."""
        point = bytes([self.zero_points[0] % 256 if self.zero_points else 0])
        return self.data is not None and self.type in ("INT8", "UINT8") and not bytes(self.data).strip(point)


@dataclass(frozen=True)
class Operation:
    """`inputs` and `outputs` are indices of tensors; -1 is an optional input that is left out."""

    index: int
    name: str  # builtin: "CONV_2D"; custom: its own name; builtin that this reader does not know: "BUILTIN_n"
    code: int  # builtin code of the schema; CUSTOM for custom operations
    version: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: dict[str, Any]  # of FIELDS, where the file has them; an activation function by name ("NONE", "RELU6")
    custom_options: bytes = b""  # of a custom operation, as it wrote them

    @property
    def custom(self) -> bool:
        return self.code == CUSTOM


@dataclass(frozen=True)
class Graph:
    """One subgraph; `operations` in execution order."""

    index: int
    tensors: tuple[Tensor, ...]
    operations: tuple[Operation, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    @cached_property
    def makers(self) -> dict[int, int]:
        """By tensor the operation that computes it."""
        return {index: operation.index for operation in self.operations for index in operation.outputs}

    def of(self, indices: tuple[int, ...]) -> list[Tensor]:
        """The tensors of these indices, without the optional ones that are left out."""
        return [self.tensors[i] for i in indices if i >= 0]


@dataclass(frozen=True)
class Model:
    path: Path
    sha256: str
    graphs: tuple[Graph, ...]

    @property
    def compiled(self) -> bool:
        """Whether edgetpu_compiler made this file."""
        return any(compiled(operation) for graph in self.graphs for operation in graph.operations)


def compiled(operation: Operation) -> bool:
    """Whether edgetpu_compiler put `operation` in the place of those that it mapped."""
    return operation.custom and operation.name == EDGETPU


def read(path: Path) -> Model:
    """Read the model file `path`. Raises InputError where it is missing, no TFLite model, or damaged."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} is not a file" if path.exists() else f"{path} does not exist", "name a .tflite file")
    try:
        if path.stat().st_size > LARGEST:
            raise InputError(f"{path} is larger than a TFLite model can be", "name a .tflite file")
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path} ({error.strerror})", "name a file that may be read") from error
    if data[4:8] != b"TFL3":
        raise InputError(f"{path} is not a TFLite model", "name a .tflite file")
    try:
        graphs = _Reader(data).graphs()
    except Exception as error:  # the accessors raise whatever struct, numpy and bytes raise on offsets that lead nowhere
        raise InputError(f"{path} is damaged ({type(error).__name__}: {error})", "make or fetch the model again") from error
    if not graphs or not graphs[0].operations:
        raise InputError(f"{path} holds no operations", "name a model that computes something")
    return Model(path, hashlib.sha256(data).hexdigest(), graphs)


class _Reader:
    """Walks the flatbuffer `data`. Every element is counted: offsets may share or loop, and lengths may lie."""

    def __init__(self, data: bytes):
        self.left = WORK * len(data)
        self.model = tflite.Model.GetRootAs(data, 0)
        self.buffers = self._count(self.model.BuffersLength(), 4)
        self.codes = [self._code(code) for code in self._tables(self.model, "OperatorCodes")]

    def graphs(self) -> tuple[Graph, ...]:
        return tuple(self._graph(index, graph) for index, graph in enumerate(self._tables(self.model, "Subgraphs")))

    def _count(self, elements: int, width: int = 1) -> int:
        self.left -= elements * width
        if self.left < 0:
            raise ValueError("it holds more than fits into the file")
        return elements

    def _tables(self, table: Any, field: str) -> Iterator[Any]:
        """The tables of a vector, by the accessors that the `tflite` package has for every vector."""
        item = getattr(table, field)
        for i in range(self._count(getattr(table, f"{field}Length")(), 4)):
            yield item(i)

    def _numbers(self, table: Any, field: str) -> tuple[Any, ...]:
        length = self._count(getattr(table, f"{field}Length")(), 4)
        return tuple(getattr(table, f"{field}AsNumpy")().tolist()) if length else ()

    def _indices(self, table: Any, field: str, tensors: int) -> tuple[int, ...]:
        indices = self._numbers(table, field)
        if any(not -1 <= index < tensors for index in indices):
            raise ValueError("an operation names a tensor that is not there")
        return indices

    def _text(self, value: bytes | None) -> str:
        """Names go to terminals: what cannot be printed is replaced."""
        self._count(len(value or b""))
        return "".join(c if c.isprintable() else "\ufffd" for c in (value or b"").decode("utf-8", "replace")[:NAME])

    def _code(self, code: Any) -> tuple[str, int, int]:
        """(name, builtin code, version). Old files have the code in one byte, new ones in an int32 as well."""
        builtin = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        if builtin == CUSTOM:
            return self._text(code.CustomCode()), builtin, code.Version()
        return BUILTIN_OPCODE2NAME.get(builtin, f"BUILTIN_{builtin}"), builtin, code.Version()

    def _graph(self, index: int, graph: Any) -> Graph:
        tensors = tuple(self._tensor(i, tensor) for i, tensor in enumerate(self._tables(graph, "Tensors")))
        return Graph(
            index=index,
            tensors=tensors,
            operations=tuple(self._operation(i, operator, len(tensors)) for i, operator in enumerate(self._tables(graph, "Operators"))),
            inputs=self._indices(graph, "Inputs", len(tensors)),
            outputs=self._indices(graph, "Outputs", len(tensors)),
        )

    def _tensor(self, index: int, tensor: Any) -> Tensor:
        shape = self._numbers(tensor, "Shape")
        if any(size < 0 for size in shape) or len(shape) > RANK or prod(shape) > ELEMENTS:
            raise ValueError("a tensor has a shape that cannot be")
        quantisation = tensor.Quantization()
        return Tensor(
            index=index,
            name=self._text(tensor.Name()),
            type=TYPES[tensor.Type()],
            shape=shape,
            signature=self._numbers(tensor, "ShapeSignature") or shape,
            scales=self._numbers(quantisation, "Scale") if quantisation else (),
            zero_points=self._numbers(quantisation, "ZeroPoint") if quantisation else (),
            variable=bool(tensor.IsVariable()),
            data=self._data(tensor.Buffer()),
        )

    def _data(self, index: int) -> memoryview | None:
        """The bytes of a constant; None for the empty buffers of activations."""
        if index >= self.buffers:
            raise ValueError("a tensor names a buffer that is not there")
        buffer = self.model.Buffers(index)
        if buffer.Offset() > 1:  # a model over 2 GB keeps its constants behind the flatbuffer
            raise ValueError("its constants lie outside the flatbuffer")
        return memoryview(buffer.DataAsNumpy()) if buffer.DataLength() else None

    def _operation(self, index: int, operator: Any, tensors: int) -> Operation:
        if operator.OpcodeIndex() >= len(self.codes):
            raise ValueError("an operation names an operator code that is not there")
        name, code, version = self.codes[operator.OpcodeIndex()]
        return Operation(
            index=index,
            name=name,
            code=code,
            version=version,
            inputs=self._indices(operator, "Inputs", tensors),
            outputs=self._indices(operator, "Outputs", tensors),
            options=self._options(operator),
            custom_options=self._custom_options(operator) if code == CUSTOM else b"",
        )

    def _custom_options(self, operator: Any) -> bytes:
        length = self._count(operator.CustomOptionsLength())
        return operator.CustomOptionsAsNumpy().tobytes() if length else b""

    def _options(self, operator: Any) -> dict[str, Any]:
        table, name = operator.BuiltinOptions(), OPTIONS.get(operator.BuiltinOptionsType(), "NONE")
        if table is None or name == "NONE":
            return {}
        options = getattr(tflite, name)()
        options.Init(table.Bytes, table.Pos)
        found = {field: getattr(options, field)() for field in FIELDS if hasattr(options, field)}
        if "FusedActivationFunction" in found:
            found["FusedActivationFunction"] = ACTIVATIONS[found["FusedActivationFunction"]]
        return found
