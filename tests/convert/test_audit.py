import json

import pytest
import tflite

from convert import audit, check, tflite_graph
from device.program import InputError

OPERATOR = tflite.BuiltinOperator
LOG = """Edge TPU Compiler version 16.0.384591198
Input: leaky.tflite
Output: leaky_edgetpu.tflite

Operator                       Count      Status

LEAKY_RELU                     1          Operation not supported
TANH                           1          More than one subgraph is not supported
LOGISTIC                       1          Mapped to Edge TPU
"""


def test_says_what_is_in_the_file(compiled_leaky, capsys):
    assert audit.main([str(compiled_leaky)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "compiled by edgetpu_compiler 16.0; needs runtime 14 or newer"
    assert "4.0 KiB cached on the chip (4,096 bytes), 512 B streamed in every inference (512 bytes)" in lines[2]
    assert "up to 100 B a tile" in lines[3]
    assert lines[-1] == "1 Edge TPU subgraph, 2 operations on the CPU: 1 LEAKY_RELU, 2 TANH"


def test_compares_with_what_check_expects_of_the_source_beside_it(compiled_leaky, capsys):
    report = audit.audit(compiled_leaky)
    assert report["expected"]["differences"] == []
    audit.main([str(compiled_leaky)])
    assert "leaky.tflite: right on 3 of 3 operations" in capsys.readouterr().out


def test_tells_where_the_compiler_did_other_than_expected(compiled_leaky, relu_chain, capsys):
    """relu_chain has RELU6 where the file's LEAKY_RELU is: its TANH is the operation of that name and output."""
    assert audit.main([str(compiled_leaky), "--source", str(relu_chain)]) == 1
    assert "  2 TANH: expected on TPU, is on CPU" in capsys.readouterr().out.splitlines()


def test_compares_with_the_log_beside_it(compiled_leaky, capsys):
    compiled_leaky.with_suffix(".log").write_text(LOG)
    report = audit.audit(compiled_leaky)
    assert report["compiler"] == "16.0.384591198"
    assert report["log"]["agrees"]
    assert report["log"]["cpu_operations"] == {"LEAKY_RELU": 1, "TANH": 1}
    audit.main([str(compiled_leaky)])
    assert "agrees" in capsys.readouterr().out


def test_a_log_of_another_file_does_not_agree(compiled_leaky, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text(LOG.replace("TANH                           1", "TANH                           4"))
    report = audit.audit(compiled_leaky, log=other)
    assert not report["log"]["agrees"]
    assert not audit.holds(report)


def test_a_file_that_runs_completely_on_the_edge_tpu_is_status_0(model_writer, package_writer, tmp_path, capsys):
    tensors = [{"name": name, "shape": [1, 8]} for name in ("t0", "t1")]
    operation = {"code": tflite_graph.EDGETPU, "inputs": [0], "outputs": [1], "options": package_writer((0, 300))}
    assert audit.main([str(model_writer(tmp_path / "m.tflite", tensors, [operation]))]) == 0
    out = capsys.readouterr().out
    assert "0 B cached on the chip (0 bytes), 300 B streamed in every inference (300 bytes)" in out
    assert out.splitlines()[-1] == "1 Edge TPU subgraph, 0 operations on the CPU"


def test_a_file_that_was_not_compiled_is_status_1(relu_chain, capsys, validate):
    assert audit.main([str(relu_chain), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    validate(report, "audit")
    assert (report["compiled"], report["subgraphs"], report["on_chip"], report["runtime"]) == (False, 0, None, None)
    audit.main([str(relu_chain)])
    assert "not compiled for the Edge TPU" in capsys.readouterr().out


def test_json_follows_the_contract(compiled_leaky, capsys, validate):
    compiled_leaky.with_suffix(".log").write_text(LOG)
    assert audit.main([str(compiled_leaky), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    validate(report, "audit")
    assert report["cpu_operations"] == [{"index": 1, "name": "LEAKY_RELU"}, {"index": 2, "name": "TANH"}]
    assert (report["on_chip"], report["streamed"], report["runtime"]) == (4096, 512, "14")


@pytest.mark.parametrize(("runtime", "versions"), [(10, "1.0"), (12, "2.0 to 15.0"), (13, "2.0 to 15.0, or"), (14, "16.0"), (15, "16.0")])
def test_the_runtime_narrows_the_compiler(model_writer, package_writer, tmp_path, runtime, versions):
    operation = {"code": tflite_graph.EDGETPU, "inputs": [0], "outputs": [0], "options": package_writer((0, 1), runtime=runtime)}
    found = audit.read(model_writer(tmp_path / "m.tflite", [{"name": "x", "shape": [1]}], [operation]))
    assert found.runtime == runtime
    assert found.compiler.startswith(versions)


def test_operations_whose_outputs_got_new_names_are_found_by_shape(model_writer, package_writer, tmp_path, leaky_chain):
    tensors = [{"name": f"new{i}", "shape": [1, 8]} for i in range(4)]
    operations = [
        {"code": tflite_graph.EDGETPU, "inputs": [0], "outputs": [1], "options": package_writer((0, 1))},
        {"code": OPERATOR.LEAKY_RELU, "inputs": [1], "outputs": [2]},
        {"code": OPERATOR.TANH, "inputs": [2], "outputs": [3]},
    ]
    compiled = audit.read(model_writer(tmp_path / "m.tflite", tensors, operations))
    assert audit.placed(tflite_graph.read(leaky_chain).graphs[0], compiled) == ["tpu", "cpu", "cpu"]


@pytest.mark.parametrize("options", [b"", b"nothing", bytes(64)])
def test_a_damaged_package_is_one_line_and_status_2(model_writer, tmp_path, capsys, options):
    operation = {"code": tflite_graph.EDGETPU, "inputs": [0], "outputs": [0], "options": options}
    assert audit.main([str(model_writer(tmp_path / "m.tflite", [{"name": "x", "shape": [1]}], [operation]))]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "damaged" in err


def test_files_that_are_not_there_are_status_2(compiled_leaky, tmp_path, capsys):
    assert audit.main([str(tmp_path / "no.tflite")]) == 2
    assert audit.main([str(compiled_leaky), "--source", str(tmp_path / "no.tflite")]) == 2
    assert audit.main([str(compiled_leaky), "--log", str(tmp_path / "no.log")]) == 2
    assert capsys.readouterr().err.count("\n") == 3


def test_reproduces_the_public_pairs(data, validate):
    """Subgraphs, bytes and the place of every operation, as decoded from the compiled files and told by their logs."""
    truth = json.loads((data / "edgetpu" / "ground_truth.json").read_text())
    for name, pair in truth.items():
        path = data / "edgetpu" / "pairs" / name / "model_edgetpu.tflite"
        report = audit.audit(path)
        validate(report, "audit")
        decoded = [program for custom in pair["custom_ops"] for package in custom["packages"] for program in package["executables"]]
        assert (report["subgraphs"], report["on_chip"], report["streamed"]) == (
            pair["subgraphs"],
            pair["on_chip_bytes"],
            pair["off_chip_bytes"],
        )
        assert report["narrow_memory"] == max(program["narrow_memory_bytes_per_tile"] for program in decoded)
        assert report["runtime"] == str(pair["min_runtime_version"])
        source = tflite_graph.read(path.with_name("model.tflite")).graphs[0]
        places = [{"edgetpu": "tpu"}.get(operation["where"], operation["where"]) for operation in pair["ops"]]
        assert audit.placed(source, audit.read(path)) == places
        assert report["expected"]["differences"] == []
        assert report.get("log", {"agrees": True})["agrees"]


def test_a_compiled_file_is_no_source(compiled_leaky):
    with pytest.raises(InputError, match=r"audit\.py"):
        check.check(compiled_leaky)
