"""Small TFLite files written by hand, so that tests of what is read and judged need no TensorFlow."""

from pathlib import Path

import flatbuffers
import pytest
import tflite
from flatbuffers import flexbuffers

CUSTOM = tflite.BuiltinOperator.CUSTOM
EDGETPU = "edgetpu-custom-op"


def write_model(path: Path, tensors: list[dict], operations: list[dict], filler: int = 0) -> Path:
    """A model of one subgraph; its input is tensor 0, its output the last tensor.

    tensor: name, shape; type (INT8), signature (none), data (none: an activation), scale (0.5).
    operation: code (a BuiltinOperator, or the name of a custom one), inputs, outputs; version (1), options (bytes of a custom one).
    `filler` bytes of an unused buffer make the file longer.
    """
    b = flatbuffers.Builder(1024)
    contents = [b"", bytes(filler), *(tensor.get("data") or b"" for tensor in tensors)]
    buffers = _tables(b, [_buffer(b, content) for content in contents])
    rows = _tables(b, [_tensor(b, number + 2, **tensor) for number, tensor in enumerate(tensors)])
    codes = _tables(b, [_code(b, operation["code"], operation.get("version", 1)) for operation in operations])
    steps = _tables(b, [_operator(b, number, operation) for number, operation in enumerate(operations)])
    inputs, outputs = _numbers(b, [0]), _numbers(b, [len(tensors) - 1])
    tflite.SubGraphStart(b)
    tflite.SubGraphAddTensors(b, rows)
    tflite.SubGraphAddOperators(b, steps)
    tflite.SubGraphAddInputs(b, inputs)
    tflite.SubGraphAddOutputs(b, outputs)
    graphs = _tables(b, [tflite.SubGraphEnd(b)])
    tflite.ModelStart(b)
    tflite.ModelAddVersion(b, 3)
    tflite.ModelAddOperatorCodes(b, codes)
    tflite.ModelAddSubgraphs(b, graphs)
    tflite.ModelAddBuffers(b, buffers)
    b.Finish(tflite.ModelEnd(b), b"TFL3")
    path.write_bytes(bytes(b.Output()))
    return path


def _numbers(b: flatbuffers.Builder, values: list[int]) -> int:
    b.StartVector(4, len(values), 4)
    for value in reversed(values):
        b.PrependInt32(value)
    return b.EndVector()


def _tables(b: flatbuffers.Builder, offsets: list[int]) -> int:
    b.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        b.PrependUOffsetTRelative(offset)
    return b.EndVector()


def _buffer(b: flatbuffers.Builder, content: bytes) -> int:
    data = b.CreateByteVector(content) if content else None
    tflite.BufferStart(b)
    if data is not None:
        tflite.BufferAddData(b, data)
    return tflite.BufferEnd(b)


def _tensor(b, buffer, name, shape, type="INT8", signature=None, data=None, scale=0.5) -> int:
    text, sizes = b.CreateString(name), _numbers(b, shape)
    signed = _numbers(b, signature) if signature else None
    quantisation = None
    if scale:
        tflite.QuantizationParametersStartScaleVector(b, 1)
        b.PrependFloat32(scale)
        scales = b.EndVector()
        tflite.QuantizationParametersStart(b)
        tflite.QuantizationParametersAddScale(b, scales)
        quantisation = tflite.QuantizationParametersEnd(b)
    tflite.TensorStart(b)
    tflite.TensorAddName(b, text)
    tflite.TensorAddShape(b, sizes)
    tflite.TensorAddType(b, getattr(tflite.TensorType, type))
    tflite.TensorAddBuffer(b, buffer)
    if signed is not None:
        tflite.TensorAddShapeSignature(b, signed)
    if quantisation is not None:
        tflite.TensorAddQuantization(b, quantisation)
    return tflite.TensorEnd(b)


def _code(b: flatbuffers.Builder, code: int | str, version: int) -> int:
    custom = b.CreateString(code) if isinstance(code, str) else None
    number = CUSTOM if isinstance(code, str) else code
    tflite.OperatorCodeStart(b)
    tflite.OperatorCodeAddDeprecatedBuiltinCode(b, min(number, 127))
    tflite.OperatorCodeAddBuiltinCode(b, number)
    tflite.OperatorCodeAddVersion(b, version)
    if custom is not None:
        tflite.OperatorCodeAddCustomCode(b, custom)
    return tflite.OperatorCodeEnd(b)


def _operator(b: flatbuffers.Builder, number: int, operation: dict) -> int:
    inputs, outputs = _numbers(b, operation["inputs"]), _numbers(b, operation["outputs"])
    options = b.CreateByteVector(operation["options"]) if "options" in operation else None
    tflite.OperatorStart(b)
    tflite.OperatorAddOpcodeIndex(b, number)
    if options is not None:
        tflite.OperatorAddCustomOptions(b, options)
    tflite.OperatorAddInputs(b, inputs)
    tflite.OperatorAddOutputs(b, outputs)
    return tflite.OperatorEnd(b)


# --- packages ---------------------------------------------------------------------------------------------------------------


def _record(fields: dict[int, object]) -> bytes:
    """A flatbuffer of one table: by field number bytes, lists of bytes (strings), or (kind, number)."""
    b = flatbuffers.Builder(256)
    offsets = {}
    for number, value in fields.items():
        if isinstance(value, bytes):
            offsets[number] = b.CreateByteVector(value)
        elif isinstance(value, list):
            offsets[number] = _tables(b, [b.CreateString(each) for each in value])
    b.StartObject(max(fields) + 1)
    for number, value in fields.items():
        if isinstance(value, tuple):
            getattr(b, f"Prepend{value[0]}Slot")(number, value[1], 0)
        else:
            b.PrependUOffsetTRelativeSlot(number, offsets[number], 0)
    b.Finish(b.EndObject(), b"DWN1")
    return bytes(b.Output())


def write_package(*programs: tuple[int, int], runtime: int = 14, narrow: int = 100) -> bytes:
    """Custom options of an edgetpu-custom-op with executables of (kind, bytes of parameters)."""
    records = [
        _record({1: b"model", 6: bytes(size), 10: b"beagle", 12: ("Int32", narrow), 13: ("Int16", kind), 14: ("Uint64", 2**63)})
        for kind, size in programs
    ]
    b = flexbuffers.Builder()
    with b.Map():
        b.Key("1")
        b.Int(0)
        b.Key("4")
        b.Blob(_record({0: ("Int32", runtime), 1: _record({0: records}), 4: b"cl/1"}))
    return bytes(b.Finish())


# --- small models -----------------------------------------------------------------------------------------------------------


def chain(path: Path, *codes: int | str, **last: object) -> Path:
    """A model whose operations follow each other on int8 tensors of 1x8; `last` changes the last tensor."""
    tensors: list[dict] = [{"name": f"t{i}", "shape": [1, 8]} for i in range(len(codes) + 1)]
    tensors[-1].update(last)
    return write_model(path, tensors, [{"code": code, "inputs": [i], "outputs": [i + 1]} for i, code in enumerate(codes)])


@pytest.fixture
def relu_chain(tmp_path: Path) -> Path:
    """Everything maps: LOGISTIC, RELU6, TANH."""
    operator = tflite.BuiltinOperator
    return chain(tmp_path / "relu.tflite", operator.LOGISTIC, operator.RELU6, operator.TANH)


@pytest.fixture
def leaky_chain(tmp_path: Path) -> Path:
    """LOGISTIC maps, LEAKY_RELU does not, TANH depends on it."""
    operator = tflite.BuiltinOperator
    return chain(tmp_path / "leaky.tflite", operator.LOGISTIC, operator.LEAKY_RELU, operator.TANH)


@pytest.fixture
def compiled_leaky(tmp_path: Path, leaky_chain: Path) -> Path:
    """leaky_chain, as the compiler would make it: LOGISTIC on the Edge TPU with 4096 bytes cached and 512 streamed."""
    tensors = [{"name": f"t{i}", "shape": [1, 8]} for i in range(4)]
    operator = tflite.BuiltinOperator
    operations = [
        {"code": EDGETPU, "inputs": [0], "outputs": [1], "options": write_package((2, 512), (1, 4096))},
        {"code": operator.LEAKY_RELU, "inputs": [1], "outputs": [2]},
        {"code": operator.TANH, "inputs": [2], "outputs": [3]},
    ]
    return write_model(tmp_path / "leaky_edgetpu.tflite", tensors, operations)


@pytest.fixture
def package_writer():
    """write_package"""
    return write_package


@pytest.fixture
def model_writer():
    """write_model"""
    return write_model


@pytest.fixture
def chain_writer():
    """chain"""
    return chain
