"""Clusters for people to look at: a contact sheet, and a page on which they can be named. Both hold pictures of people."""

import base64
import html
from collections.abc import Sequence

import cv2
import numpy as np

from device.draw import FONT
from device.unnamed import IGNORE, Unnamed

TILE = 96  # pixels
ACROSS = 10  # pictures of a cluster on the contact sheet; the page shows all
ROWS = 60  # clusters on the contact sheet, the largest
TEXT = 250  # pixels that the description of a row takes

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Who is this?</title>
<style>
body {{ font: 16px system-ui, sans-serif; margin: 2em; }} tr {{ border-top: 1px solid #ccc; }} td {{ padding: .5em; vertical-align: top; }}
figure {{ display: inline-block; margin: 2px; text-align: center; }} img {{ width: 80px; display: block; }}
figcaption {{ font-size: 12px; }} .off img {{ opacity: .2; }} table {{ border-collapse: collapse; }}
</style>
<h1>Who is this?</h1>
<p>{count} pictures, {clusters} clusters, {alone} pictures alone. Give clusters of one person the same name; <b>{ignore}</b> is nobody who
matters; what has no name is left out. Click on a picture that does not belong to its row. Then save names.csv, and
<code>python device/enroll.py name-clusters FOLDER --csv names.csv</code></p>
<button onclick="save()">Save names.csv</button>
<table>
{rows}
</table>
<button onclick="save()">Save names.csv</button>
<script>
document.querySelectorAll("figure").forEach(one => one.onclick = () => one.classList.toggle("off"));
const cell = text => /[",\\n]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text;
function save() {{
  const lines = ["cluster,name"];
  for (const row of document.querySelectorAll("tr")) {{
    lines.push(row.dataset.cluster + "," + cell(row.querySelector("input").value.trim()));
    row.querySelectorAll(".off").forEach(one => lines.push(row.dataset.cluster + "/" + one.dataset.picture + ","));
  }}
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([lines.join("\\n") + "\\n"], {{type: "text/csv"}}));
  link.download = "names.csv";
  link.click();
}}
</script>
</html>
"""


def contact_sheet(unnamed: Unnamed) -> np.ndarray:
    """A row a cluster, the best pictures first, as BGR uint8 [H, W, 3]. At least one cluster there must be."""
    rows = [_row(unnamed, number) for number in range(min(len(unnamed.clusters), ROWS))]
    return np.vstack(rows)


def _row(unnamed: Unnamed, number: int) -> np.ndarray:
    members = unnamed.clusters[number]
    row = np.full((TILE + 8, TEXT + ACROSS * (TILE + 4), 3), 255, np.uint8)
    for line, text in enumerate((f"cluster {number + 1}", _count(len(members)), _pure(unnamed.purity[number]))):
        cv2.putText(row, text, (8, 28 + 28 * line), FONT, 0.6, (0, 0, 0), 1 + (line == 0), cv2.LINE_AA)
    for place, member in enumerate(members[:ACROSS]):
        x = TEXT + place * (TILE + 4)
        row[4 : 4 + TILE, x : x + TILE] = _bgr(unnamed, member, TILE)
        cv2.putText(row, str(place + 1), (x + 2, TILE), FONT, 0.4, (255, 255, 255), 3, cv2.LINE_AA)
        cv2.putText(row, str(place + 1), (x + 2, TILE), FONT, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
    row[-1] = 200
    return row


def page(unnamed: Unnamed) -> str:
    """One HTML file that needs nothing else: a row a cluster, a field for the name, and a button that writes names.csv."""
    rows = [_cells(unnamed, number, members) for number, members in enumerate(unnamed.clusters)]
    alone = len(unnamed.templates) - sum(map(len, unnamed.clusters))
    told = {"count": len(unnamed.templates), "clusters": len(rows), "alone": alone, "ignore": html.escape(IGNORE)}
    return PAGE.format(rows="\n".join(rows), **told)


def _cells(unnamed: Unnamed, number: int, members: Sequence[int]) -> str:
    figures = "".join(
        f'<figure data-picture="{place}" title="{html.escape(unnamed.templates[member].source)}">'
        f'<img alt="" src="data:image/jpeg;base64,{_jpeg(unnamed, member)}"><figcaption>{place}</figcaption></figure>'
        for place, member in enumerate(members, 1)
    )
    about = f"{_count(len(members))}, {_pure(unnamed.purity[number])}"
    return (
        f'<tr data-cluster="{number + 1}"><td><b>cluster {number + 1}</b><br>{about}<br>'
        f'<input aria-label="name of cluster {number + 1}" maxlength="200"></td><td>{figures}</td></tr>'
    )


def _jpeg(unnamed: Unnamed, member: int) -> str:
    return base64.b64encode(cv2.imencode(".jpg", _bgr(unnamed, member, TILE))[1].tobytes()).decode()


def _bgr(unnamed: Unnamed, member: int, size: int) -> np.ndarray:
    crop = unnamed.templates[member].crop
    if crop is None:
        raise ValueError("a picture without its crop cannot be shown")
    return cv2.resize(cv2.cvtColor(crop, cv2.COLOR_RGB2BGR), (size, size), interpolation=cv2.INTER_AREA)


def _count(pictures: int) -> str:
    return f"{pictures} pictures"


def _pure(purity: float | None) -> str:
    return "purity unknown" if purity is None else f"purity {purity:.0%}"
