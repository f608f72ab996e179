"""dlib's face model as ONNX, read straight from the file that the PyPI package face_recognition_models brings (CC0).

The network is Davis King's ResNet of 29 convolutions (http://dlib.net/face_recognition.py.html): it maps a chip of 150x150
to 128 numbers. dlib itself is neither needed nor fast: onnxruntime gives the same numbers ten times sooner.
"""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from device.program import MissingError, StoredError

FILE = "models/dlib_face_recognition_resnet_model_v1.dat"
SIZE = 150
MEAN = (122.782, 117.001, 104.298)  # RGB, of dlib's input layer, which then divides by 256
# (channels, residual blocks, whether the first of them halves the map)
STAGES = ((32, 3, False), (64, 4, True), (128, 3, True), (256, 3, True), (256, 1, True))
TENSORS = 59  # 29 times a convolution and the affine map that was its BatchNorm, then the last matrix
DIMENSION = 128


def weights_file() -> Path:
    """Where the installed package keeps the model. The package is not imported: it asks for a setuptools of old."""
    found = importlib.util.find_spec("face_recognition_models")
    if found is None or not found.submodule_search_locations:
        raise MissingError("dlib's face model is not installed", "pip install -e .[teacher]")
    return Path(found.submodule_search_locations[0]) / FILE


def _tensor_at(data: bytes, at: int) -> tuple[np.ndarray, int] | None:
    """The tensor whose serialisation starts at `at`, and where it ends: version 2, four sizes (each a byte that counts
    the little-endian bytes of the number), float32 values. None where there is none."""
    if data[at : at + 2] != b"\x01\x02":
        return None
    cursor, shape = at + 2, []
    for _ in range(4):
        count = data[cursor]
        if not 0 < count <= 4:
            return None
        shape.append(int.from_bytes(data[cursor + 1 : cursor + 1 + count], "little"))
        cursor += 1 + count
    if shape[1:] != [1, 1, 1] and shape[:2] != [256, DIMENSION]:
        return None
    end = cursor + 4 * int(np.prod(shape))
    if shape[0] < 64 or end > len(data):
        return None
    values = np.frombuffer(data, "<f4", int(np.prod(shape)), cursor)
    plausible = np.isfinite(values).all() and 1e-9 < np.abs(values).max() < 1e4
    return (values, end) if plausible else None


def tensors(data: bytes) -> list[np.ndarray]:
    """All parameter tensors of dlib's file in its order, flat float32. Raises StoredError if they are not this network's."""
    found: list[np.ndarray] = []
    at = 0
    while (at := data.find(b"\x01\x02", at)) >= 0 and at < len(data) - 16:
        tensor = _tensor_at(data, at)
        if tensor is None:
            at += 1
        else:
            found.append(tensor[0])
            at = tensor[1]
    if len(found) != TENSORS:
        raise StoredError(f"dlib's model file holds {len(found)} tensors, not {TENSORS}", "install face_recognition_models 0.3 again")
    return found


class _Graph:
    """Collects nodes and constants, and takes the parameters in the file's order."""

    def __init__(self, parameters: list[np.ndarray]):
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.rest: Iterator[np.ndarray] = iter(parameters)

    def const(self, values: np.ndarray) -> str:
        name = f"constant{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def op(self, kind: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        output = output or f"tensor{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def convolution(self, x: str, inputs: int, outputs: int, kernel: int, stride: int = 1) -> str:
        """A convolution with the affine map after it folded in; dlib pads only where it does not stride."""
        weights, affine = next(self.rest), next(self.rest)
        gamma, beta = affine[:outputs], affine[outputs:]
        count = inputs * outputs * kernel * kernel
        filters = weights[:count].reshape(outputs, inputs, kernel, kernel) * gamma[:, None, None, None]
        pad = kernel // 2 if stride == 1 else 0
        bias = weights[count:] * gamma + beta
        shape: dict[str, Any] = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [pad] * 4}
        return self.op("Conv", x, self.const(filters), self.const(bias), output=None, **shape)

    def padded(self, x: str, channels: int, pixels: int) -> str:
        """dlib adds tensors of unlike size by zeros at their ends."""
        return self.op("Pad", x, self.const(np.array([0, 0, 0, 0, 0, channels, pixels, pixels], np.int64)))

    def block(self, x: str, inputs: int, outputs: int, size: int, down: bool) -> tuple[str, int]:
        """One residual block on a map of `size`; returns its output and the size of that."""
        y = self.op("Relu", self.convolution(x, inputs, outputs, 3, 2 if down else 1))
        y = self.convolution(y, outputs, outputs, 3)
        if down:
            x = self.op("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])
            main, skip = (size - 3) // 2 + 1, (size - 2) // 2 + 1
            if outputs > inputs:
                x = self.padded(x, outputs - inputs, 0)
            if main < skip:
                y = self.padded(y, 0, skip - main)
            size = skip
        return self.op("Relu", self.op("Add", x, y)), size


def model(path: Path | None = None) -> onnx.ModelProto:
    """Input `image` float32 [n, 150, 150, 3] RGB 0..255 (dlib's own chip), output `embedding` float32 [n, 128], not normalised."""
    graph = _Graph(tensors((path or weights_file()).read_bytes()))
    x = graph.op("Transpose", "image", perm=[0, 3, 1, 2])
    x = graph.op("Sub", x, graph.const(np.array(MEAN, np.float32).reshape(1, 3, 1, 1)))
    x = graph.op("Mul", x, graph.const(np.array(1 / 256, np.float32)))
    x = graph.op("Relu", graph.convolution(x, 3, 32, 7, 2))
    x = graph.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2])
    size, channels = 35, 32
    for outputs, blocks, halves in STAGES:
        for block in range(blocks):
            x, size = graph.block(x, channels, outputs, size, halves and block == 0)
            channels = outputs
    x = graph.op("Flatten", graph.op("GlobalAveragePool", x))
    graph.op("MatMul", x, graph.const(next(graph.rest).reshape(channels, DIMENSION)), output="embedding")
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", SIZE, SIZE, 3])
    embedding = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", DIMENSION])
    made = helper.make_graph(graph.nodes, "dlib_face_recognition_resnet_model_v1", [image], [embedding], graph.constants)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
