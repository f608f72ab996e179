import json
from dataclasses import replace
from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import edgetpu_latency
from benchmarks.edgetpu_latency import Network, Row, iwatake, jorgitou
from convert import cost, tflite_graph
from convert.tflite_graph import Graph, Operation, Tensor


def whole(graph: Graph) -> cost.Estimate:
    return cost.estimate(graph, [True] * len(graph.operations))


def tensor(shape, constant=False, scales=(1.0,)):
    return Tensor(0, "x", "INT8", shape, shape, scales, (0,), False, memoryview(b"") if constant else None)


def single(name, inputs, output):
    tensors = tuple(replace(each, index=i) for i, each in enumerate([*inputs, output]))
    operation = Operation(0, name, 0, 1, tuple(range(len(inputs))), (len(inputs),), {})
    return Graph(0, tensors, (operation,), (0,), (len(inputs),))


def macs_by_loops(output, filters, depthwise=False):
    """Every place and channel of the output, every weight that it takes."""
    count = 0
    for _ in np.ndindex(*output[1:]):
        count += prod(filters[1:3]) * (1 if depthwise else filters[3])
    return count


@pytest.mark.parametrize(
    ("name", "source", "filters", "output", "macs"),
    [
        ("CONV_2D", (1, 8, 8, 4), (6, 3, 3, 4), (1, 6, 6, 6), macs_by_loops((1, 6, 6, 6), (6, 3, 3, 4))),
        ("DEPTHWISE_CONV_2D", (1, 8, 8, 4), (1, 3, 3, 4), (1, 6, 6, 4), macs_by_loops((1, 6, 6, 4), (1, 3, 3, 4), True)),
        ("FULLY_CONNECTED", (1, 20), (5, 20), (1, 5), 100),
        ("LOGISTIC", (1, 20), (5, 20), (1, 20), 0),
    ],
)
def test_counts_multiply_accumulates(name, source, filters, output, macs):
    (found,) = whole(single(name, [tensor(source), tensor(filters, constant=True)], tensor(output))).operations
    assert (found.macs, found.written) == (macs, prod(output))


def test_counts_those_of_a_transposed_convolution():
    """Every place of the input meets every weight."""
    inputs = [tensor((4,), constant=True), tensor((6, 2, 2, 3), constant=True), tensor((1, 5, 5, 3))]
    (found,) = whole(single("TRANSPOSE_CONV", inputs, tensor((1, 10, 10, 6)))).operations
    assert found.macs == 5 * 5 * 2 * 2 * 3 * 6


def test_lays_parameters_out_as_the_compiler_does(data):
    """The bytes in the compiled files of the public pairs, where most of the model is convolutions and dense layers."""
    truth = json.loads((data / "edgetpu" / "ground_truth.json").read_text())
    for name, tolerance in {
        "jor_N32-nMACs41287680_quant": 0,
        "janm_model_quant": 0,
        "lib_bright_16x16": 0.01,
        "iwa_model_dense_2x2x3x100x100": 0.001,
        "gc_mobilenet_v1_0.25_128_quant": 0.05,
        "mfn_model_with_mask_clf": 0.05,
        "gc_deeplabv3_mnv2_dm05_pascal_quant": 0.05,
        "zye_face_landmark_192_full_integer_quant": 0.01,
    }.items():
        memory = cost.estimate(tflite_graph.read(data / "edgetpu" / "pairs" / name / "model.tflite").graphs[0]).memory
        assert memory.parameters == pytest.approx(truth[name]["on_chip_bytes"] + truth[name]["off_chip_bytes"], rel=tolerance), name


def measured(data):
    return json.loads((data / "edgetpu" / "latency" / "measured.json").read_text())


def test_caches_and_streams_as_the_compiler_reported(data):
    """Dense layers fill the tiles that their outputs lie on, long before the chip is full; lanes are filled up with zeros."""
    for name, facts in measured(data)["iwatake"].items():
        if "model_dense" in name:
            memory = whole(iwatake(name)).memory
            assert memory.occupied == pytest.approx(facts["on_chip_mib"] * 2**20, rel=0.02, abs=1e4), name
            assert memory.streamed == pytest.approx(facts["off_chip_mib"] * 2**20, rel=0.07, abs=2e4), name
    for name, facts in measured(data)["jorgitou"].items():
        memory = whole(jorgitou(name, facts["macs"])).memory
        assert memory.occupied == pytest.approx(facts["reported_on_chip_mib"][0] * 2**20, rel=0.03), name
        assert memory.streamed == 0


def test_estimates_are_near_the_published_measurements(data):
    """Those of two studies; what docs/estimates.md tells of all is made by benchmarks/edgetpu_latency.py."""
    facts = measured(data)
    graphs = {name: iwatake(name) for name in facts["iwatake"] if "mobilenet" not in name}
    rows = [Row(n, host, facts["iwatake"][n][f"{host}_ms"], whole(g), "iwatake") for n, g in graphs.items() for host in ("usb3", "usb2")]
    for name, each in facts["jorgitou"].items():
        graph = jorgitou(name, each["macs"])
        estimate = cost.estimate(graph, [operation.name != "QUANTIZE" for operation in graph.operations])
        rows += [Row(name, "usb3", milliseconds, estimate, "jorgitou") for milliseconds in each["measured_ms"]]
    errors = np.abs(np.log([row.ratio for row in rows if row.model not in edgetpu_latency.ODD]))
    assert np.median(errors) < np.log(1.06)
    assert np.all(errors < np.log(2))


@pytest.mark.parametrize(("name", "macs"), [("iwa_model_dense_2x2x3x100x100", 0), ("jor_N32-nMACs41287680_quant", 41287680)])
def test_models_that_are_written_down_cost_what_the_files_cost(data, name, macs):
    graph = tflite_graph.read(data / "edgetpu" / "pairs" / name / "model.tflite").graphs[0]
    written = jorgitou(name, macs) if macs else iwatake(name)
    mapped = [operation.name != "QUANTIZE" for operation in graph.operations]
    file, ours = cost.estimate(graph, mapped), cost.estimate(written, mapped)
    for host in cost.HOSTS.values():
        assert ours.latency(host).estimate == pytest.approx(file.latency(host).estimate, rel=0.01)


def test_streams_what_does_not_fit():
    network = Network(1, 7, 7, 512)
    for _ in range(8):
        network.conv(3, 512)
    memory = whole(network.graph()).memory
    assert memory.parameters == 8 * 512 * (9 * 512 + 4)
    assert memory.on_chip + memory.streamed == memory.parameters
    assert memory.on_chip == pytest.approx(memory.available, rel=0.01)
    assert memory.streamed > 10 * 2**20


def test_large_activations_leave_less_for_parameters():
    small, large = (whole(Network(1, side, side, 3).conv(3, 64).graph()).memory for side in (32, 256))
    assert (small.activations, large.activations) == (32 * 32 * (3 + 64), 256 * 256 * (3 + 64))
    assert large.available == small.available - (large.activations - small.activations)


def test_a_residual_keeps_its_input_alive():
    tensors = tuple(replace(tensor((1, 8, 8, 4)), index=i) for i in range(4))
    steps = [("RELU", (0,), 1), ("RELU", (1,), 2), ("ADD", (0, 2), 3)]
    operations = tuple(Operation(i, name, 0, 1, inputs, (output,), {}) for i, (name, inputs, output) in enumerate(steps))
    estimate = whole(Graph(0, tensors, operations, (0,), (3,)))
    assert [each.activations for each in estimate.operations] == [2 * 256 / 16, 3 * 256 / 16, 3 * 256 / 16]


def test_the_whole_is_its_operations_the_crossing_and_the_call():
    estimate = whole(Network(1, 32, 32, 3).conv(3, 64).conv(3, 64).graph())
    for host in cost.HOSTS.values():
        parts = sum(each.seconds(host) for each in estimate.operations)
        sent, received = 32 * 32 * 3 + cost.EXECUTABLE, 32 * 32 * 64
        crossing = host.call + sent * host.sent + received * host.received + 32 * 32 * host.pixel
        assert estimate.latency(host).estimate == pytest.approx(parts + crossing)


def test_what_stays_on_the_cpu_costs_there_and_widens_the_range():
    graph = Network(1, 32, 32, 3).conv(3, 64).conv(3, 64).graph()
    host = cost.HOSTS["usb3"]
    part = cost.estimate(graph, [True, False])
    on_cpu = part.operations[1]
    assert (on_cpu.parameters, on_cpu.activations, on_cpu.load) == (0, 0, cost.Load())
    assert on_cpu.seconds(host) == pytest.approx(on_cpu.macs * host.mac + on_cpu.written * host.element)
    time = part.latency(host)
    assert (time.low, time.high) == pytest.approx((time.estimate / cost.SPREAD_CPU, time.estimate * cost.SPREAD_CPU))
    assert cost.estimate(graph, [False, False]).crossing == cost.Crossing(0, 0, 0)


def test_the_encoder_of_this_project_fits_and_is_fast(bundle_path):
    estimate = cost.estimate(tflite_graph.read(bundle_path / "encoder.tflite").graphs[0])
    assert estimate.memory.streamed == 0
    assert estimate.latency(cost.HOSTS["pi4"]).estimate < 5e-3


@settings(deadline=None, max_examples=50)
@given(
    side=st.integers(0, 40),
    layers=st.lists(st.tuples(st.sampled_from([1, 3, 7]), st.integers(1, 300)), min_size=1, max_size=6),
    pattern=st.lists(st.booleans(), min_size=6, max_size=6),
)
def test_estimates_are_finite_and_ordered_whatever_the_model(side, layers, pattern):
    network = Network(1, side, side, 3)
    for size, channels in layers:
        network.conv(size, channels)
    estimate = cost.estimate(network.graph(), pattern[: len(layers)])
    memory = estimate.memory
    assert 0 <= memory.streamed <= memory.parameters
    assert 0 <= memory.occupied <= memory.available <= cost.CHIP
    for host in cost.HOSTS.values():
        time = estimate.latency(host)
        assert 0 <= time.low <= time.estimate <= time.high < 1e3
    whole_time = cost.estimate(network.graph(), [True] * len(layers)).latency(cost.HOSTS["usb3"]).estimate
    assert whole_time <= cost.estimate(network.graph(), [True] * len(layers)).latency(cost.HOSTS["usb2"]).estimate * 2


def test_a_fit_finds_the_figures_that_made_the_measurements():
    """A machine that sends at a third of the speed that the fit begins with; no row speaks of the others, they stay."""
    slower = replace(cost.HOSTS["usb3"], sent=3 * cost.HOSTS["usb3"].sent)
    graphs = [Network(1, units).dense(units).graph() for units in (100, 400, 800)]
    graphs += [Network(1, side, side, 3).conv(1, 1, (side, side)).graph() for side in (64, 128, 192, 256)]
    estimates = [whole(graph) for graph in graphs]
    rows = [Row(str(i), "usb3", 1e3 * each.latency(slower).estimate, each, "made up") for i, each in enumerate(estimates)]
    _, hosts = edgetpu_latency.fit(rows)
    assert hosts["usb3"].sent == pytest.approx(slower.sent, rel=0.1)
    assert hosts["pi4"].sent == pytest.approx(edgetpu_latency.START["pi4"][1])


def test_halves_keep_the_rows_of_a_model_together():
    estimate = whole(Network(1, 8).dense(4).graph())
    rows = [Row(str(i // 2), "usb3", 1.0, estimate, None) for i in range(10)]
    first, second = edgetpu_latency.halves(rows)
    assert {row.model for row in first} == {"0", "2", "4"}
    assert {row.model for row in second} == {"1", "3"}
