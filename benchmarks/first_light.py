"""Every figure of the first bundle again, with its promise: check, LFW, parity, clips, speed.

  python benchmarks/first_light.py --data ../shared/data --out build/prove

Writes first_light.json and first_light.md to --out. Exit status 1 if a promise is not kept.
"""

import argparse
import json
import os
import platform
import sys
import time
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from convert import check, quantize
from device import bundle, demo
from device.embed import Encoder
from device.program import HOLDS_NOT, InputError, Parser, replacing, run
from train import data, encoders

SPEED_CLIP = "p2-b.mp4"  # 640x360
RUNS = 5


@dataclass(frozen=True)
class Line:
    """One promise: what was measured, in words, the value, and whether it holds (None: there is no promise)."""

    what: str
    value: str
    promise: str
    holds: bool | None


def mapping(used: bundle.Bundle) -> list[Line]:
    report = check.check(used.path / bundle.ENCODER)
    mapped = sum(operation["target"] == "tpu" for operation in report["operations"])
    return [Line("operations that map to the Edge TPU", f"{mapped} of {len(report['operations'])}", "all", report["maps"] == "all")]


def quantisation(used: bundle.Bundle, folder: Path) -> tuple[list[Line], dict[str, Any]]:
    """LFW for float and int8, and their cosine on crops of the cohort, which trained nothing."""
    names = data.read_list(folder / "crops" / "cohort.txt")
    cohort = data.read_crops([folder / "crops" / name for name in used.manifest["made"]["data"]], only=names).images
    model = encoders.load(str(used.path / "encoder.keras"))
    found = quantize.report(model, Encoder(used.path / bundle.ENCODER), cohort, folder / "lfw")
    lfw, parity = found["lfw"], found["parity"]
    loss = lfw["float_minus_int8"]
    points = f"{100 * loss['difference']:+.2f} points (95 %: {100 * loss['low']:+.2f} to {100 * loss['high']:+.2f})"
    mean, first = parity["mean"], parity["first_percentile"]
    least_mean, least = quantize.LEAST_MEAN, quantize.LEAST_FIRST_PERCENTILE
    return [
        _accuracy("float", lfw["float"]),
        _accuracy("full int8", lfw["int8"]),
        Line("LFW, float minus int8, paired bootstrap", points, "upper end <= 1.0 point", loss["high"] <= 0.01),
        Line(f"cosine of float and int8, {parity['crops']} held-out crops, mean", f"{mean:.4f}", f">= {least_mean}", mean >= least_mean),
        Line("the same, first percentile", f"{first:.4f}", f">= {least}", first >= least),
    ], lfw


def _accuracy(kind: str, verified: dict[str, Any]) -> Line:
    accuracy = verified["accuracy"]
    tar = ", ".join(f"{value:.1%} at FAR {far}" for far, value in verified["tar"].items())
    value = f"{accuracy['mean']:.2%} +- {accuracy['std']:.2%}; AUC {verified['auc']:.4f}, EER {verified['eer']:.2%}, TAR {tar}"
    return Line(f"LFW, {verified['pairs']} pairs, {kind}", value, "", None)


def clips(used: bundle.Bundle, folder: Path, out: Path) -> tuple[list[Line], dict[str, Any]]:
    """The real clips, YuNet: right names and strangers, from a gallery of one clip a person."""
    table = out / "clips.json"
    demo.main(["--clips", str(folder), "--out", str(out / "clips"), "--json", str(table), "--encoder", str(used.path)])
    found = json.loads(table.read_text())
    people = [row for row in found["clips"] if row["expected"]]
    strangers = [row for row in found["clips"] if not row["expected"]]
    lines = []
    for what, rows in (("clips of enrolled people named right", people), ("clips of strangers left unknown", strangers)):
        right = sum(row["right"] for row in rows)
        lines.append(Line(what, f"{right} of {len(rows)}", "all", right == len(rows)))
    return lines, found


def speed(used: bundle.Bundle, folder: Path, out: Path) -> list[Line]:
    """Frames a second of recognize.py on a 640x360 clip (median of RUNS), and milliseconds a face on one core."""
    gallery, model = out / "clips" / "gallery.db", folder / "detectors" / "yunet_n_dynamic.onnx"
    options = ["--gallery", gallery, "--encoder", used.path, "--detector-model", model]
    summaries = [demo.recognise(folder / "clips" / SPEED_CLIP, *options)[1] for _ in range(RUNS)]
    fps = float(np.median([summary["fps"] for summary in summaries]))
    stages = {stage: float(np.median([summary["ms"][stage] for summary in summaries])) for stage in summaries[0]["ms"]}
    encoder = Encoder(used.path / bundle.ENCODER, threads=1)
    crops = np.zeros((50, 112, 112, 3), np.uint8)
    encoder.embed(crops)
    start = time.perf_counter()
    encoder.embed(crops)
    milliseconds = 20 * (time.perf_counter() - start)
    words = ", ".join(f"{stage} {value:.1f}" for stage, value in stages.items())
    return [
        Line(f"frames a second, 640x360, YuNet (median of {RUNS})", f"{fps:.1f} ({words} ms)", ">= 30", fps >= 30),
        Line("milliseconds a face, int8, one core", f"{milliseconds:.2f}", "", None),
    ]


def markdown(lines: list[Line], machine: str, used: bundle.Bundle) -> str:
    rows = [f"| {line.what} | {line.value} | {line.promise} | {_word(line.holds)} |" for line in lines]
    head = ["| what | measured | promised | |", "|---|---|---|---|"]
    return "\n".join([f"Bundle {used.name}, encoder {used.encoder}. {machine}.", "", *head, *rows]) + "\n"


def _word(holds: bool | None) -> str:
    return "" if holds is None else "holds" if holds else "**missed**"


def _machine() -> str:
    now = datetime.now(timezone.utc).strftime("%Y-%m-%d")
    versions = f"Python {platform.python_version()}, OpenCV {cv2.__version__}, numpy {np.__version__}"
    return f"{os.cpu_count()} cores {platform.machine()}, {versions}, {now}"


def _main(args: argparse.Namespace) -> int:
    if not (args.data / "lfw").is_dir():
        raise InputError(f"{args.data} is not the shared data", "name its folder with --data")
    used = bundle.find(args.encoder)
    args.out.mkdir(parents=True, exist_ok=True)
    lines = mapping(used)
    named, table = clips(used, args.data, args.out)
    lines += named + speed(used, args.data, args.out)
    quantised, figures = quantisation(used, args.data)
    lines += quantised
    text = markdown(lines, _machine(), used)
    found = {"machine": _machine(), "encoder": used.encoder, "lines": [asdict(line) for line in lines], "lfw": figures, "clips": table}
    for name, content in (("first_light.json", json.dumps(found, indent=1) + "\n"), ("first_light.md", text)):
        with replacing(args.out / name) as temporary:
            temporary.write_text(content)
    print(text)
    return HOLDS_NOT if any(line.holds is False for line in lines) else 0


def main(argv: list[str] | None = None) -> int:
    parser = Parser(__doc__)
    parser.add_argument("--data", type=Path, default=demo.shared_data(), help="the shared data (default $OMOKAGE_DATA)")
    parser.add_argument("--out", type=Path, default=Path("build/prove"))
    parser.add_argument("--encoder", help="bundle (default: the newest shipped one)")
    return run(_main, parser, argv)


if __name__ == "__main__":
    sys.exit(main())
