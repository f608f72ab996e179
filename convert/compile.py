"""Compiles an int8 TFLite model for the Edge TPU with Google's edgetpu_compiler, and judges what the compiler made.

Checks the model first and refuses it where an operation would stay on the CPU, unless --partial says that this is meant.
A model gets MODEL_edgetpu.tflite and the compiler's log beside it, or in --out. A bundle is never changed in place: a copy
of it that holds encoder_edgetpu.tflite is written to --out (default build/compiled/NAME-edgetpu).

example:
  python convert/compile.py encoder.tflite --out build
  python convert/compile.py models/simsiam-fused
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from convert import check, rules, tflite_graph
from device import bundle
from device.program import HOLDS_NOT, InputError, MissingError, OmokageError, Parser, replacing, run

COMPILER = "edgetpu_compiler"
SECONDS = 600  # the compiler's own limit is 180 s per attempt
SMALLEST = 8192  # bytes; a failed run may leave a stub of about 1 KB, one instruction package alone is longer
FIGURES = ("On-chip memory used", "On-chip memory remaining", "Off-chip memory used")  # lines of the compiler that are shown

SMALLER = "make its largest layers or its input smaller, or leave operations out from the end until it compiles"
# What the compiler prints when it fails -> what that means and how to mend it; the first that is found counts.
FAILURES = (
    (r"Model not quantized", "the model is not quantised", rules.QUANTISE),
    (
        r"Didn't find op for builtin opcode '(\w+)' version '(\d+)'",
        r"the compiler does not read \1 version \2",
        "convert with an older TensorFlow (2.8 or before), or write the layer with simpler operations",
    ),
    (r"Op builtin_code out of range: (\d+)", r"the compiler does not know builtin operation \1", "use operations of Coral's table"),
    (r"unresolved custom op: (\w+)", r"the compiler does not know the custom operation \1", "use TFLite's builtin operations"),
    (r"static-sized tensors", "a shape of the model is not static", rules.STATIC),
    (r"large activation tensors", "the activations of the model are too large", rules.CHEAPER),
    (r"Edge TPU subgraphs: 0\b", "the compiler mapped nothing", "see what check.py says of the model"),
    (r"Segmentation fault", "the compiler crashed", SMALLER),
    (r"Internal compiler error", "the compiler gave up without a reason", "run it once more, it may succeed; if not, see check.py"),
    (r"", "the compiler gave up without a reason", SMALLER),
)


class CompileError(OmokageError):
    """The compiler made no usable file of a model that can be read."""

    status = HOLDS_NOT


@dataclass(frozen=True)
class Compiled:
    """What the compiler made; `figures` are its lines about memory, `on_cpu` the operations that it did not map."""

    model: bytes
    log: bytes
    figures: tuple[str, ...]
    on_cpu: tuple[str, ...]


def main(argv: list[str] | None = None) -> int:
    parser = Parser(__doc__)
    parser.add_argument("model", metavar="MODEL|BUNDLE", help="a .tflite file, a bundle's folder or its name in models/")
    parser.add_argument("--out", type=Path, metavar="DIR", help="the folder to write to")
    parser.add_argument("--partial", action="store_true", help="compile although operations stay on the CPU")
    parser.add_argument("--timeout", type=int, default=SECONDS, metavar="SECONDS", help="stop the compiler after this time (%(default)s)")
    return run(_main, parser, argv)


def _main(args: argparse.Namespace) -> int:
    source, found = check.source_of(args.model)
    folder = args.out or (Path("build") / "compiled" / f"{found.name}-edgetpu" if found else source.parent)
    if found:
        _refuse_bundles(found, folder)
    report = check.check(source)
    if report["maps"] != "all" and not args.partial:
        print(check.table(report))
        print("compile: not every operation maps: mend the model, or accept it with --partial", file=sys.stderr)
        return HOLDS_NOT
    compiled = compile_model(source, args.timeout)
    if compiled.on_cpu and not args.partial:
        names = ", ".join(sorted(set(compiled.on_cpu)))
        raise CompileError(f"the compiler left {len(compiled.on_cpu)} operations on the CPU ({names})", "mend the model, or use --partial")
    if found:
        write_bundle(found, compiled, folder)
        print(f"{folder}: {_summary(compiled)}\nuse it with --encoder {folder}, or move it to {bundle.MODELS.name}/ to ship it")
    else:
        target = folder / f"{source.stem}_edgetpu.tflite"
        _write(target.with_suffix(".log"), compiled.log)
        _write(target, compiled.model)
        print(f"{target}: {_summary(compiled)}")
    return 0


def compile_model(source: Path, seconds: int = SECONDS) -> Compiled:
    """Run edgetpu_compiler on the model file `source`, for `seconds` at most.

    Raises MissingError where there is no compiler, CompileError where it fails, crashes, hangs or makes nothing of use.
    """
    compiler = shutil.which(COMPILER)
    if compiler is None:
        wrong = f"{COMPILER} is not on PATH"
        raise MissingError(wrong, "on x86-64 Linux install Google's apt package edgetpu-compiler, elsewhere use it in Docker or on Colab")
    with tempfile.TemporaryDirectory(prefix="omokage-compile-") as name:
        model = Path(name) / f"{source.stem}.tflite"
        shutil.copyfile(source, model)
        status, transcript = _run([compiler, "--show_operations", "--out_dir", name, str(model)], seconds)
        output = model.with_name(f"{model.stem}_edgetpu.tflite")
        try:
            return _judged(status, transcript, output)
        except CompileError:
            print(transcript, file=sys.stderr)
            raise


def _run(command: list[str], seconds: int) -> tuple[int, str]:
    """(exit status, everything printed). The compiler is a script around a program: they end together, whatever happens."""
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        )
    except OSError as error:
        raise MissingError(f"{COMPILER} cannot run here ({error.strerror})", "it runs on x86-64 Linux only") from error
    with process:
        try:
            printed, _ = process.communicate(timeout=seconds)
        except BaseException as error:  # out of time, or interrupted
            os.killpg(process.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired):
                raise CompileError(f"{COMPILER} did not end within {seconds} s", "raise --timeout, or make the model smaller") from error
            raise
    return process.returncode, printed.decode("utf-8", "replace")


def _judged(status: int, transcript: str, output: Path) -> Compiled:
    """The compiler's words do not suffice: it may say "successfully" with nothing mapped, and leave a stub when it fails."""
    if status != 0 or not output.is_file():
        raise _failure(status, transcript)
    try:
        model = tflite_graph.read(output)
    except InputError as error:
        raise CompileError(f"the compiler wrote an unreadable file ({error.wrong})", SMALLER) from error
    if not model.compiled or output.stat().st_size < SMALLEST:
        raise _failure(status, transcript)
    log = output.with_suffix(".log")
    return Compiled(
        model=output.read_bytes(),
        log=log.read_bytes() if log.is_file() else transcript.encode(),
        figures=tuple(line for line in transcript.splitlines() if line.startswith(FIGURES)),
        on_cpu=tuple(operation.name for graph in model.graphs for operation in graph.operations if operation.name != tflite_graph.EDGETPU),
    )


def _failure(status: int, transcript: str) -> CompileError:
    if status in (139, -signal.SIGSEGV):
        transcript += "\nSegmentation fault"  # which only the shell of the compiler's script prints
    match, wrong, mend = next((match, wrong, mend) for pattern, wrong, mend in FAILURES if (match := re.search(pattern, transcript)))
    return CompileError(f"{match.expand(wrong)} (exit status {status})", mend)


def _refuse_bundles(source: bundle.Bundle, folder: Path) -> None:
    if (source.path / bundle.ENCODER_EDGETPU).exists():
        raise InputError(f"{source.path} is already compiled for the Edge TPU", "use it as it is")
    if folder.exists():
        raise InputError(f"{folder} exists, and a bundle is never changed in place", "name another folder with --out")


def write_bundle(source: bundle.Bundle, compiled: Compiled, folder: Path) -> None:
    """A copy of `source` in `folder`, under its name and `-edgetpu`, with the compiled encoder and the compiler's log."""
    log = Path(bundle.ENCODER_EDGETPU).with_suffix(".log").name
    facts = {key: value for key, value in source.manifest.items() if key not in ("schema", "encoder", "files")}
    with tempfile.TemporaryDirectory() as name:
        files = [source.path / file for file in source.manifest["files"]]
        for file, content in {bundle.ENCODER_EDGETPU: compiled.model, log: compiled.log}.items():
            files.append(Path(name) / file)
            files[-1].write_bytes(content)
        bundle.write(folder, files, facts | {"name": f"{source.name}-edgetpu"})


def _write(path: Path, content: bytes) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def _summary(compiled: Compiled) -> str:
    mapped = f"{len(compiled.on_cpu)} operations on the CPU" if compiled.on_cpu else "everything runs on the Edge TPU"
    return "\n  ".join((mapped, *compiled.figures))


if __name__ == "__main__":
    sys.exit(main())
