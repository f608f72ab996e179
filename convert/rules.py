"""What the Edge TPU maps, as data and small functions: for one operation whether it maps, if not why, and how to mend it.

Compiler meant: edgetpu_compiler 16.0.384591198, the last one. Sources: Coral's table of supported operations
(coral.ai/docs/edgetpu/models-intro) and 100 public pairs of source and compiled models, which decide where the two differ.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

from convert.tflite_graph import Graph, Model, Operation, Tensor

ACTIVATION_TYPES = ("INT8", "UINT8")
INTEGER_TYPES = ("INT8", "UINT8", "INT32", "INT64")  # of constants: weights, biases, axes, shapes
OUT_OF_RANGE = 150  # builtin codes from here on are newer than the compiler's TensorFlow: "Op builtin_code out of range"
DETECTION_OPERATIONS = ("TFLite_Detection_PostProcess", "PosenetDecoderOp")  # custom, known to the compiler, run on the CPU

# The newest version that the compiler can read, where newer ones were seen to stop it ("Didn't find op for builtin opcode").
READABLE_VERSION = {"CONV_2D": 5, "TRANSPOSE_CONV": 3, "QUANTIZE": 2, "EXP": 1}
# The newest version that maps, where a newer one was read and stayed on the CPU ("Operation version not supported").
MAPPED_VERSION = {"FULLY_CONNECTED": 4}

SOFTMAX_LARGEST = 16_000  # elements
# Sizes of which no table speaks, put between what was seen to map and what was not:
# Bytes of a tensor without rows: [1, 84, 2100] is supported, [1, 144, 1600] and [1, 80, 8400] are not (logs of YOLOv8n).
FLAT_LARGEST = 200_000
TRANSPOSED_LARGEST = 1 << 17  # bytes: [1, 144, 20, 20] maps, [1, 4, 16, 2100] and [1, 144, 40, 40] do not
RESIZED_LARGEST = 1 << 20  # bytes: [1, 128, 128, 32] maps, [1, 512, 512, 32] does not
ENLARGED_MOST = 4  # times, bilinear: 2 maps, 33 does not

SLIDING = ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "AVERAGE_POOL_2D", "MAX_POOL_2D")

# Inputs by position. Parameters must be constant for the operation to map; shaping ones for the compiler to read the file at
# all, because the size of the output depends on them.
PARAMETERS = {
    "CONV_2D": (1, 2),
    "DEPTHWISE_CONV_2D": (1, 2),
    "FULLY_CONNECTED": (1, 2),
    "TRANSPOSE_CONV": (1, 3),
    "PRELU": (1,),
}
SHAPING = {
    "BROADCAST_TO": (1,),
    "EXPAND_DIMS": (1,),
    "FILL": (0,),
    "MEAN": (1,),
    "PAD": (1,),
    "PADV2": (1,),
    "REDUCE_MAX": (1,),
    "REDUCE_MIN": (1,),
    "RESHAPE": (1,),
    "RESIZE_BILINEAR": (1,),
    "RESIZE_NEAREST_NEIGHBOR": (1,),
    "SLICE": (1, 2),
    "SPLIT": (0,),
    "STRIDED_SLICE": (1, 2, 3),
    "SUM": (1,),
    "TILE": (1,),
    "TRANSPOSE": (1,),
    "TRANSPOSE_CONV": (0,),
}

QUANTISE = "convert with full-integer quantisation: a representative dataset and target_spec.supported_ops = [TFLITE_BUILTINS_INT8]"
STATIC = "fix the batch to 1 and every size before converting: keras.Input(shape, batch_size=1)"
CHEAPER = "use a smaller input, or fewer channels, before this operation"
HOST = "leave it out of the model and compute it on the host"

# How to do without an operation that the Edge TPU has not.
INSTEAD = {
    "ABS": "use Maximum(x, -x)",
    "ARG_MAX": HOST,
    "ARG_MIN": HOST,
    "BATCH_MATMUL": "use Dense or Conv2D with constant weights",
    "CAST": "feed the model uint8 or int8 as it is: set inference_input_type and inference_output_type",
    "DEQUANTIZE": "set converter.inference_output_type = tf.uint8 (or tf.int8) and dequantise on the host",
    "DIV": "multiply by the reciprocal, if the divisor is constant",
    "ELU": "use ReLU6",
    "EXP": HOST,
    "GELU": "use ReLU6",
    "HARD_SWISH": "use ReLU6",
    "LEAKY_RELU": "use ReLU6, or write it as Maximum(x, alpha * x)",
    "SQRT": HOST,
    "UNPACK": "use Split, or strided slices",
}


@dataclass(frozen=True)
class Finding:
    """Why something stays on the CPU, or why the compiler refuses the file; `fix` in terms of Keras or the converter."""

    reason: str
    fix: str | None = None


Limit = Callable[[Graph, Operation], Finding | None]


def refusals(model: Model) -> list[Finding]:
    """Why the compiler would refuse the whole file, without repeats; empty where it would read it."""
    found = []
    for graph in model.graphs:
        for operation in graph.operations:
            found += [_unreadable(operation), _dynamic(graph, operation), _grouped(graph, operation)]
    found.append(_unquantised(model))
    return list(dict.fromkeys(finding for finding in found if finding))


def place(graph: Graph) -> list[Finding | None]:
    """Per operation, in execution order: None where it runs on the Edge TPU, else why it stays on the CPU.

    The compiler makes one Edge TPU subgraph. What comes before it may run on the CPU; an operation that stays on the CPU after
    it has begun keeps everything there that depends on it, branch by branch.
    """
    begun: set[int] = set()  # tensors that the Edge TPU, or anything after it, computed
    broken: dict[int, Operation] = {}  # tensors that come after a break -> the operation that broke the subgraph
    placed = []
    for operation in graph.operations:
        inputs = [i for i in operation.inputs if i >= 0]
        finding = obstacle(graph, operation)
        cause = min((broken[i] for i in inputs if i in broken), key=lambda each: each.index, default=None)
        if finding is None and cause is not None:
            finding = Finding(f"it depends on operation {cause.index} ({cause.name}), which breaks the only Edge TPU subgraph")
        if finding is None or not begun.isdisjoint(inputs):
            begun.update(operation.outputs)
            if finding is not None:
                broken.update(dict.fromkeys(operation.outputs, cause or operation))
        placed.append(finding)
    return placed


def obstacle(graph: Graph, operation: Operation) -> Finding | None:
    """Why `operation` cannot map wherever it stands; None where it can."""
    if operation.custom or operation.name not in SUPPORTED:
        return Finding(f"the Edge TPU has no {operation.name}", INSTEAD.get(operation.name, HOST))
    limits = (_version, _types, _rank, _flat, _parameters, *SUPPORTED[operation.name])
    return next((finding for limit in limits if (finding := limit(graph, operation))), None)


# --- the whole file ---------------------------------------------------------------------------------------------------------


def _unreadable(operation: Operation) -> Finding | None:
    name, version = operation.name, operation.version
    if operation.custom:
        if name not in DETECTION_OPERATIONS:
            return Finding(f"the compiler does not know the custom operation {name}", "build the model from TFLite's builtin operations")
    elif operation.code >= OUT_OF_RANGE:
        return Finding(f"{name} is newer than the compiler", INSTEAD.get(name, "use an operation of Coral's table"))
    elif version > (readable := READABLE_VERSION.get(name, version)):
        wrong = f"{name} has version {version}, the compiler reads up to {readable}"
        return Finding(wrong, "convert with an older TensorFlow (2.8 or before)")
    return None


def _dynamic(graph: Graph, operation: Operation) -> Finding | None:
    """A batch of -1 alone does not stop the compiler (it takes it as 1), any other unknown size does."""
    for tensor in graph.of(operation.inputs + operation.outputs):
        if any(size < 0 for size in tensor.signature[1:]):
            return Finding(f"the shape of `{tensor.name}` is not static ({_shape(tensor.signature)})", STATIC)
    for position in SHAPING.get(operation.name, ()):
        operand = _operand(graph, operation, position)
        if operand is not None and not operand.constant:
            return Finding(f"{operation.name} takes its shape from `{operand.name}`, which is computed while the model runs", STATIC)
    return None


def _grouped(graph: Graph, operation: Operation) -> Finding | None:
    """The compiler first lets TFLite prepare the model, whose convolutions of that time know one group only."""
    source, filters = _operand(graph, operation, 0), _operand(graph, operation, 1)
    if operation.name != "CONV_2D" or source is None or filters is None or len(filters.shape) != 4 or not source.shape:
        return None
    channels, each = source.shape[-1], filters.shape[3]
    if channels == each:
        return None
    wrong = f"{operation.name} works in groups ({each} of {channels} channels each)"
    return Finding(wrong, "use groups=1, a depthwise convolution, or Split, one Conv2D each and Concatenate")


def _unquantised(model: Model) -> Finding | None:
    tensors = (tensor for graph in model.graphs for operation in graph.operations for tensor in graph.of(operation.outputs))
    if any(tensor.type in ACTIVATION_TYPES for tensor in tensors):
        return None
    return Finding("the model is not quantised: no operation computes int8 or uint8", QUANTISE)


# --- limits of every operation ----------------------------------------------------------------------------------------------


def _version(graph: Graph, operation: Operation) -> Finding | None:
    mapped = MAPPED_VERSION.get(operation.name, operation.version)
    if operation.version <= mapped:
        return None
    wrong = f"{operation.name} has version {operation.version}, up to {mapped} map"
    return Finding(wrong, "flatten to rank 2 before Dense, or use a 1x1 Conv2D")


def _types(graph: Graph, operation: Operation) -> Finding | None:
    for tensor in graph.of(operation.inputs + operation.outputs):
        allowed = INTEGER_TYPES if tensor.constant else ACTIVATION_TYPES
        if tensor.variable:  # the state of an LSTM is int16
            continue
        if tensor.type not in allowed:
            fix = "set converter.inference_input_type = tf.uint8 (or tf.int8)" if operation.name == "QUANTIZE" else QUANTISE
            return Finding(f"`{tensor.name}` is {tensor.type}, the Edge TPU computes on int8 and uint8", fix)
        if not tensor.constant and not tensor.scales:
            return Finding(f"`{tensor.name}` is {tensor.type} without scale and zero point", QUANTISE)
    return None


def _rank(graph: Graph, operation: Operation) -> Finding | None:
    for tensor in _activations(graph, operation):
        if any(size > 1 for size in tensor.shape[:-3]):
            wrong = f"`{tensor.name}` is {_shape(tensor.shape)}, only the three innermost dimensions may be larger than 1"
            return Finding(wrong, "fix the batch to 1 and keep tensors at rank 4 or below")
    return None


def _flat(graph: Graph, operation: Operation) -> Finding | None:
    """Maps are divided among the tiles by rows and columns; what has no rows has to fit into fewer of them."""
    if operation.name in SLIDING:
        return None
    for tensor in _activations(graph, operation):
        flat = prod(tensor.shape[:-2]) == 1 and prod(tensor.shape) > FLAT_LARGEST
        if flat or (operation.name == "TRANSPOSE" and prod(tensor.shape) > TRANSPOSED_LARGEST):
            return Finding(f"`{tensor.name}` ({_shape(tensor.shape)}) is likely too large for {operation.name}", CHEAPER)
    return None


def _parameters(graph: Graph, operation: Operation) -> Finding | None:
    for position in PARAMETERS.get(operation.name, ()):
        operand = _operand(graph, operation, position)
        if operand is not None and not operand.constant:
            return Finding(f"`{operand.name}` is computed while the model runs, parameters must be constant", "use constant weights")
    return None


# --- limits of some operations ----------------------------------------------------------------------------------------------


def _no_activation(graph: Graph, operation: Operation) -> Finding | None:
    activation = operation.options.get("FusedActivationFunction", "NONE")
    if activation == "NONE":
        return None
    return Finding(f"{activation} is fused into {operation.name}", "put the activation before this operation")


def _int32_bias(graph: Graph, operation: Operation) -> Finding | None:
    bias = _operand(graph, operation, PARAMETERS[operation.name][-1])
    if bias is None or bias.type == "INT32":
        return None
    return Finding(f"the bias `{bias.name}` is {bias.type}, not INT32", QUANTISE)


def _same_dilation(graph: Graph, operation: Operation) -> Finding | None:
    width, height = operation.options.get("DilationWFactor", 1), operation.options.get("DilationHFactor", 1)
    if width == height:
        return None
    return Finding(f"the dilation is {height} down and {width} across", "use the same dilation_rate in both directions")


def _default_weights(graph: Graph, operation: Operation) -> Finding | None:
    if operation.options.get("WeightsFormat", 0) == 0:
        return None
    return Finding("the weights are shuffled", "convert again without target-specific weight formats")


def _vector_output(graph: Graph, operation: Operation) -> Finding | None:
    for tensor in graph.of(operation.outputs):
        if prod(tensor.shape[:-1]) > 1:
            return Finding(f"its output is {_shape(tensor.shape)}, not a vector", "flatten before it, or use a 1x1 Conv2D")
    return None


def _small_vector(graph: Graph, operation: Operation) -> Finding | None:
    elements = max((prod(tensor.shape) for tensor in graph.of(operation.outputs)), default=0)
    if elements <= SOFTMAX_LARGEST:
        return _vector_output(graph, operation)
    return Finding(f"it has {elements} elements, up to {SOFTMAX_LARGEST} map", HOST)


def _zero_padding(graph: Graph, operation: Operation) -> Finding | None:
    constants = [tensor for tensor in graph.of(operation.inputs) if tensor.constant]
    if not constants or (len(operation.inputs) == 2 and constants[0].zero):
        return None
    return Finding("a constant is concatenated that is no zero padding of one tensor", "use ZeroPadding2D, or concatenate on the host")


def _not_batch(position: int) -> Limit:
    """The axes in the input `position` leave out the batch."""

    def limit(graph: Graph, operation: Operation) -> Finding | None:
        rank = max((len(tensor.shape) for tensor in _activations(graph, operation)), default=0)
        axes = _operand(graph, operation, position)
        if axes is None or axes.integers is None or not {0, -rank} & set(axes.integers):
            return None
        return Finding(f"{operation.name} works along the batch", "work along the other dimensions")

    return limit


def _axis_not_batch(graph: Graph, operation: Operation) -> Finding | None:
    if operation.options.get("Axis", 0) not in (0, -max((len(tensor.shape) for tensor in graph.of(operation.outputs)), default=0)):
        return None
    return Finding(f"{operation.name} works along the batch", "work along the other dimensions")


def _channels_by_four(graph: Graph, operation: Operation) -> Finding | None:
    data, axes = _operand(graph, operation, 0), _operand(graph, operation, 1)
    if data is None or axes is None or not {-1, len(data.shape) - 1} & set(axes.integers or ()) or data.shape[-1] % 4 == 0:
        return None
    return Finding(f"it averages {data.shape[-1]} channels, which is no multiple of 4", "use a multiple of 4 channels")


def _no_batch_padding(graph: Graph, operation: Operation) -> Finding | None:
    padding = _operand(graph, operation, 1)
    if padding is None or not any((padding.integers or ())[:2]):
        return None
    return Finding("it pads the batch", "pad height, width or channels only")


def _batch_stays(graph: Graph, operation: Operation) -> Finding | None:
    order = _operand(graph, operation, 1)
    if order is None or not order.integers or order.integers[0] == 0:
        return None
    return Finding("it moves the batch", "transpose the other dimensions only")


def _shared_alpha(graph: Graph, operation: Operation) -> Finding | None:
    alpha = _operand(graph, operation, 1)
    if alpha is None or prod(alpha.shape[:-1]) == 1:
        return None
    return Finding(f"its alpha is {_shape(alpha.shape)}, not one value per channel", "use PReLU(shared_axes=[1, 2])")


def _unit_strides(graph: Graph, operation: Operation) -> Finding | None:
    strides = _operand(graph, operation, 3)
    if strides is not None and any(stride != 1 for stride in strides.integers or ()):
        return Finding(f"its strides are {_shape(strides.integers or ())}, not all 1", "use a strided convolution or pooling")
    if operation.options.get("EllipsisMask") or operation.options.get("NewAxisMask"):
        return Finding("it inserts dimensions", "slice by plain ranges and Reshape")
    return None


def _resized(graph: Graph, operation: Operation) -> Finding | None:
    for tensor in graph.of(operation.outputs):
        if prod(tensor.shape) > RESIZED_LARGEST:
            return Finding(f"its output ({_shape(tensor.shape)}) is likely too large", CHEAPER)
    return None


def _enlarged(graph: Graph, operation: Operation) -> Finding | None:
    source = _operand(graph, operation, 0)
    for tensor in graph.of(operation.outputs):
        if source is not None and any(new > ENLARGED_MOST * old for old, new in zip(source.shape, tensor.shape, strict=False)):
            wrong = f"{_shape(source.shape)} to {_shape(tensor.shape)} is likely more than the Edge TPU interpolates precisely"
            return Finding(wrong, "enlarge in steps of 2, or with TransposeConv")
    return None


# --- Coral's table ----------------------------------------------------------------------------------------------------------

SUPPORTED: dict[str, tuple[Limit, ...]] = {
    "ADD": (),
    "AVERAGE_POOL_2D": (_no_activation,),
    "CONCATENATION": (_no_activation, _zero_padding),
    "CONV_2D": (_int32_bias, _same_dilation),
    "DEPTHWISE_CONV_2D": (_int32_bias, _same_dilation),
    "EXPAND_DIMS": (),
    "FULLY_CONNECTED": (_int32_bias, _default_weights, _vector_output),
    "L2_NORMALIZATION": (),
    "LOGISTIC": (),
    "MAXIMUM": (),
    "MAX_POOL_2D": (_no_activation,),
    "MEAN": (_not_batch(1), _channels_by_four),
    "MINIMUM": (),
    "MUL": (),
    "PACK": (_axis_not_batch,),
    "PAD": (_no_batch_padding,),
    "PRELU": (_shared_alpha,),
    "QUANTIZE": (),
    "REDUCE_MAX": (_not_batch(1),),
    "REDUCE_MIN": (_not_batch(1),),
    "RELU": (),
    "RELU6": (),
    "RELU_N1_TO_1": (),
    "RESHAPE": (),
    "RESIZE_BILINEAR": (_resized, _enlarged),
    "RESIZE_NEAREST_NEIGHBOR": (_resized,),
    "RSQRT": (),
    "SLICE": (),
    "SOFTMAX": (_small_vector,),
    "SPACE_TO_DEPTH": (),
    "SPLIT": (_not_batch(0),),
    "SQUARED_DIFFERENCE": (),
    "SQUEEZE": (),
    "STRIDED_SLICE": (_unit_strides,),
    "SUB": (),
    "SUM": (_not_batch(1),),
    "TANH": (),
    "TILE": (),  # not in the table, but seen mapped
    "TRANSPOSE": (_batch_stays,),
    "TRANSPOSE_CONV": (_int32_bias,),
    "UNIDIRECTIONAL_SEQUENCE_LSTM": (),
}


def _operand(graph: Graph, operation: Operation, position: int) -> Tensor | None:
    """The input at `position`; None where the operation has none there."""
    if position >= len(operation.inputs) or operation.inputs[position] < 0:
        return None
    return graph.tensors[operation.inputs[position]]


def _activations(graph: Graph, operation: Operation) -> list[Tensor]:
    return [tensor for tensor in graph.of(operation.inputs + operation.outputs) if not tensor.constant]


def _shape(sizes: tuple[int, ...]) -> str:
    return "x".join(str(size) for size in sizes)
