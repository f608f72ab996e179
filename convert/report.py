"""The page of a quantisation: its figures, plots, layers and the crops that suffer most, in one self-contained HTML file.

It shows pictures of people, so it stays with whoever made it: quantize.py never puts it into a bundle.
"""

import base64
import html
import io
from typing import Any

import cv2
import numpy as np
from matplotlib.figure import Figure

SHOWN = 24  # crops that suffer most

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 62em; margin: 2em auto; padding: 0 1em; color: #222 }}
table {{ border-collapse: collapse; margin: 1em 0 }} th, td {{ padding: .2em .8em; border-bottom: 1px solid #ddd; text-align: right }}
th:first-child, td:first-child {{ text-align: left }} tr.worst td {{ background: #fde8d8; font-weight: 600 }}
figure {{ display: inline-block; margin: .4em; text-align: center; font-size: 12px }} img.plot {{ max-width: 100% }}
</style></head><body>
<h1>{title}</h1>
<p>{method}</p>
{parts}
</body></html>
"""

METHODS = {
    "ptq": "Post-training: ranges from calibration, nothing trained.",
    "qat": "Quantisation-aware: training went on under fake quantisation, every crop a person of its own.",
    "distill": "Quantisation-aware with distillation: the fake-quantised encoder learned the float encoder's embeddings.",
}


def page(name: str, report: dict[str, Any], images: np.ndarray, plain: np.ndarray, centred: np.ndarray) -> str:
    """The page as HTML, of the bundle `name` and its `report` (report.json of quantize.py).

    `images` uint8 RGB [N, H, W, 3] are held-out crops, `plain` and `centred` float [N] the cosines of their float and int8
    embeddings as they are and after the mean over the crops is removed.
    """
    calibrated = "Calibrated on {crops} crops and their mirror images, {ranges}.".format(**report["calibration"])
    parts = [_parity(report, plain, centred)]
    if "lfw" in report:
        parts.append(_lfw(report["lfw"]))
    parts += [_layers(report["layers"], report["worst_layer"]), _worst(images, plain, centred)]
    if "epochs" in report:
        parts.append(_epochs(report["epochs"], report["method"]))
    if "sweep" in report:
        parts.append(_sweep(report["sweep"]))
    title = f"Quantisation of {html.escape(name)}"
    return PAGE.format(title=title, method=f"{METHODS[report['method']]} {calibrated}", parts="\n".join(parts))


def _parity(report: dict[str, Any], plain: np.ndarray, centred: np.ndarray) -> str:
    kinds = (("as they are", "parity"), ("after the mean over the crops is removed", "parity_centred"))
    rows = [[told, f"{report[key]['mean']:.4f}", f"{report[key]['first_percentile']:.4f}"] for told, key in kinds]
    figure = Figure((9, 3))
    axes = figure.subplots()
    edges = np.linspace(min(plain.min(), centred.min()), 1, 60)
    axes.hist([plain, centred], edges.tolist(), label=[told for told, _ in kinds])
    axes.set(xlabel="cosine of float and int8", ylabel="crops")
    axes.legend()
    told = f"<p>{report['parity']['crops']} crops on which nothing was trained.</p>"
    return "<h2>Float against int8</h2>" + told + _table(["cosine", "mean", "1st percentile"], rows) + _plot(figure)


def _lfw(lfw: dict[str, Any]) -> str:
    rows = []
    for kind in ("float", "ptq", "int8"):
        if kind in lfw:
            accuracy = "{mean:.2%} ± {std:.2%}".format(**lfw[kind]["accuracy"])
            loss = lfw.get(f"float_minus_{kind}")
            points = "{difference:+.2f} ({low:+.2f} to {high:+.2f})".format(**{k: 100 * v for k, v in loss.items()}) if loss else ""
            tars = [f"{lfw[kind]['tar'][far]:.2%}" for far in ("0.01", "0.001")]
            rows.append([kind, accuracy, points, f"{lfw[kind]['auc']:.4f}", *tars])
    head = ["LFW, 6,000 pairs", "accuracy", "float minus this, points (95 % of paired bootstraps)", "AUC", "TAR at 1e-2", "TAR at 1e-3"]
    return "<h2>What it costs</h2>" + _table(head, rows)


def _layers(layers: list[dict[str, Any]], worst: str) -> str:
    figure = Figure((9, 0.8 + 0.22 * len(layers)))
    axes = figure.subplots()
    at = np.arange(len(layers))
    for side, marker in (("fake_quant", "o"), ("int8", "x")):
        axes.plot([layer[side]["mean"] for layer in layers], at, marker, label=side.replace("_", " "))
    axes.hlines(at, [layer["int8"]["first_percentile"] for layer in layers], [layer["int8"]["mean"] for layer in layers], "C1", lw=1)
    axes.set(xlabel="cosine to the float output; the line reaches to the 1st percentile of int8")
    axes.set_yticks(at, [layer["name"] for layer in layers], fontsize=8)
    axes.invert_yaxis()
    axes.legend()
    head = ["layer", "fake quant, mean", "1st percentile", "int8, mean", "1st percentile", "lost here"]
    figures = [[layer[side][key] for side in ("fake_quant", "int8") for key in ("mean", "first_percentile")] for layer in layers]
    cosines = [[f"{cosine:.5f}" for cosine in row] for row in figures]
    rows = [[layer["name"], *row, f"{layer['lost']:+.5f}"] for layer, row in zip(layers, cosines, strict=True)]
    told = f"<p><b>{html.escape(worst)}</b> loses most: there the cosine falls by more than anywhere else.</p>"
    chosen = [layer["name"] for layer in layers].index(worst)
    return "<h2>Layer by layer</h2>" + told + _plot(figure) + _table(head, rows, chosen)


def _worst(images: np.ndarray, plain: np.ndarray, centred: np.ndarray) -> str:
    figures = []
    for row in np.argsort(centred)[:SHOWN]:
        picture = cv2.imencode(".png", cv2.cvtColor(images[row], cv2.COLOR_RGB2BGR))[1].tobytes()
        caption = f"<figcaption>{centred[row]:.4f} ({plain[row]:.4f})</figcaption>"
        figures.append(f'<figure><img alt="" src="{_uri("png", picture)}">{caption}</figure>')
    told = "<p>Cosine of float and int8 after the mean is removed (in brackets: as it is).</p>"
    return "<h2>The crops that suffer most</h2>" + told + "".join(figures)


def _epochs(epochs: list[dict[str, Any]], method: str) -> str:
    rows = [
        [str(entry["epoch"]), f"{entry['loss']:.4f}" if "loss" in entry else "", f"{entry['mean']:.4f}", f"{entry['first_percentile']:.4f}"]
        for entry in epochs
    ]
    kept = len(epochs) - 1 if method == "qat" else int(np.argmax([entry["mean"] for entry in epochs]))
    told = f"<p>Epoch 0 is the calibrated encoder; epoch {epochs[kept]['epoch']} was kept.</p>"
    return "<h2>Training</h2>" + told + _table(["epoch", "loss", "cosine to float, mean removed", "1st percentile"], rows, kept)


def _sweep(tried: list[dict[str, Any]]) -> str:
    figure = Figure((9, 3))
    axes = figure.subplots()
    for ranges in dict.fromkeys(entry["ranges"] for entry in tried):
        points = [(entry["crops"], entry["mean"]) for entry in tried if entry["ranges"] == ranges]
        axes.semilogx(*zip(*points, strict=True), "o-", label=ranges)
    axes.set(xlabel="crops", ylabel="cosine, mean removed")
    axes.legend()
    rows = [[str(entry["crops"]), entry["ranges"], f"{entry['mean']:.5f}", f"{entry['first_percentile']:.5f}"] for entry in tried]
    best = int(np.argmax([entry["mean"] for entry in tried]))
    return "<h2>Calibration</h2>" + _plot(figure) + _table(["crops", "ranges", "cosine, mean removed", "1st percentile"], rows, best)


def _table(head: list[str], rows: list[list[str]], marked: int | None = None) -> str:
    lines = ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows]
    marks = [' class="worst"' if number == marked else "" for number in range(len(rows))]
    body = "".join(f"<tr{mark}>{line}</tr>\n" for mark, line in zip(marks, lines, strict=True))
    return "<table><tr>" + "".join(f"<th>{html.escape(cell)}</th>" for cell in head) + f"</tr>\n{body}</table>"


def _plot(figure: Figure) -> str:
    drawn = io.BytesIO()
    figure.savefig(drawn, format="svg", bbox_inches="tight", metadata={"Date": None})
    return f'<p><img class="plot" alt="" src="{_uri("svg+xml", drawn.getvalue())}"></p>'


def _uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
