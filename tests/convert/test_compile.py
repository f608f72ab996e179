import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tflite

from convert import compile as program
from convert import tflite_graph
from device import bundle

# What the stand-in prints: excerpts of real transcripts of edgetpu_compiler.
SUCCESS = """Edge TPU Compiler version 16.0.384591198
Model compiled successfully in 17 ms.
On-chip memory used for caching model parameters: 4.21MiB
On-chip memory remaining for caching model parameters: 3.29MiB
Off-chip memory used for streaming uncached model parameters: 0.00B
Compilation succeeded!"""
NOT_QUANTISED = "Edge TPU Compiler version 15.0.340273435\nInvalid model: x.tflite\nModel not quantized"
TOO_NEW = "ERROR: Didn't find op for builtin opcode 'TRANSPOSE_CONV' version '4'. An older version of this builtin might be supported."
DYNAMIC = "ERROR: Attempting to use a delegate that only supports static-sized tensors with a graph that has dynamic-sized tensors."
CUSTOM = "ERROR: Encountered unresolved custom op: Atan."
GELU = "ERROR: Op builtin_code out of range: 150. Are you using old TFLite binary with newer model?"
INTERNAL = "Edge TPU Compiler version 14.1.317412892\n\nInternal compiler error. Aborting!"
SILENT = "Compilation child process completed within timeout period.\nCompilation failed!"
ZERO = "Model compiled successfully in 17 ms.\nNumber of Edge TPU subgraphs: 0\nNumber of operations that will run on Edge TPU: 0"


@pytest.fixture
def stand_in(tmp_path, monkeypatch, chain_writer):
    """stand_in(text, status, output): an edgetpu_compiler on PATH that prints `text`, copies the file `output`, ends with `status`."""
    folder = tmp_path / "bin"
    folder.mkdir()

    def make(text: str = "", status: int = 0, output: Path | None = None, before: str = "") -> Path:
        (folder / "text").write_text(text)
        copy = f'cp "{output}" "$out/${{name}}_edgetpu.tflite"; echo "the log" > "$out/${{name}}_edgetpu.log"' if output else ""
        lines = [
            f"#!{shutil.which('sh')}",
            before,
            'while [ $# -gt 1 ]; do [ "$1" = --out_dir ] && out=$2; shift; done',
            'name=$(basename "$1" .tflite)',
            f'cat "{folder}/text"',
            copy,
            f"exit {status}",
        ]
        script = folder / program.COMPILER
        script.write_text("\n".join(lines) + "\n")
        script.chmod(0o755)
        return script

    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return make


@pytest.fixture
def whole(tmp_path, model_writer) -> Path:
    """What the compiler makes when everything maps."""
    tensors = [{"name": "in", "shape": [1, 8]}, {"name": "out", "shape": [1, 8]}]
    operations = [{"code": tflite_graph.EDGETPU, "inputs": [0], "outputs": [1]}]
    return model_writer(tmp_path / "whole.tflite", tensors, operations, filler=10_000)


@pytest.fixture
def part(tmp_path, model_writer) -> Path:
    """What it makes when one operation stays on the CPU."""
    tensors = [{"name": name, "shape": [1, 8]} for name in ("in", "middle", "out")]
    leaky = {"code": tflite.BuiltinOperator.LEAKY_RELU, "inputs": [1], "outputs": [2]}
    operations = [{"code": tflite_graph.EDGETPU, "inputs": [0], "outputs": [1]}, leaky]
    return model_writer(tmp_path / "part.tflite", tensors, operations, filler=10_000)


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_writes_the_compiled_model_and_the_log_beside_it(relu_chain, stand_in, whole, capsys, tmp_path):
    stand_in(SUCCESS, output=whole)
    before = files(tmp_path)
    assert program.main([str(relu_chain)]) == 0
    assert (tmp_path / "relu_edgetpu.tflite").read_bytes() == whole.read_bytes()
    assert (tmp_path / "relu_edgetpu.log").read_text() == "the log\n"
    assert files(tmp_path) - before == {"relu_edgetpu.tflite", "relu_edgetpu.log"}
    out = capsys.readouterr().out
    assert "everything runs on the Edge TPU" in out
    assert "On-chip memory used for caching model parameters: 4.21MiB" in out


def test_writes_to_another_folder_even_with_spaces(relu_chain, stand_in, whole, tmp_path):
    stand_in(SUCCESS, output=whole)
    assert program.main([str(relu_chain), "--out", str(tmp_path / "a b" / "c")]) == 0
    assert files(tmp_path / "a b" / "c") == {"relu_edgetpu.tflite", "relu_edgetpu.log"}


def test_refuses_what_does_not_map_before_it_asks_the_compiler(leaky_chain, stand_in, tmp_path, capsys):
    stand_in(before=f'touch "{tmp_path}/called"')
    assert program.main([str(leaky_chain)]) == 1
    out, err = capsys.readouterr()
    assert "LEAKY_RELU" in out
    assert "--partial" in err
    assert not (tmp_path / "called").exists()


def test_partial_is_accepted_when_it_is_meant(leaky_chain, stand_in, part, tmp_path, capsys):
    stand_in(SUCCESS, output=part)
    assert program.main([str(leaky_chain), "--partial"]) == 0
    assert (tmp_path / "leaky_edgetpu.tflite").exists()
    assert "1 operations on the CPU" in capsys.readouterr().out


def test_a_compiler_that_maps_less_than_the_check_said_is_reported(relu_chain, stand_in, part, tmp_path, capsys):
    stand_in(SUCCESS, output=part)
    assert program.main([str(relu_chain)]) == 1
    assert "left 1 operations on the CPU (LEAKY_RELU)" in capsys.readouterr().err
    assert not (tmp_path / "relu_edgetpu.tflite").exists()


@pytest.mark.parametrize(
    ("text", "status", "words"),
    [
        (NOT_QUANTISED, 1, "not quantised"),
        (TOO_NEW, 1, "does not read TRANSPOSE_CONV version 4"),
        (DYNAMIC, 1, "not static"),
        (CUSTOM, 1, "custom operation Atan"),
        (GELU, 1, "builtin operation 150"),
        (INTERNAL, 1, "run it once more"),
        (SILENT, 1, "without a reason"),
        (SILENT, 0, "without a reason"),
        (ZERO, 0, "mapped nothing"),
        ("", 139, "crashed"),
    ],
)
def test_a_failure_is_explained_in_one_line_and_leaves_nothing(relu_chain, stand_in, capsys, tmp_path, text, status, words):
    stand_in(text, status)
    before = files(tmp_path)
    assert program.main([str(relu_chain)]) == 1
    err = capsys.readouterr().err
    assert words in err.splitlines()[-1]
    assert text in err
    assert files(tmp_path) == before


def test_transcripts_of_real_failures_are_explained(data, relu_chain, stand_in, capsys):
    folder = data / "edgetpu" / "logs" / "transcripts"
    expected = {
        "3_": "not quantised",
        "7_": "not static",
        "8_": "crashed",
        "9_": "TRANSPOSE_CONV version 4",
        "10_": "operation Atan",
        "11_": "without a reason",
        "12_": "without a reason",
        "13_": "without a reason",
        "14_": "mapped nothing",
        "17_": "RELU version 2",
        "18_": "operation 150",
    }
    for number, words in expected.items():
        (transcript,) = folder.glob(f"stdout_{number}*.txt")
        stand_in(transcript.read_text(), 1)
        assert program.main([str(relu_chain)]) == 1
        assert words in capsys.readouterr().err.splitlines()[-1], transcript.name


def test_a_nonzero_exit_counts_although_a_whole_file_is_there(relu_chain, stand_in, whole):
    stand_in(SUCCESS, 1, output=whole)
    assert program.main([str(relu_chain)]) == 1


@pytest.mark.parametrize("stub", [b"", b"stub" * 256, None])
def test_a_stub_does_not_count_although_the_exit_is_zero(relu_chain, stand_in, tmp_path, model_writer, stub):
    path = tmp_path / "stub.tflite"
    if stub is None:  # a sound file of a few hundred bytes that names the operation and holds no instructions
        tensors = [{"name": "x", "shape": [1]}]
        model_writer(path, tensors, [{"code": tflite_graph.EDGETPU, "inputs": [0], "outputs": [0]}])
    else:
        path.write_bytes(stub)
    stand_in(SUCCESS, output=path)
    assert program.main([str(relu_chain)]) == 1
    assert not (tmp_path / "relu_edgetpu.tflite").exists()


def test_a_file_without_edge_tpu_operation_does_not_count(relu_chain, stand_in, tmp_path, model_writer):
    tensors = [{"name": "x", "shape": [1]}]
    relu = {"code": tflite.BuiltinOperator.RELU, "inputs": [0], "outputs": [0]}
    stand_in(SUCCESS, output=model_writer(tmp_path / "cpu.tflite", tensors, [relu], filler=10_000))
    assert program.main([str(relu_chain)]) == 1


def test_a_compiler_that_hangs_is_stopped_with_its_children(relu_chain, stand_in, tmp_path, capsys):
    stand_in(before=f'sleep 60 & echo $! > "{tmp_path}/child"; wait')
    begin = time.monotonic()
    assert program.main([str(relu_chain), "--timeout", "1"]) == 1
    assert time.monotonic() - begin < 20
    assert "did not end within 1 s" in capsys.readouterr().err
    child = int((tmp_path / "child").read_text())
    assert _ended(child)


def _ended(process: int) -> bool:
    """Whether the process ends within two seconds (a killed orphan is a zombie until it is reaped)."""
    for _ in range(20):
        status = Path(f"/proc/{process}/stat")
        if not status.exists() or status.read_text().rsplit(")", 1)[1].split()[0] == "Z":
            return True
        time.sleep(0.1)
    return False


def test_ctrl_c_is_clean(relu_chain, stand_in, tmp_path):
    stand_in(before=f'touch "{tmp_path}/called"; sleep 60')
    process = subprocess.Popen([sys.executable, program.__file__, str(relu_chain)], stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "called").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (130, "compile: interrupted\n")


def test_without_the_compiler_it_says_where_to_get_it(relu_chain, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert program.main([str(relu_chain)]) == 3
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "x86-64 Linux" in err
    assert "edgetpu-compiler" in err


def test_a_compiler_of_another_machine_is_missing_too(relu_chain, stand_in, capsys):
    stand_in().write_bytes(b"\x7fELF not for this machine")
    assert program.main([str(relu_chain)]) == 3
    assert "cannot run here" in capsys.readouterr().err


def test_never_compiles_twice(stand_in, whole, capsys):
    stand_in(SUCCESS, output=whole)
    assert program.main([str(whole)]) == 2
    assert "already compiled" in capsys.readouterr().err


@pytest.fixture
def small_bundle(relu_chain, tmp_path) -> bundle.Bundle:
    """A bundle around a model of three operations."""
    (tmp_path / "CARD.md").write_text("card")
    facts = {
        "name": "small",
        "version": "1",
        "dimension": 8,
        "output": {"scale": 0.5, "zero_point": 0},
        "preprocessing": {"version": 1},
        "thresholds": [{"far": 0.001, "threshold": 0.5}],
        "made": {"time": "2026-01-01T00:00:00Z"},
    }
    encoder = shutil.copy(relu_chain, tmp_path / bundle.ENCODER)
    return bundle.write(tmp_path / "models" / "small", [Path(encoder), tmp_path / "CARD.md"], facts)


def test_a_bundle_is_copied_not_changed(small_bundle, stand_in, whole, tmp_path, monkeypatch, capsys):
    stand_in(SUCCESS, output=whole)
    monkeypatch.chdir(tmp_path)
    before = {path.name: path.read_bytes() for path in small_bundle.path.iterdir()}
    assert program.main([str(small_bundle.path)]) == 0
    assert {path.name: path.read_bytes() for path in small_bundle.path.iterdir()} == before
    made = bundle.load(tmp_path / "build" / "compiled" / "small-edgetpu")
    assert (made.name, made.encoder) == ("small-edgetpu", small_bundle.encoder)
    assert set(made.manifest["files"]) == {*small_bundle.manifest["files"], "encoder_edgetpu.tflite", "encoder_edgetpu.log"}
    assert (made.path / "encoder_edgetpu.tflite").read_bytes() == whole.read_bytes()
    assert str(Path("build", "compiled", "small-edgetpu")) in capsys.readouterr().out


def test_a_bundle_is_never_overwritten_nor_compiled_twice(small_bundle, stand_in, whole, tmp_path):
    stand_in(SUCCESS, output=whole)
    out = tmp_path / "out"
    assert program.main([str(small_bundle.path), "--out", str(out)]) == 0
    assert program.main([str(small_bundle.path), "--out", str(out)]) == 2
    assert program.main([str(small_bundle.path), "--out", str(small_bundle.path)]) == 2
    assert program.main([str(out), "--out", str(tmp_path / "again")]) == 2


def test_bad_calls_are_status_2(tmp_path, relu_chain, stand_in, whole, capsys):
    stand_in(SUCCESS, output=whole)
    assert program.main([str(tmp_path / "no.tflite")]) == 2
    (tmp_path / "file").write_text("")
    assert program.main([str(relu_chain), "--out", str(tmp_path / "file")]) == 2
    assert "cannot write" in capsys.readouterr().err
