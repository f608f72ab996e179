import json
from dataclasses import replace

import numpy as np
import pytest

from convert import rules, tflite_graph
from convert.tflite_graph import Graph, Model, Operation, Tensor


def activation(*shape, type="INT8", **changes):
    tensor = Tensor(0, "x", type, shape, shape, (0.5,), (0,), False, None)
    return replace(tensor, **changes)


def constant(values, type="INT32", shape=None, zero_point=0):
    array = np.asarray(values, {"INT32": "<i4", "INT64": "<i8", "INT8": "i1", "FLOAT32": "<f4"}[type])
    return activation(*(shape or array.shape), type=type, data=memoryview(array.tobytes()), zero_points=(zero_point,))


def one(name, inputs, outputs, version=1, code=0, **options):
    """A graph of one operation."""
    tensors = tuple(replace(tensor, index=i) for i, tensor in enumerate([*inputs, *outputs]))
    indices = range(len(tensors))
    operation = Operation(0, name, code, version, tuple(indices[: len(inputs)]), tuple(indices[len(inputs) :]), options)
    return Graph(0, tensors, (operation,), (0,), (len(tensors) - 1,))


def obstacle(*args, **options):
    graph = one(*args, **options)
    finding = rules.obstacle(graph, graph.operations[0])
    return finding and finding.reason


IMAGE, FILTERS, BIAS, OUTPUT = activation(1, 8, 8, 4), constant(np.zeros((6, 3, 3, 4)), "INT8"), constant([0] * 6), activation(1, 6, 6, 6)
VECTOR = activation(1, 8)


@pytest.mark.parametrize(
    ("name", "inputs", "outputs", "options"),
    [
        ("CONV_2D", [IMAGE, FILTERS, BIAS], [OUTPUT], {"DilationWFactor": 2, "DilationHFactor": 2, "FusedActivationFunction": "RELU6"}),
        ("CONV_2D", [IMAGE, FILTERS], [OUTPUT], {}),
        ("FULLY_CONNECTED", [VECTOR, constant(np.zeros((4, 8)), "INT8")], [activation(1, 4)], {"version": 4}),
        ("MEAN", [IMAGE, constant([1, 2])], [activation(1, 4)], {}),
        ("MEAN", [IMAGE, constant([-1])], [activation(1, 8, 8, 1)], {}),
        ("PAD", [IMAGE, constant([[0, 0], [1, 1], [1, 1], [0, 4]])], [activation(1, 10, 10, 8)], {}),
        ("PRELU", [IMAGE, constant(np.zeros((1, 1, 4)), "INT8")], [IMAGE], {}),
        ("QUANTIZE", [activation(1, 8, type="UINT8")], [VECTOR], {"version": 2}),
        ("RESHAPE", [IMAGE, constant([1, 256])], [activation(1, 256)], {}),
        ("SOFTMAX", [activation(1, 16_000)], [activation(1, 16_000)], {}),
        ("CONCATENATION", [IMAGE, constant(np.full(64, -3), "INT8", (1, 8, 8, 1), zero_point=-3)], [activation(1, 8, 8, 5)], {}),
        ("STRIDED_SLICE", [IMAGE, constant([0] * 4), constant([1] * 4), constant([1] * 4)], [activation(1, 1, 1, 1)], {"EllipsisMask": 0}),
        ("RESIZE_BILINEAR", [activation(1, 64, 64, 32), constant([128, 128])], [activation(1, 128, 128, 32)], {}),
        ("TRANSPOSE", [activation(1, 20, 20, 144), constant([0, 3, 1, 2])], [activation(1, 144, 20, 20)], {}),
        ("LOGISTIC", [activation(1, 1917, 91)], [activation(1, 1917, 91)], {}),
        ("CONCATENATION", [activation(1, 64, 2100), activation(1, 20, 2100)], [activation(1, 84, 2100)], {}),
        ("CONV_2D", [activation(1, 1, 16000, 16), constant(np.zeros((6, 1, 3, 16)), "INT8")], [activation(1, 1, 16000, 6)], {}),
        ("UNIDIRECTIONAL_SEQUENCE_LSTM", [VECTOR, activation(1, 8, type="INT16", variable=True)], [VECTOR], {}),
    ],
)
def test_maps(name, inputs, outputs, options):
    assert obstacle(name, inputs, outputs, **options) is None


@pytest.mark.parametrize(
    ("reason", "name", "inputs", "outputs", "options"),
    [
        ("has no HARD_SWISH", "HARD_SWISH", [VECTOR], [VECTOR], {}),
        ("has no relu", "relu", [VECTOR], [VECTOR], {"code": tflite_graph.CUSTOM}),
        ("is FLOAT32", "QUANTIZE", [activation(1, 8, type="FLOAT32")], [VECTOR], {}),
        ("is INT16", "ADD", [activation(1, 8, type="INT16")], [VECTOR], {}),
        ("is FLOAT32", "ADD", [VECTOR, constant([1.0], "FLOAT32")], [VECTOR], {}),
        ("without scale", "ADD", [activation(1, 8, scales=())], [VECTOR], {}),
        ("three innermost", "RELU", [activation(8, 4, 4, 4)], [activation(8, 4, 4, 4)], {}),
        ("version 9", "FULLY_CONNECTED", [VECTOR, constant(np.zeros((4, 8)), "INT8")], [activation(1, 4)], {"version": 9}),
        ("parameters must be constant", "CONV_2D", [IMAGE, activation(6, 3, 3, 4, shape=(1, 3, 3, 4))], [OUTPUT], {}),
        ("not INT32", "CONV_2D", [IMAGE, FILTERS, constant([0] * 6, "INT64")], [OUTPUT], {}),
        ("dilation", "DEPTHWISE_CONV_2D", [IMAGE, FILTERS, BIAS], [OUTPUT], {"DilationWFactor": 1, "DilationHFactor": 2}),
        ("RELU is fused", "MAX_POOL_2D", [IMAGE], [OUTPUT], {"FusedActivationFunction": "RELU"}),
        ("shuffled", "FULLY_CONNECTED", [VECTOR, constant(np.zeros((4, 8)), "INT8")], [activation(1, 4)], {"WeightsFormat": 1}),
        ("not a vector", "FULLY_CONNECTED", [activation(1, 3, 8), constant(np.zeros((4, 8)), "INT8")], [activation(3, 4)], {}),
        ("along the batch", "MEAN", [IMAGE, constant([0])], [activation(8, 8, 4)], {}),
        ("along the batch", "REDUCE_MAX", [IMAGE, constant([-4])], [activation(8, 8, 4)], {}),
        ("along the batch", "SPLIT", [constant(0), activation(2, 8)], [VECTOR, VECTOR], {}),
        ("along the batch", "PACK", [VECTOR, VECTOR], [activation(2, 1, 8)], {"Axis": -3}),
        ("multiple of 4", "MEAN", [activation(1, 8, 8, 6), constant([3])], [activation(1, 8, 8)], {}),
        ("pads the batch", "PAD", [IMAGE, constant([[0, 1], [0, 0], [0, 0], [0, 0]])], [OUTPUT], {}),
        ("moves the batch", "TRANSPOSE", [IMAGE, constant([1, 0, 2, 3])], [IMAGE], {}),
        ("alpha is 8x8x4", "PRELU", [IMAGE, constant(np.zeros((8, 8, 4)), "INT8")], [IMAGE], {}),
        ("not all 1", "STRIDED_SLICE", [IMAGE, constant([0] * 4), constant([8] * 4), constant([1, 2, 2, 1])], [OUTPUT], {}),
        ("inserts", "STRIDED_SLICE", [IMAGE, constant([0]), constant([8]), constant([1])], [OUTPUT], {"NewAxisMask": 1}),
        ("up to 16000", "SOFTMAX", [activation(1, 16_001)], [activation(1, 16_001)], {}),
        ("no zero padding", "CONCATENATION", [IMAGE, constant(np.ones(64), "INT8", (1, 8, 8, 1))], [activation(1, 8, 8, 5)], {}),
        ("precisely", "RESIZE_BILINEAR", [activation(1, 1, 1, 256), constant([33, 33])], [activation(1, 33, 33, 256)], {}),
        ("too large", "RESIZE_BILINEAR", [activation(1, 256, 256, 32), constant([512, 512])], [activation(1, 512, 512, 32)], {}),
        ("too large", "TRANSPOSE", [activation(1, 40, 40, 144), constant([0, 3, 1, 2])], [activation(1, 144, 40, 40)], {}),
        ("too large", "TRANSPOSE", [activation(1, 4, 16, 2100), constant([0, 2, 3, 1])], [activation(1, 16, 2100, 4)], {}),
        ("too large", "RESHAPE", [activation(1, 144, 40, 40), constant([1, 144, 1600])], [activation(1, 144, 1600)], {}),
        ("too large", "LOGISTIC", [activation(1, 80, 8400)], [activation(1, 80, 8400)], {}),
    ],
)
def test_does_not_map_and_says_why(reason, name, inputs, outputs, options):
    found = obstacle(name, inputs, outputs, **options)
    assert found is not None
    assert reason in found


def test_every_obstacle_comes_with_a_fix():
    graph = one("LEAKY_RELU", [VECTOR], [VECTOR])
    assert "Maximum" in rules.obstacle(graph, graph.operations[0]).fix


def network(*steps):
    """A graph of (name, inputs, output) over tensors that are all 1x8 int8."""
    operations = tuple(Operation(i, name, 0, 1, inputs, (output,), {}) for i, (name, inputs, output) in enumerate(steps))
    count = 1 + max(output for _, _, output in steps)
    return Graph(0, tuple(replace(VECTOR, index=i) for i in range(count)), operations, (0,), (count - 1,))


def places(*steps):
    return "".join("c" if finding else "t" for finding in rules.place(network(*steps)))


def test_a_break_keeps_what_depends_on_it_branch_by_branch():
    #            0 ─ RELU ─ 1 ┬ LEAKY ─ 2 ─ TANH ─ 3 ┬ ADD
    #                         └ LOGISTIC ─ 4 ────────┘   (LOGISTIC comes later and maps all the same)
    steps = [("RELU", (0,), 1), ("LEAKY_RELU", (1,), 2), ("TANH", (2,), 3), ("LOGISTIC", (1,), 4), ("ADD", (3, 4), 5)]
    assert places(*steps) == "tcctc"
    findings = rules.place(network(*steps))
    assert findings[2].reason == findings[4].reason == "it depends on operation 1 (LEAKY_RELU), which breaks the only Edge TPU subgraph"


def test_operations_before_the_first_that_maps_may_stay_on_the_cpu():
    assert places(("LEAKY_RELU", (0,), 1), ("SQRT", (1,), 2), ("RELU", (2,), 3), ("TANH", (3,), 4)) == "cctt"


def test_nothing_maps_after_the_second_break():
    assert places(("LEAKY_RELU", (0,), 1), ("RELU", (1,), 2), ("SQRT", (2,), 3), ("TANH", (3,), 4)) == "ctcc"


def refusals(graph):
    return [finding.reason for finding in rules.refusals(Model(None, "", (graph,)))]


def test_a_batch_of_minus_one_is_no_refusal_but_any_other_size_is():
    assert refusals(one("RELU", [activation(1, 8, signature=(-1, 8))], [VECTOR])) == []
    assert "not static (1x-1)" in refusals(one("RELU", [activation(1, 8, signature=(1, -1))], [VECTOR]))[0]


def test_refuses_shapes_computed_while_the_model_runs():
    assert "takes its shape" in refusals(one("RESHAPE", [IMAGE, activation(2, type="INT32")], [VECTOR]))[0]


def test_refuses_what_the_compiler_cannot_parse():
    assert "newer" in refusals(one("GELU", [VECTOR], [VECTOR], code=150))[0]
    assert "Atan" in refusals(one("Atan", [VECTOR], [VECTOR], code=tflite_graph.CUSTOM))[0]
    assert "version 4" in refusals(one("TRANSPOSE_CONV", [constant([1, 2, 2, 1]), FILTERS, IMAGE], [OUTPUT], version=4))[0]
    assert refusals(one("TFLite_Detection_PostProcess", [VECTOR], [VECTOR], code=tflite_graph.CUSTOM)) == []


def test_refuses_convolutions_in_groups():
    filters = constant(np.zeros((6, 3, 3, 2)), "INT8")
    assert refusals(one("CONV_2D", [IMAGE, filters, BIAS], [OUTPUT])) == ["CONV_2D works in groups (2 of 4 channels each)"]
    assert refusals(one("CONV_2D", [IMAGE, FILTERS, BIAS], [OUTPUT])) == []


def test_refuses_models_that_are_not_quantised():
    number = activation(1, 8, type="FLOAT32", scales=())
    assert refusals(one("RELU", [number], [number])) == ["the model is not quantised: no operation computes int8 or uint8"]


def test_agrees_with_the_compiler_on_public_models(data):
    """Every operation of the public pairs, as edgetpu_compiler placed it."""
    truth = json.loads((data / "edgetpu" / "ground_truth.json").read_text())
    wrong = []
    for name, pair in truth.items():
        model = tflite_graph.read(data / "edgetpu" / "pairs" / name / "model.tflite")
        assert rules.refusals(model) == []
        for operation, finding in zip(pair["ops"], rules.place(model.graphs[0]), strict=True):
            if (finding is None) != (operation["where"] == "edgetpu"):
                wrong.append((name, operation["index"], operation["name"], operation["where"]))
    assert wrong == []
