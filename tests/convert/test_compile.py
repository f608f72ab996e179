"""compile.py end to end, against stand-ins for edgetpu_compiler and docker that replay what the real ones did.

Where the real compiler is on PATH, the tests of what succeeds and what is refused use it as well.
"""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import flatbuffers
import pytest
import tflite
from flatbuffers import flexbuffers

from convert import audit, compiler, tflite_graph, workflow
from convert import compile as program
from device import bundle

VERSION = "16.0.384591198"
STARTED = f"Edge TPU Compiler version {VERSION}\nStarted a compilation timeout timer of 180 seconds.\n"
SUCCESS = (
    f"{STARTED}\nModel compiled successfully in 17 ms.\nCompilation child process completed within timeout period.\nCompilation succeeded!"
)
NOT_QUANTISED = "Edge TPU Compiler version 15.0.340273435\nInvalid model: x.tflite\nModel not quantized"
INTERNAL = "Edge TPU Compiler version 14.1.317412892\n\nInternal compiler error. Aborting!"
SILENT = f"{STARTED}Compilation child process completed within timeout period.\nCompilation failed!"
ZERO = "Model compiled successfully in 17 ms.\nNumber of Edge TPU subgraphs: 0\nNumber of operations that will run on Edge TPU: 0"

# Replays `runs` of compiler.json, the last one again and again: prints `text`, writes `outputs` (name: file to copy, with a
# log), ends with `status`.
STAND_IN = """
import json, pathlib, shutil, sys
here = pathlib.Path(__file__).resolve().parent
calls = here / "calls"
count = len(calls.read_text().splitlines()) if calls.exists() else 0
calls.open("a").write(json.dumps(sys.argv[1:]) + "\\n")
runs = json.loads((here / "compiler.json").read_text())
run = runs[min(count, len(runs) - 1)]
print(run["text"])
out = pathlib.Path(sys.argv[sys.argv.index("--out_dir") + 1])
assert all(pathlib.Path(name).is_file() for name in sys.argv[1:] if name.endswith(".tflite"))
for name, source in run["outputs"].items():
    shutil.copyfile(source, out / name)
    (out / name).with_suffix(".log").write_text("the log of " + name)
sys.exit(run["status"])
"""

# Containers are folders beside the script; `start` runs the stand-in above in one of them.
DOCKER = """
import json, pathlib, shutil, subprocess, sys
here = pathlib.Path(__file__).resolve().parent
state = here / "docker-state"
verb, *rest = sys.argv[1:]
(here / "docker-calls").open("a").write(json.dumps(sys.argv[1:]) + "\\n")
place = lambda name: state / name.replace(":/work", "").removesuffix("/.")
if not state.is_dir() and verb == "version":
    print("Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?")
    sys.exit(1)
if verb == "version":
    print((state / "machine").read_text())
elif verb == "image":
    sys.exit(0 if (state / "image").exists() else 1)
elif verb == "build":
    assert (pathlib.Path(rest[-1]) / "Dockerfile").is_file()
    if (state / "unreachable").exists():
        print("E: Failed to fetch https://packages.example/InRelease  403  Forbidden")
        sys.exit(100)
    (state / "image").touch()
elif verb == "create":
    (state / "box").mkdir()
    (state / "arguments").write_text(json.dumps(rest[rest.index("omokage-edgetpu-compiler") + 1 :]))
    print("box")
elif verb == "cp" and ":" in rest[1]:
    shutil.copytree(rest[0].removesuffix("/."), place(rest[1]), dirs_exist_ok=True)
elif verb == "cp":
    shutil.copytree(place(rest[0]), rest[1], dirs_exist_ok=True)
elif verb == "start":
    arguments = json.loads((state / "arguments").read_text())
    sys.exit(subprocess.run([here / "edgetpu_compiler", *arguments], cwd=state / "box").returncode)
elif verb == "rm":
    shutil.rmtree(state / rest[-1])
"""


def script(path: Path, source: str) -> Path:
    path.write_text(f"#!{sys.executable} -IS\n{source}")
    path.chmod(0o755)
    return path


@pytest.fixture
def bin_(tmp_path, monkeypatch) -> Path:
    """A folder at the front of PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


@pytest.fixture
def stand_in(bin_):
    """stand_in(text, status, **outputs): an edgetpu_compiler on PATH; called again it adds a run."""
    runs: list[dict] = []

    def add(text: str = "", status: int = 0, outputs: dict[str, Path] | None = None) -> Path:
        runs.append({"text": text, "status": status, "outputs": {name: str(path) for name, path in (outputs or {}).items()}})
        (bin_ / "compiler.json").write_text(json.dumps(runs))
        return script(bin_ / compiler.COMPILER, STAND_IN)

    return add


@pytest.fixture
def hanging(bin_) -> Path:
    """An edgetpu_compiler on PATH that never ends: a script around a program, as the real one is. Returns the file of its number."""
    path = bin_ / compiler.COMPILER
    path.write_text(f"#!{shutil.which('sh')}\nsleep 60 &\necho $! > {bin_}/number && mv {bin_}/number {bin_}/child\nwait\n")
    path.chmod(0o755)
    return bin_ / "child"


@pytest.fixture
def calls(bin_):
    """calls(): the arguments of every run of the stand-in so far."""

    def read(name: str = "calls") -> list[list[str]]:
        return [json.loads(line) for line in (bin_ / name).read_text().splitlines()] if (bin_ / name).exists() else []

    return read


def table(fields: int, **slots: object) -> bytes:
    """A flatbuffer of one table with `fields` fields; slots f0, f1, ...: bytes, a list of them, or (kind, number)."""
    b = flatbuffers.Builder(0)
    offsets = {}
    for slot, value in slots.items():
        if isinstance(value, list):
            parts = [b.CreateByteVector(each) for each in value]
            b.StartVector(4, len(parts), 4)
            for part in reversed(parts):
                b.PrependUOffsetTRelative(part)
            offsets[slot] = b.EndVector()
        elif isinstance(value, bytes):
            offsets[slot] = b.CreateByteVector(value)
    b.StartObject(fields)
    for slot, value in slots.items():
        if slot in offsets:
            b.PrependUOffsetTRelativeSlot(int(slot[1:]), offsets[slot], 0)
        else:
            kind, number = value
            getattr(b, f"Prepend{kind}Slot")(int(slot[1:]), number, 0)
    b.Finish(b.EndObject(), b"DWN1")
    return bytes(b.Output())


def package(cached: int, streamed: int) -> bytes:
    """The custom options of an edgetpu-custom-op (libedgetpu's executable.fbs): the least that audit.py reads."""
    programs = [table(15, f6=bytes(size), f13=("Int16", kind)) for kind, size in ((1, cached), (2, streamed))]
    b = flexbuffers.Builder()
    with b.Map():
        b.Key("4")
        b.Blob(table(5, f0=("Int32", 14), f1=table(1, f0=programs), f4=b"cl/"))
    return bytes(b.Finish())


def vector(b: flatbuffers.Builder, values: list[int], tables: bool = False) -> int:
    b.StartVector(4, len(values), 4)
    for value in reversed(values):
        (b.PrependUOffsetTRelative if tables else b.PrependInt32)(value)
    return b.EndVector()


def compiled_model(path: Path, left: int, operation: int) -> Path:
    b = flatbuffers.Builder(0)
    name, options = b.CreateString(tflite_graph.EDGETPU), b.CreateByteVector(package(cached=20_000, streamed=64))
    codes = []
    for code in (tflite.BuiltinOperator.CUSTOM, operation):
        tflite.OperatorCodeStart(b)
        tflite.OperatorCodeAddDeprecatedBuiltinCode(b, code)
        tflite.OperatorCodeAddBuiltinCode(b, code)
        tflite.OperatorCodeAddCustomCode(b, name)
        codes.append(tflite.OperatorCodeEnd(b))
    operators, tensors = [], []
    for i in range(left + 1):
        inputs, outputs = vector(b, [i]), vector(b, [i + 1])
        tflite.OperatorStart(b)
        tflite.OperatorAddOpcodeIndex(b, min(i, 1))
        tflite.OperatorAddInputs(b, inputs)
        tflite.OperatorAddOutputs(b, outputs)
        if i == 0:
            tflite.OperatorAddCustomOptions(b, options)
        operators.append(tflite.OperatorEnd(b))
    for _ in range(left + 2):
        shape = vector(b, [1, 8])
        tflite.TensorStart(b)
        tflite.TensorAddShape(b, shape)
        tensors.append(tflite.TensorEnd(b))
    tflite.BufferStart(b)
    buffers = vector(b, [tflite.BufferEnd(b)], tables=True)
    lists = [vector(b, each, tables=True) for each in (tensors, operators, codes)]
    tflite.SubGraphStart(b)
    tflite.SubGraphAddTensors(b, lists[0])
    tflite.SubGraphAddOperators(b, lists[1])
    graphs = vector(b, [tflite.SubGraphEnd(b)], tables=True)
    tflite.ModelStart(b)
    tflite.ModelAddVersion(b, 3)
    tflite.ModelAddOperatorCodes(b, lists[2])
    tflite.ModelAddSubgraphs(b, graphs)
    tflite.ModelAddBuffers(b, buffers)
    b.Finish(tflite.ModelEnd(b), b"TFL3")
    path.write_bytes(bytes(b.Output()))
    return path


@pytest.fixture
def compiled(tmp_path):
    """compiled(left): a compiled model of one Edge TPU subgraph that leaves `left` operations (LEAKY_RELU) on the CPU."""

    def make(left: int = 0, operation: int = tflite.BuiltinOperator.LEAKY_RELU) -> Path:
        return compiled_model(tmp_path / f"compiled-{left}-{operation}.tflite", left, operation)

    return make


@pytest.fixture
def docker(bin_):
    """docker(image, machine): a docker on PATH whose containers run the stand-in compiler."""

    def make(image: bool = True, machine: str = "amd64") -> Path:
        state = bin_ / "docker-state"
        state.mkdir()
        (state / "machine").write_text(machine)
        if image:
            (state / "image").touch()
        script(bin_ / "docker", DOCKER)
        return state

    return make


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# --- what succeeds --------------------------------------------------------------------------------------------------------


def test_writes_the_compiled_model_and_the_log_beside_it(relu_chain, stand_in, compiled, capsys, tmp_path):
    output = compiled()
    stand_in(SUCCESS, outputs={"relu_edgetpu.tflite": output})
    before = files(tmp_path)
    assert program.main([str(relu_chain)]) == 0
    assert (tmp_path / "relu_edgetpu.tflite").read_bytes() == output.read_bytes()
    assert (tmp_path / "relu_edgetpu.log").read_text() == "the log of relu_edgetpu.tflite"
    assert files(tmp_path) - before == {"relu_edgetpu.tflite", "relu_edgetpu.log"}
    out = capsys.readouterr().out
    memory = "19.5 KiB of parameters cached, 64 B streamed in every inference"
    assert f"everything runs on the Edge TPU; {memory}; compiler {VERSION}" in out


def test_writes_to_another_folder_even_with_spaces(relu_chain, stand_in, compiled, tmp_path):
    stand_in(SUCCESS, outputs={"relu_edgetpu.tflite": compiled()})
    assert program.main([str(relu_chain), "--out", str(tmp_path / "a b" / "c")]) == 0
    assert files(tmp_path / "a b" / "c") == {"relu_edgetpu.tflite", "relu_edgetpu.log"}


def test_json_is_what_audit_says(relu_chain, stand_in, compiled, tmp_path, capsys, validate):
    stand_in(SUCCESS, outputs={"relu_edgetpu.tflite": compiled()})
    assert program.main([str(relu_chain), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    validate(report, "audit")
    assert report == audit.audit(tmp_path / "relu_edgetpu.tflite")


def test_without_a_log_what_was_printed_is_the_log(relu_chain, stand_in, compiled, bin_, tmp_path):
    path = stand_in(SUCCESS, outputs={"relu_edgetpu.tflite": compiled()})
    path.write_text(path.read_text().replace("(out / name).with_suffix", "pathlib.Path(name).with_suffix('.no').with_suffix"))
    shutil.move(path, bin_ / "inner")
    script(
        path,
        f"import subprocess, sys, pathlib\nsubprocess.run(['{bin_ / 'inner'}', *sys.argv[1:]])\npathlib.Path('relu_edgetpu.log').unlink()",
    )
    assert program.main([str(relu_chain)]) == 0
    assert (tmp_path / "relu_edgetpu.log").read_text() == f"{SUCCESS}\n"


def test_two_models_are_compiled_together_in_their_order(relu_chain, chain_writer, stand_in, compiled, calls, tmp_path):
    other = chain_writer(tmp_path / "other" / "a.tflite", tflite.BuiltinOperator.RELU) if (tmp_path / "other").mkdir() is None else None
    stand_in(SUCCESS, outputs={"relu_edgetpu.tflite": compiled(), "a_edgetpu.tflite": compiled()})
    assert program.main([str(relu_chain), str(other)]) == 0
    assert [call[-2:] for call in calls()] == [["relu.tflite", "a.tflite"]]
    assert (tmp_path / "relu_edgetpu.tflite").exists()
    assert files(tmp_path / "other") == {"a.tflite", "a_edgetpu.tflite", "a_edgetpu.log"}


def test_of_two_models_both_are_written_or_none(relu_chain, chain_writer, stand_in, compiled, tmp_path):
    other = chain_writer(tmp_path / "a.tflite", tflite.BuiltinOperator.RELU)
    stand_in(SUCCESS, outputs={"relu_edgetpu.tflite": compiled()})
    before = files(tmp_path)
    assert program.main([str(relu_chain), str(other)]) == 1
    assert files(tmp_path) == before


def test_segments(relu_chain, stand_in, compiled, calls, tmp_path):
    names = [f"relu_segment_{i}_of_3_edgetpu.tflite" for i in range(3)]
    stand_in(SUCCESS, outputs={name: compiled() for name in names})
    assert program.main([str(relu_chain), "--segments", "3", "--out", str(tmp_path / "out")]) == 0
    assert files(tmp_path / "out") == {*names, *(name.replace(".tflite", ".log") for name in names)}
    assert calls()[0][-3:] == ["--num_segments", "3", "relu.tflite"]


# --- what stays on the CPU ------------------------------------------------------------------------------------------------


def test_a_model_may_map_partly(leaky_chain, stand_in, compiled, tmp_path, capsys):
    stand_in(SUCCESS, outputs={"leaky_edgetpu.tflite": compiled(left=2)})
    assert program.main([str(leaky_chain)]) == 0
    out, err = capsys.readouterr()
    assert "2 operations on the CPU (LEAKY_RELU)" in out
    assert "Maximum(x, alpha * x)" in err


def test_full_mapping_is_refused_before_the_compiler_is_asked(leaky_chain, stand_in, calls, capsys):
    stand_in(SUCCESS)
    assert program.main([str(leaky_chain), "--require-full-mapping"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "LEAKY_RELU" in err
    assert "--no-require-full-mapping" in err.splitlines()[-1]
    assert calls() == []


def test_a_compiler_that_maps_less_than_the_check_said_is_reported(relu_chain, stand_in, compiled, tmp_path, capsys):
    stand_in(SUCCESS, outputs={"relu_edgetpu.tflite": compiled(left=1)})
    assert program.main([str(relu_chain), "--require-full-mapping"]) == 1
    assert "left 1 operations on the CPU (LEAKY_RELU)" in capsys.readouterr().err
    assert not (tmp_path / "relu_edgetpu.tflite").exists()


def test_where_the_check_was_wrong_it_says_so(relu_chain, stand_in, compiled, capsys):
    stand_in(SUCCESS, outputs={"relu_edgetpu.tflite": compiled(left=1, operation=tflite.BuiltinOperator.RELU6)})
    assert program.main([str(relu_chain)]) == 0
    assert "relu_edgetpu.tflite: operation 1 (RELU6) is on the CPU, check.py was wrong" in capsys.readouterr().err


# --- what fails -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "status", "words"),
    [(NOT_QUANTISED, 1, "not quantised"), (SILENT, 1, "without a reason"), (SILENT, 0, "without a reason"), (ZERO, 0, "mapped nothing")],
)
def test_a_failure_is_explained_in_one_line_and_leaves_nothing(relu_chain, stand_in, calls, capsys, tmp_path, text, status, words):
    stand_in(text, status)
    before = files(tmp_path)
    assert program.main([str(relu_chain)]) == 1
    err = capsys.readouterr().err
    assert words in err.splitlines()[-1]
    assert text in err
    assert files(tmp_path) == before
    assert len(calls()) == 1


def test_transcripts_of_real_failures_are_explained(data, relu_chain, stand_in, capsys):
    words = {
        "3": "not quantised",
        "7": "not static",
        "8": "crashed",
        "9": "TRANSPOSE_CONV version 4",
        "10": "operation Atan",
        "11": "stumbled",
        "12": "without a reason",
        "13": "without a reason",
        "14": "mapped nothing",
        "17": "RELU version 2",
        "18": "operation 150",
    }
    for number in words:
        (transcript,) = (data / "edgetpu" / "logs" / "transcripts").glob(f"stdout_{number}_*.txt")
        stand_in(transcript.read_text(), 139 if number == "8" else 1)
    for number, expected in words.items():
        assert program.main([str(relu_chain)]) == 1
        assert expected in capsys.readouterr().err.splitlines()[-1], number


def test_transcripts_of_real_successes_count_as_such(data, relu_chain, stand_in, compiled, capsys):
    numbers = ("1", "2", "4", "5", "6", "15", "16")
    for number in numbers:
        (transcript,) = (data / "edgetpu" / "logs" / "transcripts").glob(f"stdout_{number}_*.txt")
        stand_in(transcript.read_text(), outputs={"relu_edgetpu.tflite": compiled(left=2)})
    for number in numbers:
        assert program.main([str(relu_chain)]) == 0, number
        assert "2 operations on the CPU" in capsys.readouterr().out


def test_the_flaky_failure_is_tried_once_more(relu_chain, stand_in, compiled, calls, capsys):
    stand_in(INTERNAL, 1)
    stand_in(SUCCESS, outputs={"relu_edgetpu.tflite": compiled()})
    assert program.main([str(relu_chain)]) == 0
    assert len(calls()) == 2
    assert "once more" in capsys.readouterr().err


def test_and_once_only(relu_chain, stand_in, calls, capsys):
    stand_in(INTERNAL, 1)
    assert program.main([str(relu_chain)]) == 1
    assert len(calls()) == 2
    assert "run it again" in capsys.readouterr().err.splitlines()[-1]


def test_a_nonzero_exit_counts_although_a_whole_file_is_there(relu_chain, stand_in, compiled):
    stand_in(SUCCESS, 1, outputs={"relu_edgetpu.tflite": compiled()})
    assert program.main([str(relu_chain)]) == 1


def test_a_crash_is_status_139(relu_chain, stand_in, compiled, capsys):
    stand_in(STARTED, 139, outputs={"relu_edgetpu.tflite": compiled()})
    assert program.main([str(relu_chain)]) == 1
    assert "crashed (exit status 139)" in capsys.readouterr().err


@pytest.mark.parametrize("stub", [b"", b"stub" * 256, b"stub" * 4096])
def test_a_stub_does_not_count_although_the_exit_is_zero(relu_chain, stand_in, tmp_path, stub):
    (tmp_path / "stub.tflite").write_bytes(stub)
    stand_in(SUCCESS, outputs={"relu_edgetpu.tflite": tmp_path / "stub.tflite"})
    assert program.main([str(relu_chain)]) == 1
    assert not (tmp_path / "relu_edgetpu.tflite").exists()


@pytest.mark.parametrize("code", [tflite_graph.EDGETPU, tflite.BuiltinOperator.RELU])
def test_a_file_without_instructions_does_not_count(relu_chain, stand_in, tmp_path, model_writer, code):
    operation = {"code": code, "inputs": [0], "outputs": [0]}
    model_writer(tmp_path / "empty.tflite", [{"name": "x", "shape": [1]}], [operation], filler=10_000)
    stand_in(SUCCESS, outputs={"relu_edgetpu.tflite": tmp_path / "empty.tflite"})
    assert program.main([str(relu_chain)]) == 1


def test_a_compiler_that_hangs_is_stopped_with_its_children(relu_chain, hanging, capsys):
    begin = time.monotonic()
    assert program.main([str(relu_chain), "--timeout", "2"]) == 1
    assert time.monotonic() - begin < 30
    assert "did not end within 2 s" in capsys.readouterr().err
    assert _ended(int(hanging.read_text()))


def _ended(process: int) -> bool:
    """Whether the process ends within two seconds (a killed orphan is a zombie until it is reaped)."""
    for _ in range(20):
        status = Path(f"/proc/{process}/stat")
        if not status.exists() or status.read_text().rsplit(")", 1)[1].split()[0] == "Z":
            return True
        time.sleep(0.1)
    return False


def test_a_limit_beyond_the_compilers_own_is_passed_on(relu_chain, stand_in, compiled, calls):
    stand_in(SUCCESS, outputs={"relu_edgetpu.tflite": compiled()})
    assert program.main([str(relu_chain)]) == 0
    assert program.main([str(relu_chain), "--timeout", "900"]) == 0
    assert ["--timeout_sec" in call for call in calls()] == [False, True]
    assert "900" in calls()[1]


def test_ctrl_c_is_clean(relu_chain, hanging, tmp_path):
    before = files(tmp_path)
    process = subprocess.Popen([sys.executable, program.__file__, str(relu_chain)], stderr=subprocess.PIPE, text=True)
    while not hanging.exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (130, "compile: interrupted\n")
    assert files(tmp_path) == before


def test_without_the_compiler_it_says_where_to_get_it(relu_chain, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert program.main([str(relu_chain)]) == 3
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert all(word in err for word in ("x86-64", "install_compiler.sh", "--docker", "--ci"))


def test_a_compiler_of_another_machine_is_missing_too(relu_chain, stand_in, capsys):
    stand_in().write_bytes(b"\x7fELF not for this machine")
    assert program.main([str(relu_chain)]) == 3
    assert "cannot run here" in capsys.readouterr().err


def test_so_is_one_whose_script_runs_and_whose_program_does_not(relu_chain, stand_in, capsys):
    stand_in("edgetpu_compiler_bin/ld-linux-x86-64.so.2: cannot execute binary file: Exec format error", 126)
    assert program.main([str(relu_chain)]) == 3
    assert "--docker" in capsys.readouterr().err


def test_never_compiles_twice(stand_in, compiled, calls, capsys):
    stand_in(SUCCESS)
    assert program.main([str(compiled())]) == 2
    assert "already compiled" in capsys.readouterr().err
    assert calls() == []


def test_bad_calls_are_status_2(tmp_path, relu_chain, stand_in, compiled, capsys):
    stand_in(SUCCESS, outputs={"relu_edgetpu.tflite": compiled()})
    assert program.main([str(tmp_path / "no.tflite")]) == 2
    (tmp_path / "file").write_text("")
    assert program.main([str(relu_chain), "--out", str(tmp_path / "file")]) == 2
    assert "cannot write" in capsys.readouterr().err
    assert program.main([str(relu_chain), str(relu_chain)]) == 2
    assert "same name" in capsys.readouterr().err
    assert program.main([str(relu_chain), "--segments", "1"]) == 2
    assert program.main([str(relu_chain), str(tmp_path / "other.tflite"), "--segments", "2"]) == 2
    with pytest.raises(SystemExit) as stop:
        program.main([str(relu_chain), "--docker", "--ci"])
    assert stop.value.code == 2


# --- bundles --------------------------------------------------------------------------------------------------------------


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


def test_a_bundle_is_copied_not_changed(small_bundle, stand_in, compiled, tmp_path, monkeypatch, capsys):
    output = compiled()
    stand_in(SUCCESS, outputs={bundle.ENCODER_EDGETPU: output})
    monkeypatch.chdir(tmp_path)
    before = {path.name: path.read_bytes() for path in small_bundle.path.iterdir()}
    assert program.main([str(small_bundle.path)]) == 0
    assert {path.name: path.read_bytes() for path in small_bundle.path.iterdir()} == before
    made = bundle.load(tmp_path / "build" / "compiled" / "small-edgetpu")
    assert (made.name, made.encoder) == ("small-edgetpu", small_bundle.encoder)
    assert set(made.manifest["files"]) == {*small_bundle.manifest["files"], "encoder_edgetpu.tflite", "encoder_edgetpu.log"}
    assert (made.path / "encoder_edgetpu.tflite").read_bytes() == output.read_bytes()
    facts = {"runtime": "14", "cpu_operations": 0, "on_chip": 20_000, "streamed": 64}
    facts["source"] = small_bundle.manifest["files"][bundle.ENCODER]["sha256"]
    assert made.manifest["edgetpu"] == {"compiler": VERSION, "models": {"encoder_edgetpu.tflite": facts}}
    assert f"--encoder {Path('build', 'compiled', 'small-edgetpu')}" in capsys.readouterr().out


def test_the_manifest_of_a_compiled_bundle_follows_the_contract(bundle_path, stand_in, compiled, tmp_path, validate):
    stand_in(SUCCESS, outputs={bundle.ENCODER_EDGETPU: compiled()})
    assert program.main([str(bundle_path), "--out", str(tmp_path / "out")]) == 0
    validate(bundle.load(tmp_path / "out").manifest, "manifest")


def test_a_bundle_is_never_overwritten_nor_compiled_twice(small_bundle, stand_in, compiled, tmp_path):
    stand_in(SUCCESS, outputs={bundle.ENCODER_EDGETPU: compiled()})
    out = tmp_path / "out"
    assert program.main([str(small_bundle.path), "--out", str(out)]) == 0
    assert program.main([str(small_bundle.path), "--out", str(out)]) == 2
    assert program.main([str(small_bundle.path), "--out", str(small_bundle.path)]) == 2
    assert program.main([str(out), "--out", str(tmp_path / "again")]) == 2


def test_a_bundle_wants_full_mapping_unless_told_otherwise(small_bundle, stand_in, compiled, tmp_path):
    stand_in(SUCCESS, outputs={bundle.ENCODER_EDGETPU: compiled(left=1)})
    out = tmp_path / "out"
    assert program.main([str(small_bundle.path), "--out", str(out)]) == 1
    assert not out.exists()
    assert program.main([str(small_bundle.path), "--out", str(out), "--no-require-full-mapping"]) == 0
    assert bundle.load(out).manifest["edgetpu"]["models"]["encoder_edgetpu.tflite"]["cpu_operations"] == 1


def test_a_detector_that_is_compiled_with_a_bundle_goes_into_it(small_bundle, chain_writer, stand_in, compiled, calls, tmp_path):
    detector = chain_writer(tmp_path / "detector.tflite", tflite.BuiltinOperator.RELU)
    stand_in(SUCCESS, outputs={"detector_edgetpu.tflite": compiled(), bundle.ENCODER_EDGETPU: compiled()})
    out = tmp_path / "out"
    assert program.main([str(detector), str(small_bundle.path), "--out", str(out)]) == 0
    assert calls()[0][-2:] == ["detector.tflite", "encoder.tflite"]
    made = bundle.load(out)
    assert {"detector_edgetpu.tflite", "detector_edgetpu.log"} <= set(made.manifest["files"])
    assert list(made.manifest["edgetpu"]["models"]) == ["detector_edgetpu.tflite", "encoder_edgetpu.tflite"]
    assert not (tmp_path / "detector_edgetpu.tflite").exists()
    assert made.compiled(detector) == made.path / "detector_edgetpu.tflite"
    other = chain_writer(tmp_path / "other.tflite", tflite.BuiltinOperator.RELU6)
    assert made.compiled(other) is None and small_bundle.compiled(detector) is None


def test_bundles_have_one_encoder(small_bundle, bundle_path, stand_in, capsys):
    stand_in(SUCCESS)
    assert program.main([str(small_bundle.path), "--segments", "2"]) == 2
    assert "encoder.tflite" in capsys.readouterr().err
    assert program.main([str(small_bundle.path), str(bundle_path)]) == 2


# --- Docker ---------------------------------------------------------------------------------------------------------------


def test_docker_compiles_without_a_compiler_on_this_machine(small_bundle, docker, stand_in, compiled, calls, tmp_path, capsys):
    stand_in(SUCCESS, outputs={bundle.ENCODER_EDGETPU: compiled()})
    state = docker(image=False)
    assert program.main([str(small_bundle.path), "--docker", "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "encoder_edgetpu.log").read_text() == "the log of encoder_edgetpu.tflite"
    verbs = [call[0] for call in calls("docker-calls")]
    assert verbs == ["version", "image", "build", "create", "cp", "start", "cp", "rm"]
    created = calls("docker-calls")[3]
    assert created[1:5] == ["--platform", "linux/amd64", "--network", "none"]
    assert "building the image" in capsys.readouterr().err
    assert files(state) == {"machine", "image", "arguments"}


def test_an_image_that_is_there_is_used_and_an_emulated_one_is_told(relu_chain, docker, stand_in, compiled, calls, capsys):
    stand_in(SUCCESS, outputs={"relu_edgetpu.tflite": compiled()})
    docker(machine="arm64")
    assert program.main([str(relu_chain), "--docker"]) == 0
    assert "build" not in [call[0] for call in calls("docker-calls")]
    err = capsys.readouterr().err
    assert "arm64" in err
    assert "emulated" in err


@pytest.mark.usefixtures("hanging")
def test_a_container_that_hangs_is_removed(relu_chain, docker, capsys):
    state = docker()
    assert program.main([str(relu_chain), "--docker", "--timeout", "1"]) == 1
    assert "did not end within 1 s" in capsys.readouterr().err
    assert not (state / "box").exists()


def test_a_crash_in_docker_is_explained(relu_chain, docker, stand_in, capsys):
    stand_in(STARTED, 139)
    docker()
    assert program.main([str(relu_chain), "--docker"]) == 1
    assert "crashed" in capsys.readouterr().err


def test_docker_that_is_missing_or_does_not_run(relu_chain, docker, monkeypatch, tmp_path, bin_, capsys):
    state = docker()
    shutil.rmtree(state)
    assert program.main([str(relu_chain), "--docker"]) == 3
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "Cannot connect to the Docker daemon" in err
    assert "start Docker" in err
    monkeypatch.setenv("PATH", str(tmp_path))
    assert program.main([str(relu_chain), "--docker"]) == 3
    assert "docker is not on PATH" in capsys.readouterr().err


def test_a_repository_that_does_not_answer(relu_chain, docker, capsys):
    (docker(image=False) / "unreachable").touch()
    assert program.main([str(relu_chain), "--docker"]) == 3
    err = capsys.readouterr().err
    assert "403" in err.splitlines()[-1]
    assert "docs/edgetpu.md" in err.splitlines()[-1]


def test_the_dockerfile_installs_what_is_run():
    folder = Path(compiler.__file__).parent
    text = (folder / "Dockerfile").read_text()
    (copied,) = [line.split()[1] for line in text.splitlines() if line.startswith("COPY ")]
    assert f"RUN sh /tmp/{copied}" in text
    assert f"WORKDIR {compiler.INSIDE}\n" in text
    assert f'ENTRYPOINT ["{compiler.COMPILER}"]' in text
    installer = folder / copied
    assert "coral-edgetpu-stable main" in installer.read_text()
    assert subprocess.run(["sh", "-n", installer]).returncode == 0


# --- GitHub Actions -------------------------------------------------------------------------------------------------------


@pytest.fixture
def clone(small_bundle, tmp_path) -> Path:
    """A clone of Omokage with the bundle models/small."""
    (tmp_path / ".git").mkdir()
    (tmp_path / "convert").mkdir()
    (tmp_path / "convert" / "compile.py").touch()
    return tmp_path


def test_ci_writes_a_workflow_that_compiles(clone, docker, stand_in, compiled, monkeypatch, capsys):
    assert program.main([str(clone / "models" / "small"), "--ci"]) == 0
    out = capsys.readouterr().out
    assert "commit and push" in out
    assert "gh run download" in out
    text = (clone / ".github" / "workflows" / "compile-edgetpu.yml").read_text()
    lines = [line.strip(" -") for line in text.splitlines()]
    paths = json.loads(next(line for line in lines if line.startswith("paths: ")).removeprefix("paths: "))
    assert paths == ["models/small/**", ".github/workflows/compile-edgetpu.yml"]
    (command,) = [line.removeprefix("run: ") for line in lines if line.startswith('run: "python')]
    python, name, *arguments = shlex.split(json.loads(command))
    assert (python, name) == ("python", "convert/compile.py")
    # On GitHub: the same command, in the clone.
    stand_in(SUCCESS, outputs={bundle.ENCODER_EDGETPU: compiled()})
    docker(image=False)
    monkeypatch.chdir(clone)
    assert program.main(arguments) == 0
    uploaded = next(line for line in lines if line.startswith("path: ")).removeprefix("path: ")
    assert bundle.load(clone / uploaded).manifest["edgetpu"]["compiler"] == VERSION


def test_ci_passes_the_options_on_and_names_with_spaces(clone, chain_writer):
    model = chain_writer(clone / "my model's.tflite", tflite.BuiltinOperator.RELU)
    options = ["--segments", "2", "--timeout", "300", "--require-full-mapping"]
    assert program.main([str(model), "--ci", *options]) == 0
    text = (clone / ".github" / "workflows" / "compile-edgetpu.yml").read_text()
    command = next(line for line in text.splitlines() if "convert/compile.py" in line and "run:" in line)
    words = shlex.split(json.loads(command.split("run: ")[1]))
    assert "my model's.tflite" in words
    assert {"--docker", *options} <= set(words)


def test_ci_refuses_what_will_not_map(clone, leaky_chain):
    assert program.main([str(leaky_chain), "--ci", "--require-full-mapping"]) == 1
    assert not (clone / ".github").exists()


def test_ci_wants_a_clone(relu_chain, tmp_path, capsys):
    assert program.main([str(relu_chain), "--ci"]) == 2
    assert "no git repository" in capsys.readouterr().err
    (tmp_path / ".git").mkdir()
    assert program.main([str(relu_chain), "--ci"]) == 2
    assert "no clone of Omokage" in capsys.readouterr().err


def test_the_template_is_whole():
    text = workflow.TEMPLATE.read_text()
    assert text.isascii()
    assert "${{" not in text  # nothing of a model's name may reach an expression of GitHub's
    assert (
        set(workflow.Template(text).get_identifiers()) == {"paths", "command", "artifact", "out"} if sys.version_info >= (3, 11) else True
    )


# --- real models, and the real compiler where it is -----------------------------------------------------------------------

PAIRS = {"gc_mobilenet_v1_0.25_128_quant": "all", "mfn_model_with_mask_clf": "all", "gc_deeplabv3_mnv2_dm05_pascal_quant": "part"}


@pytest.fixture(params=["stand-in", "real"])
def compile_pair(request, data, stand_in, bin_):
    """compile_pair(name): the source of a pair; a compiler is on PATH that makes its compiled file, or is Google's own."""

    def make(name: str) -> Path:
        folder = data / "edgetpu" / "pairs" / name
        if request.param == "stand-in":
            stand_in(SUCCESS, outputs={"model_edgetpu.tflite": folder / "model_edgetpu.tflite"})
        return folder / "model.tflite"

    if request.param == "real" and shutil.which(compiler.COMPILER) is None:
        pytest.skip("edgetpu_compiler is not on PATH")
    return make


@pytest.mark.parametrize("name", PAIRS)
def test_real_models(compile_pair, name, tmp_path, capsys, data):
    model = compile_pair(name)
    assert program.main([str(model), "--json", "--out", str(tmp_path / "out")]) == 0
    report = json.loads(capsys.readouterr().out)
    truth = json.loads((data / "edgetpu" / "ground_truth.json").read_text())[name]
    assert report["subgraphs"] == 1
    assert len(report["cpu_operations"]) == truth["n_cpu"]
    assert program.main([str(model), "--require-full-mapping", "--out", str(tmp_path / "whole")]) == {"all": 0, "part": 1}[PAIRS[name]]


@pytest.mark.skipif(shutil.which(compiler.COMPILER) is None, reason="edgetpu_compiler is not on PATH")
def test_the_real_compiler_compiles_the_shipped_bundle(bundle_path, tmp_path):
    assert program.main([str(bundle_path), "--out", str(tmp_path / "out")]) == 0
    assert bundle.load(tmp_path / "out").manifest["edgetpu"]["compiler"]
