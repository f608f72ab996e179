"""The page of check.py: verdict, times, memory, the graph coloured by where each operation runs, a row per operation.

One HTML file without scripts or anything fetched. Whatever comes from the model is escaped: a name must not become markup.
"""

from html import escape
from typing import Any

from convert import check

DRAWN = 4000  # operations of a graph at most; more of them no browser shows in good time
WIDTH, HEIGHT = 150, 26  # of an operation in the graph, pixels
STEP_X, STEP_Y = 166, 44
BAR, LONGEST = 170, 360  # pixels, of the bars: where they begin, how long the longest is

HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Edge TPU check</title><style>
:root { color-scheme: light dark; --tpu: #1a7f5a; --cpu: #c2410c; --dim: #8888; --back: #fff; --text: #222 }
@media (prefers-color-scheme: dark) { :root { --back: #16181c; --text: #ddd; --tpu: #2aa876; --cpu: #e4692f } }
body { font: 15px/1.5 system-ui, sans-serif; margin: 1.5em auto; max-width: 90em; padding: 0 1em }
body { background: var(--back); color: var(--text) }
h1 { font-size: 1.3em; overflow-wrap: anywhere } .verdict { font-size: 1.2em; font-weight: 600 }
.tpu { color: var(--tpu) } .cpu { color: var(--cpu) } svg .tpu { fill: var(--tpu) } svg .cpu { fill: var(--cpu) }
.parts { display: flex; gap: 2em; align-items: flex-start; flex-wrap: wrap }
.graph { max-height: 92vh; overflow: auto; border: 1px solid var(--dim); border-radius: 6px; max-width: 34% }
.rows { flex: 1; min-width: 40em; max-height: 92vh; overflow: auto } table { border-collapse: collapse; width: 100% }
th, td { padding: .15em .6em; text-align: right; white-space: nowrap } tr[id] td { border-top: 1px solid var(--dim) }
th { position: sticky; top: 0; background: var(--back) }
:is(th, td):is(:nth-child(2), :nth-child(3)) { text-align: left } td.why { white-space: normal; color: var(--cpu) }
tr:target { background: #f5c84255 } .fix { font-style: italic; opacity: .85 } svg text { font: 12px system-ui, sans-serif }
svg .name { fill: #fff; text-anchor: middle } svg path { fill: none; stroke: var(--dim); stroke-width: 1.5 } svg .told { fill: var(--text) }
svg .range { fill: var(--dim) } svg .bar { fill: var(--tpu) }
</style></head><body>
"""


def page(reports: list[dict[str, Any]]) -> str:
    """The page of some reports of check.check."""
    return HEAD + "".join(_model(report, number) for number, report in enumerate(reports)) + "</body></html>\n"


def _model(report: dict[str, Any], number: int) -> str:
    operations = report["operations"]
    mapped = sum(operation["target"] == "tpu" for operation in operations)
    colour = "tpu" if report["maps"] == "all" else "cpu"
    verdict = f"{check.HEADLINES[report['maps']]}: {mapped} of {len(operations)} operations on the Edge TPU"
    parts = [
        f'<h1>{escape(report["model"])}</h1>\n<p class="verdict {colour}">{verdict}</p>\n',
        *(f'<p class="cpu">The compiler refuses this file: {_advice(blocker)}</p>\n' for blocker in report["blockers"]),
        *(f"<p>{escape(line[0].upper() + line[1:])}.</p>\n" for line in check.summary(report)),
    ]
    if "latency_ms" in report:
        parts.append(_times(report["latency_ms"]))
    graph = _graph([operation for operation in operations if operation["subgraph"] == 0], number)
    return (
        "".join(parts) + f'<div class="parts"><div class="graph">{graph}</div><div class="rows">{_rows(operations, number)}</div></div>\n'
    )


def _advice(finding: dict[str, Any]) -> str:
    fix = f'. <span class="fix">Fix: {escape(finding["fix"])}.</span>' if finding["fix"] else "."
    return f"{escape(finding['reason'])}{fix}"


def _times(latency: dict[str, dict[str, float]]) -> str:
    """A bar per host: the estimate, and behind it the range."""
    scale = LONGEST / max(*(time["high"] for time in latency.values()), 1e-9)
    lines = []
    for row, (host, time) in enumerate(latency.items()):
        y = 24 * row
        low, high = time["low"] * scale, time["high"] * scale
        lines.append(
            f'<text class="told" x="0" y="{y + 15}">{escape(check.HOSTS[host])}</text>'
            f'<rect class="bar" x="{BAR}" y="{y + 4}" width="{time["estimate"] * scale:.1f}" height="14" rx="2"/>'
            f'<rect class="range" x="{BAR + low:.1f}" y="{y + 9}" width="{high - low:.1f}" height="4"/>'
            f'<text class="told" x="{BAR + high + 8:.1f}" y="{y + 15}">{time["estimate"]:.1f} ms</text>'
        )
    return f'<svg width="{BAR + LONGEST + 90}" height="{24 * len(latency)}" role="img" aria-label="times">{"".join(lines)}</svg>\n'


def _rows(operations: list[dict[str, Any]], number: int) -> str:
    head = ("#", "operation", "output", "on", "MMAC", "ms", "parameters", "activations a tile")
    lines = ["<tr>" + "".join(f"<th>{each}</th>" for each in head) + "</tr>\n"]
    for each in operations:
        outputs = ", ".join("x".join(map(str, output["shape"])) + " " + output["type"] for output in each["outputs"])
        costs = ["", "", "", ""]
        if "ms" in each:
            costs = [f"{each['macs'] / 1e6:.1f}" if each["macs"] else "", f"{each['ms'][check.SHOWN]:.3f}"]
            costs += [check.size(each[key]) if each[key] else "" for key in ("parameters", "activations")]
        lines.append(
            f'<tr id="{_anchor(number, each)}"><td>{each["index"]}</td><td>{escape(each["name"])}</td><td>{escape(outputs)}</td>'
            f'<td class="{each["target"]}">{each["target"].upper()}</td>{"".join(f"<td>{cost}</td>" for cost in costs)}</tr>\n'
        )
        if each["reason"]:
            lines.append(f'<tr><td></td><td class="why" colspan="{len(head) - 1}">{_advice(each)}</td></tr>\n')
    return f"<table>{''.join(lines)}</table>"


def _anchor(number: int, operation: dict[str, Any]) -> str:
    return f"m{number}-{operation['subgraph']}-{operation['index']}"


# --- the graph --------------------------------------------------------------------------------------------------------------


def _graph(operations: list[dict[str, Any]], number: int) -> str:
    """Operations from top to bottom by how many come before them, those of one height side by side; a click leads to the row."""
    if len(operations) > DRAWN:
        return f"<p>{len(operations)} operations are too many to draw.</p>"
    depths = _depths(operations)
    columns: dict[int, int] = {}
    places = []
    for depth in depths:
        places.append((columns.get(depth, 0), depth))
        columns[depth] = columns.get(depth, 0) + 1
    edges = [_edge(places[before], places[row]) for row, each in enumerate(operations) for before in each["after"] if before < row]
    boxes = [_box(each, place, number) for each, place in zip(operations, places, strict=True)]
    width, height = STEP_X * max(columns.values(), default=1) + 16, STEP_Y * (max(depths, default=0) + 1) + 16
    return f'<svg width="{width}" height="{height}" role="img" aria-label="graph">{"".join(edges)}{"".join(boxes)}</svg>'


def _depths(operations: list[dict[str, Any]]) -> list[int]:
    depths: list[int] = []
    for row, each in enumerate(operations):
        depths.append(1 + max((depths[before] for before in each["after"] if before < row), default=-1))
    return depths


def _edge(source: tuple[int, int], target: tuple[int, int]) -> str:
    x0, y0 = 8 + STEP_X * source[0] + WIDTH // 2, 8 + STEP_Y * source[1] + HEIGHT
    x1, y1 = 8 + STEP_X * target[0] + WIDTH // 2, 8 + STEP_Y * target[1]
    if target[1] - source[1] == 1:
        return f'<path d="M{x0} {y0}C{x0} {y1} {x1} {y0} {x1} {y1}"/>'
    side = 8 + STEP_X * max(source[0], target[0]) + WIDTH + 50  # past what stands between
    return f'<path d="M{x0} {y0}C{side} {y0 + 20} {side} {y1 - 20} {x1} {y1}"/>'


def _box(operation: dict[str, Any], place: tuple[int, int], number: int) -> str:
    x, y = 8 + STEP_X * place[0], 8 + STEP_Y * place[1]
    name = operation["name"]
    short = name if len(name) <= 20 else name[:19] + "…"
    told = f"{operation['index']} {name}" + (f": {operation['reason']}" if operation["reason"] else "")
    return (
        f'<a href="#{_anchor(number, operation)}"><title>{escape(told)}</title>'
        f'<rect class="{operation["target"]}" x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="4"/>'
        f'<text class="name" x="{x + WIDTH // 2}" y="{y + 17}">{escape(short)}</text></a>'
    )
