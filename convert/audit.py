"""Says what edgetpu_compiler made of a model: what it left on the CPU, what it caches on the chip, what it streams.

Reads the file itself, and holds it against what check.py expects of the source and against the compiler's log, where they lie
beside it. Exit status 0 when everything runs on the Edge TPU and all three agree, 1 when not.

example:
  python convert/audit.py encoder_edgetpu.tflite
  python convert/audit.py compiled.tflite --source encoder.tflite --log compiled.log --json
"""

import argparse
import json
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convert import check, compiler_log, executable, tflite_graph
from convert.executable import PARAMETER_CACHING, Executable, Package
from convert.tflite_graph import Graph, Model, Operation
from device.program import HOLDS_NOT, InputError, Parser, run

# Which versions of edgetpu_compiler write files for a runtime, newest first: the file does not name its own (100 public files).
COMPILERS = ((14, "16.0"), (13, "2.0 to 15.0, or 16.0 with -m 13"), (12, "2.0 to 15.0"), (0, "1.0"))
SUFFIX = "_edgetpu"  # that the compiler puts behind the name of the source


@dataclass(frozen=True)
class Compiled:
    """A compiled file. Without packages it is an ordinary model: nothing of it runs on the Edge TPU."""

    model: Model
    packages: tuple[Package, ...]  # one per Edge TPU subgraph, in execution order

    @property
    def subgraphs(self) -> int:
        return len(self.packages)

    @property
    def cpu_operations(self) -> list[Operation]:
        """Those that the compiler left as they were, in execution order."""
        return [each for graph in self.model.graphs for each in graph.operations if not tflite_graph.compiled(each)]

    @property
    def runtime(self) -> int | None:
        """The oldest runtime version that loads the file; None where nothing was compiled."""
        return max((package.runtime for package in self.packages), default=None)

    @property
    def compiler(self) -> str | None:
        """Which versions of edgetpu_compiler write such files."""
        return next((versions for runtime, versions in COMPILERS if self.runtime is not None and self.runtime >= runtime), None)

    @property
    def cached(self) -> int:
        """Bytes of parameters that stay in the chip's memory between inferences."""
        return sum(program.parameters for program in self.programs if program.kind == PARAMETER_CACHING)

    @property
    def streamed(self) -> int:
        """Bytes of parameters that go to the chip in every inference."""
        return sum(program.parameters for program in self._run)

    @property
    def instructions(self) -> int:
        """Bytes that go to the chip in every inference, too."""
        return sum(program.instructions for program in self._run)

    @property
    def narrow_memory(self) -> int:
        """Bytes of activations per tile at most."""
        return max((program.narrow_memory for program in self.programs), default=0)

    @property
    def programs(self) -> list[Executable]:
        return [program for package in self.packages for program in package.executables]

    @property
    def _run(self) -> list[Executable]:
        """The executables that run in every inference."""
        return [program for program in self.programs if program.kind != PARAMETER_CACHING]


def read(path: Path) -> Compiled:
    """Read the model file `path`. Raises InputError where it is missing, no TFLite model, or damaged."""
    model = tflite_graph.read(path)
    packages = []
    for graph in model.graphs:
        for operation in graph.operations:
            if tflite_graph.compiled(operation):
                try:
                    packages.append(executable.package_of(operation.custom_options))
                except ValueError as error:
                    raise InputError(f"{path} is damaged: operation {operation.index}: {error}", "compile the model again") from error
    return Compiled(model, tuple(packages))


def placed(source: Graph, compiled: Compiled) -> list[str]:
    """Per operation of `source`, in execution order, where the compiled file has it: "tpu" or "cpu".

    An operation that the compiler left is known by its name and those of its outputs; where it gave the outputs new names, by
    its name and their shapes, the last such operation first.
    """
    left = compiled.model.graphs[0]
    named = Counter(_names(left, operation) for operation in compiled.cpu_operations)
    on_cpu = {operation.index for operation in source.operations if _taken(named, _names(source, operation))}
    found = {_names(source, source.operations[index]) for index in on_cpu}
    shaped = Counter(_shapes(left, operation) for operation in compiled.cpu_operations if _names(left, operation) not in found)
    for operation in reversed(source.operations):
        if operation.index not in on_cpu and _taken(shaped, _shapes(source, operation)):
            on_cpu.add(operation.index)
    return ["cpu" if operation.index in on_cpu else "tpu" for operation in source.operations]


def _names(graph: Graph, operation: Operation) -> tuple[str, ...]:
    return operation.name, *(tensor.name for tensor in graph.of(operation.outputs))


def _shapes(graph: Graph, operation: Operation) -> tuple[Any, ...]:
    return operation.name, *(tensor.shape for tensor in graph.of(operation.outputs))


def _taken(counted: Counter, key: tuple[Any, ...]) -> bool:
    """Whether one of `key` was left in `counted`, which then has one less."""
    if counted[key] < 1:
        return False
    counted[key] -= 1
    return True


def audit(path: Path, source: Path | None = None, log: Path | None = None) -> dict[str, Any]:
    """The facts of the compiled file `path`, as docs/design.md's contract audit.schema.json has them.

    `source` and `log` default to what lies beside it under the compiler's names, where that is there. Raises InputError where a
    file cannot be read.
    """
    found = read(path)
    source, log = source or _source_of(path), log or _log_of(path)
    report: dict[str, Any] = {
        "model": str(path),
        "sha256": found.model.sha256,
        "compiled": found.subgraphs > 0,
        "compiler": found.compiler,
        "runtime": None if found.runtime is None else str(found.runtime),
        "subgraphs": found.subgraphs,
        "cpu_operations": [{"index": operation.index, "name": operation.name} for operation in found.cpu_operations],
        "on_chip": found.cached if found.subgraphs else None,
        "streamed": found.streamed if found.subgraphs else None,
        "instructions": found.instructions if found.subgraphs else None,
        "narrow_memory": found.narrow_memory if found.subgraphs else None,
    }
    if source:
        report["expected"] = _expected(found, source)
    if log:
        report["log"] = _logged(found, log)
        report["compiler"] = report["log"]["compiler"] or report["compiler"]
    return report


def _source_of(path: Path) -> Path | None:
    source = path.with_name(path.name.replace(SUFFIX, ""))
    return source if source != path and source.is_file() else None


def _log_of(path: Path) -> Path | None:
    log = path.with_suffix(".log")
    return log if log.is_file() else None


def _expected(found: Compiled, source: Path) -> dict[str, Any]:
    """What check.py says of `source`, and the operations that the file has elsewhere. Indices are those of the source."""
    report = check.check(source)
    told = [operation for operation in report["operations"] if operation["subgraph"] == 0]
    true = placed(tflite_graph.read(source).graphs[0], found)
    differences = [
        {"index": operation["index"], "name": operation["name"], "expected": operation["target"], "found": place}
        for operation, place in zip(told, true, strict=True)
        if operation["target"] != place
    ]
    return {"source": str(source), "operations": len(told), "differences": differences, "memory": report.get("memory")}


def _logged(found: Compiled, log: Path) -> dict[str, Any]:
    """What the log says stayed on the CPU, by kind of operation, against what is in the file."""
    try:
        said = compiler_log.parse(log.read_text("utf-8", "replace"))
    except OSError as error:
        raise InputError(f"cannot read {log} ({error.strerror})", "name a file that may be read") from error
    counted = Counter({"CUSTOM" if each.custom else each.name: 0 for each in found.cpu_operations})
    counted.update("CUSTOM" if each.custom else each.name for each in found.cpu_operations)
    logged: Counter = Counter()
    for row in said.entries[-1].rows if said.entries else ():
        if not row.mapped:
            logged[row.operation] += row.count
    return {"log": str(log), "compiler": said.version, "cpu_operations": dict(logged), "agrees": +logged == +counted}


def holds(report: dict[str, Any]) -> bool:
    """Whether everything runs on the Edge TPU, as it was expected and logged."""
    whole = report["compiled"] and not report["cpu_operations"]
    expected = not report.get("expected", {}).get("differences")
    return bool(whole and expected and report.get("log", {}).get("agrees", True))


def table(report: dict[str, Any]) -> str:
    """The report for a terminal."""
    lines = [report["model"]]
    if not report["compiled"]:
        return "\n".join([*lines, "not compiled for the Edge TPU: all of it runs on the CPU"])
    held = {key: check.size(report[key]) for key in ("on_chip", "streamed", "instructions", "narrow_memory")}
    lines += [
        f"compiled by edgetpu_compiler {report['compiler']}; needs runtime {report['runtime']} or newer",
        f"parameters: {held['on_chip']} cached on the chip ({report['on_chip']:,} bytes), {held['streamed']} streamed in every inference"
        f" ({report['streamed']:,} bytes)",
        f"instructions: {held['instructions']}; activations: up to {held['narrow_memory']} a tile",
    ]
    lines += _comparisons(report)
    left = ", ".join(f"{operation['index']} {operation['name']}" for operation in report["cpu_operations"])
    subgraphs = f"{report['subgraphs']} Edge TPU subgraph{'s' if report['subgraphs'] > 1 else ''}"
    lines.append(f"{subgraphs}, {len(report['cpu_operations'])} operations on the CPU{': ' if left else ''}{left}")
    return "\n".join(lines)


def _comparisons(report: dict[str, Any]) -> list[str]:
    lines = []
    if "expected" in report:
        expected = report["expected"]
        right = expected["operations"] - len(expected["differences"])
        lines.append(f"check.py, of {expected['source']}: right on {right} of {expected['operations']} operations")
        for each in expected["differences"]:
            lines.append(f"  {each['index']} {each['name']}: expected on {each['expected'].upper()}, is on {each['found'].upper()}")
    if "log" in report:
        log = report["log"]
        verdict = "agrees" if log["agrees"] else f"is of another file: on the CPU it has {log['cpu_operations']}"
        lines.append(f"the log {log['log']} {verdict}")
    return lines


def main(argv: list[str] | None = None) -> int:
    parser = Parser(__doc__)
    parser.add_argument("model", type=Path, metavar="MODEL", help="a compiled .tflite file")
    parser.add_argument("--source", type=Path, metavar="MODEL", help="what it was compiled from (default: its name without _edgetpu)")
    parser.add_argument("--log", type=Path, metavar="FILE", help="the compiler's log (default: its name with .log)")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    return run(_main, parser, argv)


def _main(args: argparse.Namespace) -> int:
    report = audit(args.model, args.source, args.log)
    print(json.dumps(report) if args.json else table(report))
    return 0 if holds(report) else HOLDS_NOT


if __name__ == "__main__":
    sys.exit(main())
