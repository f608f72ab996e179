"""Says for every operation of a TFLite model whether it runs on the Edge TPU, if not why, how to mend it, and what it costs.

Reads the file only: no compiler, no TensorFlow, no Edge TPU. Times and memory are estimates (docs/estimates.md says how good).
Exit status 0 when everything maps, 1 when not.

example:
  python convert/check.py encoder.tflite
  python convert/check.py models/simsiam-fused --html check.html
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from convert import cost, rules, tflite_graph
from convert.tflite_graph import Graph, Operation
from device import bundle
from device.program import HOLDS_NOT, InputError, Parser, replacing, run

REFUSED = rules.Finding("the compiler refuses the file")
ELSEWHERE = rules.Finding("it is not in the main subgraph, the compiler maps that one alone", "leave out control flow (if, while)")
HEADLINES = {"all": "everything maps", "part": "a part maps", "none": "nothing maps"}
HOSTS = {"usb3": "USB 3 on a desktop", "usb2": "USB 2 on a Pi 3", "pcie": "PCIe on the Dev Board", "pi4": "USB 3 on a Pi 4"}
SHOWN = "usb3"  # whose times the table tells per operation


def main(argv: list[str] | None = None) -> int:
    parser = Parser(__doc__)
    parser.add_argument("model", nargs="+", metavar="MODEL|BUNDLE", help="a .tflite file, a bundle's folder or its name in models/")
    parser.add_argument("--json", action="store_true", help="one JSON object per model, one a line")
    parser.add_argument("--html", type=Path, metavar="FILE", help="also write a page with the graph, coloured by where it runs")
    return run(_main, parser, argv)


def _main(args: argparse.Namespace) -> int:
    reports = [check(source_of(argument)[0]) for argument in args.model]
    for report in reports:
        print(json.dumps(report) if args.json else table(report))
    if args.html:
        _write_page(args.html, reports)
    return 0 if all(report["maps"] == "all" for report in reports) else HOLDS_NOT


def _write_page(path: Path, reports: list[dict[str, Any]]) -> None:
    from convert import page  # here: it takes what it tells from this module

    with replacing(path) as temporary:
        temporary.write_text(page.page(reports), "utf-8", "backslashreplace")


def source_of(argument: str) -> tuple[Path, bundle.Bundle | None]:
    """The model file that `argument` names, and the bundle whose encoder it is (named by its folder, or its name in models/).

    A detector's bundle is named so too; its model stands for itself.
    """
    path = Path(argument)
    if path.is_file() or path.suffix == ".tflite":
        return path, None
    for folder in (path, bundle.MODELS / path.name):
        if (folder / bundle.DETECTOR).is_file():
            return bundle.load_detector(folder).model, None
    found = bundle.find(argument)
    return found.path / bundle.ENCODER, found


def check(path: Path) -> dict[str, Any]:
    """The verdict on the model file `path`, as docs/design.md's contract check.schema.json has it.

    Raises InputError where the file is no TFLite model, damaged, or compiled already.
    """
    model = tflite_graph.read(path)
    if model.compiled:
        source = path.name.replace("_edgetpu", "") if "_edgetpu" in path.name else "the .tflite that edgetpu_compiler was given"
        raise InputError(f"{path} is already compiled for the Edge TPU", f"name its source ({source}), or see audit.py")
    refusals = rules.refusals(model)
    findings = [_findings(graph, bool(refusals)) for graph in model.graphs]
    operations = [
        _told(graph, operation, finding)
        for graph, found in zip(model.graphs, findings, strict=True)
        for operation, finding in zip(graph.operations, found, strict=True)
    ]
    targets = {str(operation["target"]) for operation in operations}
    report = {
        "model": str(path),
        "sha256": model.sha256,
        "maps": "part" if len(targets) == 2 else {"tpu": "all", "cpu": "none"}[targets.pop()],
        "blockers": [{"reason": refusal.reason, "fix": refusal.fix} for refusal in refusals],
        "operations": operations,
    }
    return report if refusals else report | _costs(model.graphs[0], findings[0], operations)


def _findings(graph: Graph, refused: bool) -> list[rules.Finding | None]:
    if refused:
        return [rules.obstacle(graph, operation) or REFUSED for operation in graph.operations]
    if graph.index > 0:
        return [rules.obstacle(graph, operation) or ELSEWHERE for operation in graph.operations]
    return rules.place(graph)


def _told(graph: Graph, operation: Operation, finding: rules.Finding | None) -> dict[str, Any]:
    return {
        "index": operation.index,
        "subgraph": graph.index,
        "name": operation.name,
        "target": "cpu" if finding else "tpu",
        "reason": finding.reason if finding else None,
        "fix": finding.fix if finding else None,
        "after": sorted({graph.makers[index] for index in operation.inputs if index in graph.makers}),
        "outputs": [{"shape": tensor.shape, "type": tensor.type} for tensor in graph.of(operation.outputs)],
    }


def _costs(graph: Graph, findings: list[rules.Finding | None], operations: list[dict[str, Any]]) -> dict[str, Any]:
    """Memory and latency of the main subgraph; what each operation costs goes into `operations`, which begin with its own."""
    estimate = cost.estimate(graph, [finding is None for finding in findings])
    for told, each in zip(operations, estimate.operations, strict=False):
        told["ms"] = {name: _ms(each.seconds(host)) for name, host in cost.HOSTS.items()}
        told |= {"macs": each.macs, "parameters": each.parameters, "streamed": each.streamed, "activations": each.activations}
    times = {name: estimate.latency(host) for name, host in cost.HOSTS.items()}
    return {
        "memory": asdict(estimate.memory),
        "latency_ms": {name: {key: _ms(seconds) for key, seconds in asdict(time).items()} for name, time in times.items()},
    }


def _ms(seconds: float) -> float:
    return round(1e3 * seconds, 4)


def table(report: dict[str, Any]) -> str:
    """The report for a terminal: a line per operation, its reason and fix, what it all costs, the verdict last."""
    operations = report["operations"]
    width = max(len(name) for name in ("operation", *(operation["name"] for operation in operations)))
    lines = [f"{report['model']}", f"   #  {'operation':{width}}  on       ms  why it is not on the Edge TPU"]
    for operation in operations:
        reason = f"  {operation['reason']}" if operation["reason"] else ""
        milliseconds = f"{operation['ms'][SHOWN]:7.3f}" if "ms" in operation else f"{'':7}"
        lines.append(f"{operation['index']:4}  {operation['name']:{width}}  {operation['target'].upper()}  {milliseconds}{reason}")
        if operation["fix"]:
            lines.append(f"{'':{width + 22}}fix: {operation['fix']}")
    for blocker in report["blockers"]:
        lines.append(f"the compiler refuses this file: {blocker['reason']}")
        if blocker["fix"]:
            lines.append(f"  fix: {blocker['fix']}")
    lines += summary(report)
    mapped = sum(operation["target"] == "tpu" for operation in operations)
    lines.append(f"{HEADLINES[report['maps']]}: {mapped} of {len(operations)} operations on the Edge TPU")
    return "\n".join(lines)


def summary(report: dict[str, Any]) -> list[str]:
    """What the model costs, in words; empty where the compiler refuses it."""
    if "memory" not in report:
        return []
    memory = report["memory"]
    held = {key: size(value) for key, value in memory.items()}
    streamed = f"{held['streamed']} of them streamed in every inference" if memory["streamed"] else "all stay on the chip"
    times = ", ".join(
        f"{HOSTS[name]} {time['estimate']:.1f} ms ({time['low']:.1f} to {time['high']:.1f})" for name, time in report["latency_ms"].items()
    )
    return [
        f"memory, estimated: {held['parameters']} of parameters, {streamed}; they take {held['occupied']} of the {held['available']}"
        f" that activations (up to {held['activations']}) leave; {held['executable']} of instructions",
        f"an inference, estimated: {times}; the column is of {HOSTS[SHOWN]}",
    ]


def size(count: int) -> str:
    """A number of bytes for people."""
    if count >= 2**20:
        return f"{count / 2**20:.2f} MiB"
    return f"{count / 2**10:.1f} KiB" if count >= 2**10 else f"{count} B"


if __name__ == "__main__":
    sys.exit(main())
