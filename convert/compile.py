"""Compiles int8 TFLite models for the Edge TPU with Google's edgetpu_compiler, and judges what the compiler made.

Checks the model first, then runs the compiler of this machine, or the one in a Docker image (--docker: Mac, Windows, Raspberry
Pi), or writes a GitHub Actions workflow that does so (--ci: no compiler, no Docker). A model gets MODEL_edgetpu.tflite and the
compiler's log beside it, or in --out. A bundle is never changed in place: a copy with encoder_edgetpu.tflite is written to --out
(default build/compiled/NAME-edgetpu). Models that are named together share the Edge TPU's memory, the first has precedence.

example:
  python convert/compile.py models/simsiam-fused
  python convert/compile.py models/simsiam-fused --docker
  python convert/compile.py models/simsiam-fused --ci
  python convert/compile.py detector.tflite models/simsiam-fused
"""

import argparse
import contextlib
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convert import audit, check, compiler, compiler_log, workflow
from convert.compiler_log import CompileError
from device import bundle
from device.program import HOLDS_NOT, InputError, OmokageError, Parser, replacing, run

SMALLEST = 8192  # bytes; a failed run may leave a stub of about 1 KB, an empty package alone is longer
ATTEMPTS = 2  # where the failure is a flaky one


@dataclass(frozen=True)
class Compiled:
    """A file `name` that the compiler, of this `version`, made; `found` is what audit.py says of it."""

    name: str
    model: bytes
    log: bytes
    found: dict[str, Any]
    version: str | None

    @property
    def log_name(self) -> str:
        return Path(self.name).with_suffix(".log").name

    @property
    def on_cpu(self) -> list[str]:
        """The names of the operations that the compiler left on the CPU."""
        return [operation["name"] for operation in self.found["cpu_operations"]]


def main(argv: list[str] | None = None) -> int:
    parser = Parser(__doc__)
    parser.add_argument("model", nargs="+", metavar="MODEL|BUNDLE", help=".tflite files, or a bundle's folder or its name in models/")
    parser.add_argument("--out", type=Path, metavar="DIR", help="the folder to write to; where a bundle is compiled, the new bundle")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--docker", action="store_true", help=f"run it in Docker; builds the image {compiler.IMAGE} once (from the network)")
    where.add_argument("--ci", action="store_true", help=f"write {workflow.PATH}, which compiles on GitHub, instead of compiling")
    parser.add_argument(
        "--require-full-mapping",
        action=argparse.BooleanOptionalAction,
        help="write nothing and exit with 1 where an operation stays on the CPU (the default where a bundle is compiled)",
    )
    parser.add_argument("--segments", type=int, metavar="N", help="cut the model into N parts, for a pipeline of N Edge TPUs")
    parser.add_argument(
        "--timeout",
        type=int,
        default=compiler.OWN_LIMIT,
        metavar="SECONDS",
        help="stop the compiler after this time (%(default)s; more needs version 16)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object per compiled file, one a line, as of audit.py")
    return run(_main, parser, argv)


def _main(args: argparse.Namespace) -> int:
    models, source = sources_of(args.model, args.segments)
    whole = args.require_full_mapping if args.require_full_mapping is not None else source is not None
    if source and not args.ci:
        _refuse_bundles(source, _new_bundle(source, args.out))
    if not _promising([check.check(model) for model in models], whole):
        return HOLDS_NOT
    if args.ci:
        path = workflow.write([source.path if source and model.parent == source.path else model for model in models], _options(args))
        print(f"{path}: commit and push it, then {workflow.NEXT}")
        return 0
    runner = compiler.run_docker if args.docker else compiler.run_local
    compiled = compile_models(models, args.segments, args.timeout, runner)
    for each in compiled:
        _tell_surprises(each)
    if whole:
        _require_all(compiled)
    paths = _write_bundle(source, models, compiled, args.out) if source else _write_files(models, compiled, args.out)
    for path, each in zip(paths, compiled, strict=True):
        print(json.dumps(audit.audit(path)) if args.json else f"{path}: {_summary(each)}")
    if source and not args.json:
        folder = _new_bundle(source, args.out)
        print(f"use it with --encoder {folder}, or move it to {bundle.MODELS.name}/ to ship it")
    return 0


def sources_of(arguments: Sequence[str], segments: int | None) -> tuple[list[Path], bundle.Bundle | None]:
    """The model files that are named on the command line, and the bundle whose encoder one of them is.

    Raises InputError where they cannot be compiled together.
    """
    found = [check.source_of(argument) for argument in arguments]
    models, bundles = [model for model, _ in found], [each for _, each in found if each]
    if len({model.stem for model in models}) < len(models):
        raise InputError("two of the models have the same name, and so would have their results", "rename one of them")
    if len(bundles) > 1:
        raise InputError("two bundles cannot be compiled together", f"name the {bundle.ENCODER} of one of them instead")
    if segments is not None and (segments < 2 or len(models) > 1):
        raise InputError("--segments wants one model and 2 or more parts", "name one model")
    if segments is not None and bundles:
        raise InputError("a bundle holds one encoder, not parts of one", f"name its {bundle.ENCODER} to compile it with --segments")
    return models, bundles[0] if bundles else None


def compile_models(models: Sequence[Path], segments: int | None, seconds: int, runner: compiler.Runner) -> list[Compiled]:
    """Run edgetpu_compiler on `models` together, each attempt for `seconds` at most; `segments` cuts a single model.

    Raises MissingError where there is no compiler, CompileError where it fails, crashes, hangs or makes nothing of use. A
    failure that is known to pass is tried again once.
    """
    options = ["--show_operations", "--out_dir", "."]
    options += ["--timeout_sec", str(seconds)] if seconds > compiler.OWN_LIMIT else []  # versions before 16 do not know it
    options += ["--num_segments", str(segments)] if segments else []
    names = [f"{model.stem}_edgetpu.tflite" for model in models]
    if segments:
        names = [f"{models[0].stem}_segment_{i}_of_{segments}_edgetpu.tflite" for i in range(segments)]
    for attempt in range(1, ATTEMPTS + 1):
        with tempfile.TemporaryDirectory(prefix="omokage-compile-") as name:
            folder = Path(name)
            for model in models:
                shutil.copyfile(model, folder / f"{model.stem}.tflite")
            status, transcript = runner([*options, *(f"{model.stem}.tflite" for model in models)], folder, seconds)
            failure = compiler_log.explain(transcript, status)
            try:
                return [_judged(status, transcript, folder / name) for name in names]
            except OmokageError:
                if failure.flaky and attempt < ATTEMPTS:
                    print(f"compile: {failure.wrong}, which may pass: trying once more", file=sys.stderr)
                    continue
                print(transcript, file=sys.stderr)
                raise
    raise AssertionError("the last attempt returns or raises")


def _judged(status: int, transcript: str, output: Path) -> Compiled:
    """The compiler's words do not suffice: it may say "successfully" with nothing mapped, and leave a stub when it fails."""
    if status != 0 or not output.is_file() or output.stat().st_size < SMALLEST:
        failure = compiler_log.explain(transcript, status)
        raise failure.error(f"{failure.wrong} (exit status {status})", failure.mend)
    try:
        found = audit.audit(output)
    except InputError as error:
        raise CompileError(f"the compiler wrote an unreadable file ({error.wrong})", compiler_log.SMALLER) from error
    if not found["compiled"]:
        raise CompileError(compiler_log.NOTHING.wrong, compiler_log.NOTHING.mend)
    log = output.with_suffix(".log")
    return Compiled(
        name=output.name,
        model=output.read_bytes(),
        log=log.read_bytes() if log.is_file() else transcript.encode(),
        found=found,
        version=compiler_log.parse(transcript).version,
    )


def _promising(expected: list[dict[str, Any]], whole: bool) -> bool:
    """Whether the compiler is worth running, by what check.py expects; what will not map is told."""
    partly = [report for report in expected if report["maps"] != "all"]
    for report in partly:
        print(check.table(report), file=sys.stderr)
    if partly and whole:
        print("compile: not every operation maps: mend the model, or accept it with --no-require-full-mapping", file=sys.stderr)
    return not (partly and whole)


def _require_all(compiled: list[Compiled]) -> None:
    left = [name for each in compiled for name in each.on_cpu]
    if left:
        wrong = f"the compiler left {len(left)} operations on the CPU ({', '.join(sorted(set(left)))})"
        raise CompileError(wrong, "mend the model, or accept it with --no-require-full-mapping")


def _refuse_bundles(source: bundle.Bundle, folder: Path) -> None:
    if (source.path / bundle.ENCODER_EDGETPU).exists():
        raise InputError(f"{source.path} is already compiled for the Edge TPU", "use it as it is")
    if folder.exists():
        raise InputError(f"{folder} exists, and a bundle is never changed in place", "name another folder with --out")


def _new_bundle(source: bundle.Bundle, out: Path | None) -> Path:
    return out or Path("build", "compiled", f"{source.name}-edgetpu")


def _write_bundle(source: bundle.Bundle, models: list[Path], compiled: list[Compiled], out: Path | None) -> list[Path]:
    """A copy of `source`, under its name and `-edgetpu`, with all that was compiled, the logs, and the facts of it.

    What was compiled together stays together: each model relies on the cache as the others leave it. By the sha256 of its source the
    device knows which model a compiled one may stand in for.
    """
    folder = _new_bundle(source, out)
    facts = {key: value for key, value in source.manifest.items() if key not in ("schema", "encoder", "files")}
    with tempfile.TemporaryDirectory() as name:
        files = [source.path / file for file in source.manifest["files"]]
        for each in compiled:
            for file, content in {each.name: each.model, each.log_name: each.log}.items():
                files.append(Path(name) / file)
                files[-1].write_bytes(content)
        told = {each.name: _facts(each) | {"source": bundle.sha256(model)} for model, each in zip(models, compiled, strict=True)}
        edgetpu = {"compiler": compiled[0].version, "models": told}
        bundle.write(folder, files, facts | {"name": f"{source.name}-edgetpu", "edgetpu": edgetpu})
    return [folder / each.name for each in compiled]


def _facts(compiled: Compiled) -> dict[str, Any]:
    return {key: compiled.found[key] for key in ("runtime", "on_chip", "streamed")} | {"cpu_operations": len(compiled.on_cpu)}


def _write_files(models: list[Path], compiled: list[Compiled], folder: Path | None) -> list[Path]:
    """Write what was compiled and the logs into `folder`, or beside the models: all of them, or none."""
    folders = [folder or model.parent for model in models]
    folders = folders if len(folders) == len(compiled) else folders * len(compiled)  # the segments of one model
    with contextlib.ExitStack() as whole:
        for place, each in zip(folders, compiled, strict=True):
            for file, content in {each.log_name: each.log, each.name: each.model}.items():
                whole.enter_context(replacing(place / file)).write_bytes(content)
    return [place / each.name for place, each in zip(folders, compiled, strict=True)]


def _options(args: argparse.Namespace) -> list[str]:
    """The options that a workflow passes on."""
    options = [] if args.require_full_mapping is None else [f"--{'' if args.require_full_mapping else 'no-'}require-full-mapping"]
    options += ["--segments", str(args.segments)] if args.segments else []
    return options + (["--timeout", str(args.timeout)] if args.timeout != compiler.OWN_LIMIT else [])


def _summary(compiled: Compiled) -> str:
    names = ", ".join(sorted(set(compiled.on_cpu)))
    mapped = f"{len(compiled.on_cpu)} operations on the CPU ({names})" if names else "everything runs on the Edge TPU"
    cached, streamed = (check.size(compiled.found[key]) for key in ("on_chip", "streamed"))
    return f"{mapped}; {cached} of parameters cached, {streamed} streamed in every inference; compiler {compiled.version}"


def _tell_surprises(compiled: Compiled) -> None:
    """Where the compiler did otherwise than check.py expected."""
    for each in compiled.found.get("expected", {}).get("differences", []):
        told = f"{compiled.name}: operation {each['index']} ({each['name']})"
        print(f"compile: {told} is on the {each['found'].upper()}, check.py was wrong", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
