import struct
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from convert import executable


def test_reads_what_the_compiler_packed(package_writer):
    found = executable.package_of(package_writer((2, 512), (1, 4096), runtime=13, narrow=77))
    assert (found.runtime, found.build) == (13, "cl/1")
    run, cache = found.executables
    assert (run.kind, run.parameters, run.narrow_memory) == ("EXECUTION_ONLY", 512, 77)
    assert (cache.kind, cache.parameters) == ("PARAMETER_CACHING", 4096)
    assert (run.name, run.chip, run.token, run.instructions, run.inputs) == ("model", "beagle", 2**63, 0, ())


def test_reads_layers_and_instructions(data):
    """As the pair's ground truth has them."""
    from convert import tflite_graph

    model = tflite_graph.read(data / "edgetpu/pairs/gc_split_concat/model_edgetpu.tflite")
    run, cache = executable.package_of(model.graphs[0].operations[0].custom_options).executables
    assert (run.instructions, cache.instructions) == (23648, 1232)
    assert [(layer.name, layer.size, layer.shape) for layer in run.inputs] == [
        ("input1", 192, (8, 8, 3)),
        ("inputs/rnn1", 64, (8, 8, 1)),
        ("inputs/rnn2", 128, (8, 8, 2)),
    ]
    assert {layer.size for layer in run.outputs} == {256}


@pytest.mark.parametrize("options", [b"", b"\0", b"no flexbuffer", bytes(100), b"\xff" * 64])
def test_refuses_what_is_no_package(options):
    with pytest.raises(ValueError, match="cannot be read"):
        executable.package_of(options)


def test_refuses_a_package_of_another_kind(package_writer):
    with pytest.raises(ValueError, match="DWN1"):
        executable.package_of(package_writer((1, 8)).replace(b"DWN1", b"DWN9"))
    with pytest.raises(ValueError, match="unknown kind"):
        executable.package_of(package_writer((7, 8)))


def test_lengths_that_lie_cost_no_time(package_writer):
    """Each 32-bit word in turn becomes a huge length or offset."""
    sound, begin = package_writer((2, 64), (1, 64)), time.monotonic()
    for place in range(0, len(sound) - 4):
        _read_or_refuse(sound[:place] + struct.pack("<I", 0x7FFFFFF0) + sound[place + 4 :])
    assert time.monotonic() - begin < 20


def test_tables_that_loop_end(package_writer):
    """A list of executables that all lead to the same one is read only so far."""
    with pytest.raises(ValueError, match="any package"):
        executable.package_of(package_writer(*[(1, 1)] * (executable.TABLES + 1)))


def _read_or_refuse(options: bytes) -> None:
    try:
        executable.package_of(options)
    except ValueError as error:
        assert "cannot be read" in str(error)


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=8), keep=st.floats(0, 1))
def test_damaged_packages_are_refused_or_read(package_writer, edits, keep):
    content = bytearray(package_writer((2, 64), (1, 64)))
    for place, value in edits:
        content[int(place * len(content))] = value
    _read_or_refuse(bytes(content[: int(keep * len(content)) or None]))
