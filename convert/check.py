"""Says for every operation of a TFLite model whether it runs on the Edge TPU, if not why, and how to mend it.

Reads the file only: no compiler, no TensorFlow, no Edge TPU. Exit status 0 when everything maps, 1 when not.

example:
  python convert/check.py encoder.tflite
  python convert/check.py models/simsiam-fused --json
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from convert import rules, tflite_graph
from device import bundle
from device.program import HOLDS_NOT, InputError, Parser, run

REFUSED = rules.Finding("the compiler refuses the file")
ELSEWHERE = rules.Finding("it is not in the main subgraph, the compiler maps that one alone", "leave out control flow (if, while)")
HEADLINES = {"all": "everything maps", "part": "a part maps", "none": "nothing maps"}


def main(argv: list[str] | None = None) -> int:
    parser = Parser(__doc__)
    parser.add_argument("model", nargs="+", metavar="MODEL|BUNDLE", help="a .tflite file, a bundle's folder or its name in models/")
    parser.add_argument("--json", action="store_true", help="one JSON object per model, one a line")
    return run(_main, parser, argv)


def _main(args: argparse.Namespace) -> int:
    status = 0
    for argument in args.model:
        report = check(source_of(argument)[0])
        print(json.dumps(report) if args.json else table(report))
        if report["maps"] != "all":
            status = HOLDS_NOT
    return status


def source_of(argument: str) -> tuple[Path, bundle.Bundle | None]:
    """The model file that `argument` names, and the bundle whose encoder it is (named by its folder, or its name in models/)."""
    path = Path(argument)
    if path.is_file() or path.suffix == ".tflite":
        return path, None
    found = bundle.find(argument)
    return found.path / bundle.ENCODER, found


def check(path: Path) -> dict[str, Any]:
    """The verdict on the model file `path`, as docs/design.md's contract check.schema.json has it.

    Raises InputError where the file is no TFLite model, damaged, or compiled already.
    """
    model = tflite_graph.read(path)
    if model.compiled:
        source = path.name.replace("_edgetpu", "") if "_edgetpu" in path.name else "the .tflite that edgetpu_compiler was given"
        raise InputError(f"{path} is already compiled for the Edge TPU", f"name its source ({source})")
    refusals = rules.refusals(model)
    operations = [
        {
            "index": operation.index,
            "subgraph": graph.index,
            "name": operation.name,
            "target": "cpu" if finding else "tpu",
            "reason": finding.reason if finding else None,
            "fix": finding.fix if finding else None,
        }
        for graph in model.graphs
        for operation, finding in zip(graph.operations, _findings(graph, bool(refusals)), strict=True)
    ]
    targets = {str(operation["target"]) for operation in operations}
    return {
        "model": str(path),
        "sha256": model.sha256,
        "maps": "part" if len(targets) == 2 else {"tpu": "all", "cpu": "none"}[targets.pop()],
        "blockers": [{"reason": refusal.reason, "fix": refusal.fix} for refusal in refusals],
        "operations": operations,
    }


def _findings(graph: tflite_graph.Graph, refused: bool) -> list[rules.Finding | None]:
    if refused:
        return [rules.obstacle(graph, operation) or REFUSED for operation in graph.operations]
    if graph.index > 0:
        return [rules.obstacle(graph, operation) or ELSEWHERE for operation in graph.operations]
    return rules.place(graph)


def table(report: dict[str, Any]) -> str:
    """The report for a terminal: a line per operation, its reason and fix, the verdict last."""
    operations = report["operations"]
    width = max(len(name) for name in ("operation", *(operation["name"] for operation in operations)))
    lines = [f"{report['model']}", f"   #  {'operation':{width}}  on   why it is not on the Edge TPU"]
    for operation in operations:
        reason = f"  {operation['reason']}" if operation["reason"] else ""
        lines.append(f"{operation['index']:4}  {operation['name']:{width}}  {operation['target'].upper()}{reason}")
        if operation["fix"]:
            lines.append(f"{'':{width + 13}}fix: {operation['fix']}")
    for blocker in report["blockers"]:
        lines.append(f"the compiler refuses this file: {blocker['reason']}")
        if blocker["fix"]:
            lines.append(f"  fix: {blocker['fix']}")
    mapped = sum(operation["target"] == "tpu" for operation in operations)
    lines.append(f"{HEADLINES[report['maps']]}: {mapped} of {len(operations)} operations on the Edge TPU")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
