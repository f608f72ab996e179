"""A network that looks like our detector from outside: each map is one convolution with random weights."""

from pathlib import Path

import numpy as np

from device import faces


def write(path: Path, height: int = 96, width: int = 128) -> Path:
    """Its TFLite file, all uint8, for pictures of that size."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    rng = np.random.default_rng(0)
    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.subgraphs, model.buffers = 3, [graph], [schema.BufferT()]
    graph.tensors, graph.operators, graph.outputs = [], [], []
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CONV_2D
    model.operatorCodes = [code]

    def tensor(shape: list[int], scale: float, zero_point: int, content: np.ndarray | None = None) -> int:
        made = schema.TensorT()
        made.shape, made.buffer = shape, 0
        made.type = schema.TensorType.INT32 if content is not None and content.dtype == np.int32 else schema.TensorType.UINT8
        made.quantization = schema.QuantizationParametersT()
        made.quantization.scale, made.quantization.zeroPoint = [scale], [zero_point]
        if content is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(content.tobytes(), np.uint8)
            model.buffers.append(buffer)
            made.buffer = len(model.buffers) - 1
        graph.tensors.append(made)
        return len(graph.tensors) - 1

    picture = tensor([1, height, width, 3], 1 / 127.5, 128)
    graph.inputs = [picture]
    for stride in faces.STRIDES:
        for channels in (1, faces.GEOMETRY):
            side = [channels, stride, stride, 3]
            weights = tensor(side, 0.01, 128, rng.integers(64, 192, side, np.uint8))
            bias = tensor([channels], 0.01 / 127.5, 0, np.zeros(channels, np.int32))
            found = tensor([1, height // stride, width // stride, channels], 0.02 * stride, 128)
            convolution, options = schema.OperatorT(), schema.Conv2DOptionsT()
            options.strideH = options.strideW = stride
            options.padding = schema.Padding.VALID
            convolution.builtinOptionsType, convolution.builtinOptions = schema.BuiltinOptions.Conv2DOptions, options
            convolution.inputs, convolution.outputs = [picture, weights, bias], [found]
            graph.operators.append(convolution)
            graph.outputs.append(found)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return path
