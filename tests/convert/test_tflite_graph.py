import struct
import time
from pathlib import Path

import pytest
import tflite
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks import fuzz_models
from convert import check, tflite_graph
from device.program import InputError

OPERATOR = tflite.BuiltinOperator


def test_reads_operations_in_order_with_their_tensors(model_writer, tmp_path):
    tensors = [
        {"name": "image", "shape": [1, 4, 4, 3], "signature": [-1, 4, 4, 3]},
        {"name": "axes", "shape": [2], "type": "INT32", "data": struct.pack("<2i", 1, 2), "scale": 0},
        {"name": "mean", "shape": [1, 3]},
    ]
    path = model_writer(tmp_path / "m.tflite", tensors, [{"code": OPERATOR.MEAN, "inputs": [0, 1, -1], "outputs": [2], "version": 2}])
    model = tflite_graph.read(path)
    (graph,) = model.graphs
    (operation,) = graph.operations
    assert (operation.name, operation.version, operation.inputs, operation.outputs) == ("MEAN", 2, (0, 1, -1), (2,))
    image, axes, mean = graph.tensors
    assert (image.type, image.shape, image.signature, image.scales, image.constant) == ("INT8", (1, 4, 4, 3), (-1, 4, 4, 3), (0.5,), False)
    assert (axes.type, axes.integers, axes.scales, axes.constant) == ("INT32", (1, 2), (), True)
    assert (mean.integers, mean.signature) == (None, (1, 3))
    assert graph.of(operation.inputs) == [image, axes]
    assert (graph.inputs, graph.outputs, model.compiled) == ((0,), (2,), False)


def test_names_custom_and_unknown_operations(chain_writer, tmp_path):
    model = tflite_graph.read(chain_writer(tmp_path / "m.tflite", "Atan", 999, tflite_graph.EDGETPU))
    assert [(each.name, each.custom) for each in model.graphs[0].operations] == [
        ("Atan", True),
        ("BUILTIN_999", False),
        (tflite_graph.EDGETPU, True),
    ]
    assert model.compiled


def test_names_cannot_steer_the_terminal(chain_writer, tmp_path):
    path = chain_writer(tmp_path / "m.tflite", OPERATOR.RELU, name="\x1b[2Jgone\n")
    assert tflite_graph.read(path).graphs[0].tensors[-1].name == "\ufffd[2Jgone\ufffd"


def test_reads_the_options_that_the_converter_wrote(data):
    graph = tflite_graph.read(data / "edgetpu/pairs/gc_deeplabv3_mnv2_dm05_pascal_quant/model.tflite").graphs[0]
    convolution = next(each for each in graph.operations if each.name == "CONV_2D")
    assert convolution.options == {"FusedActivationFunction": "RELU6", "DilationWFactor": 1, "DilationHFactor": 1}
    filters, bias = graph.of(convolution.inputs)[1:]
    assert (filters.type, filters.constant, bias.type, bias.constant) == ("UINT8", True, "INT32", True)
    assert {each.options["DilationHFactor"] for each in graph.operations if each.name == "DEPTHWISE_CONV_2D"} == {1, 2}


@pytest.mark.parametrize("content", [b"", b"TFL3", bytes(4) + b"TFL3", b"\xff\xff\xff\xffTFL3", b"\x89PNG\r\n\x1a\n" + bytes(100)])
def test_refuses_what_is_no_model(tmp_path, content):
    path = tmp_path / "m.tflite"
    path.write_bytes(content)
    with pytest.raises(InputError):
        tflite_graph.read(path)


def test_refuses_missing_files_folders_and_empty_models(tmp_path, model_writer):
    with pytest.raises(InputError, match="does not exist"):
        tflite_graph.read(tmp_path / "no.tflite")
    with pytest.raises(InputError, match="not a file"):
        tflite_graph.read(tmp_path)
    with pytest.raises(InputError, match="no operations"):
        tflite_graph.read(model_writer(tmp_path / "m.tflite", [{"name": "x", "shape": [1]}], []))


def test_refuses_tensors_that_no_machine_holds(tmp_path, model_writer):
    tensors = [{"name": "x", "shape": [2**30, 2**30, 2**30]}, {"name": "y", "shape": [1]}]
    path = model_writer(tmp_path / "m.tflite", tensors, [{"code": OPERATOR.RELU, "inputs": [0], "outputs": [1]}])
    with pytest.raises(InputError, match="shape that cannot be"):
        tflite_graph.read(path)


def test_keeps_the_options_of_custom_operations(tmp_path, model_writer):
    operations = [
        {"code": "Atan", "inputs": [0], "outputs": [1], "options": b"\x01\x02"},
        {"code": OPERATOR.RELU, "inputs": [1], "outputs": [2]},
    ]
    graph = tflite_graph.read(model_writer(tmp_path / "m.tflite", [{"name": n, "shape": [1]} for n in "xyz"], operations)).graphs[0]
    assert [each.custom_options for each in graph.operations] == [b"\x01\x02", b""]
    assert graph.makers == {1: 0, 2: 1}


def test_refuses_indices_that_lead_nowhere(tmp_path, model_writer):
    path = model_writer(tmp_path / "m.tflite", [{"name": "x", "shape": [1]}], [{"code": OPERATOR.RELU, "inputs": [0], "outputs": [7]}])
    with pytest.raises(InputError, match="tensor that is not there"):
        tflite_graph.read(path)


def test_lengths_that_lie_cost_no_time(relu_chain):
    """Each 32-bit word in turn becomes a huge length or offset."""
    sound, begin = relu_chain.read_bytes(), time.monotonic()
    for place in range(8, len(sound), 4):
        relu_chain.write_bytes(sound[:place] + struct.pack("<I", 0x7FFFFFF0) + sound[place + 4 :])
        _read_or_refuse(relu_chain)
    assert time.monotonic() - begin < 20


def _read_or_refuse(path: Path) -> None:
    try:
        check.table(check.check(path))
    except InputError as error:
        assert str(path) in str(error)


_damage = given(
    edits=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=8),
    keep=st.one_of(st.just(1.0), st.floats(0, 1)),
)
_often = settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])


def _read_damaged(sound: Path, path: Path, edits: list[tuple[float, int]], keep: float) -> None:
    content = bytearray(sound.read_bytes())
    for place, value in edits:
        content[int(place * len(content))] = value
    path.write_bytes(content[: int(keep * len(content))])
    _read_or_refuse(path)


@_often
@_damage
def test_damaged_files_are_refused_or_read(leaky_chain, tmp_path, edits, keep):
    """Truncated, bytes changed: a result or an InputError, nothing else."""
    _read_damaged(leaky_chain, tmp_path / "m.tflite", edits, keep)


@_often
@_damage
def test_damaged_files_of_the_converter_are_refused_or_read(data, tmp_path, edits, keep):
    _read_damaged(data / "edgetpu/pairs/lib_bright_16x16/model.tflite", tmp_path / "m.tflite", edits, keep)


def test_mutants_of_small_models_crash_nothing(leaky_chain, compiled_leaky, tmp_path):
    """Reading, judging, costing, auditing and telling; benchmarks/fuzz_models.py does the same to 10,000 of the public pairs."""
    outcome = fuzz_models.fuzz([leaky_chain, compiled_leaky], count=300, seed=1, keep=tmp_path / "kept")
    assert outcome.wrong == 0
    assert set(outcome.answers) == {"read", "refused"}
    assert outcome.answers.total() == 300
    assert not (tmp_path / "kept").exists()


def test_the_fuzzer_finds_what_crashes(leaky_chain, tmp_path, monkeypatch, capsys):
    def fragile(path):
        raise ZeroDivisionError

    monkeypatch.setattr(fuzz_models, "examine", fragile)
    assert fuzz_models.fuzz([leaky_chain], count=3, seed=0, keep=tmp_path / "kept").wrong == 3
    assert len(list((tmp_path / "kept").glob("crashed-0-*.tflite"))) == 3
    assert "ZeroDivisionError" in capsys.readouterr().err
