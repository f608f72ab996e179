"""YuNet's working size: milliseconds a frame and faces found on the clips, for several long sides.

  python benchmarks/detection.py --data ../shared/data
"""

import argparse
import sys
import time
from pathlib import Path

import cv2
import numpy as np

from device.camera import open_source
from device.detect import MtcnnDetector, YunetDetector
from device.program import InputError, Parser, run
from train.evaluate import default_data

SIZES = (320, 480, 640)
VIDEOS = {".mp4", ".mpg"}
TIMED = "p2-b.mp4"  # 640x360


def table(data: Path) -> str:
    paths = sorted(path for path in (data / "clips").iterdir() if path.suffix in VIDEOS)
    clips = {path.name: [frame.image for frame in open_source(str(path))] for path in paths}
    frames = sum(len(images) for images in clips.values())
    model = data / "detectors" / "yunet_n_dynamic.onnx"
    lines = [f"| detector | ms a frame of {TIMED}, median | faces in {frames} frames of {len(clips)} clips |", "|---|---|---|"]
    for size in SIZES:
        lines.append(_row(f"YuNet, long side {size}", YunetDetector(model, size), clips))
    lines.append(_row("MTCNN", MtcnnDetector(), {TIMED: clips[TIMED][:40]}, count=False))
    return "\n".join(lines)


def _row(name: str, detector: YunetDetector | MtcnnDetector, clips: dict[str, list[np.ndarray]], count: bool = True) -> str:
    faces, seconds = 0, []
    for clip, images in clips.items():
        for image in images:
            start = time.perf_counter()
            faces += len(detector.detect(image))
            if clip == TIMED:
                seconds.append(time.perf_counter() - start)
    return f"| {name} | {1000 * np.median(seconds):.1f} | {faces if count else ''} |"


def _main(args: argparse.Namespace) -> int:
    if not (args.data / "clips").is_dir():
        raise InputError(f"{args.data} is not the shared data", "name its folder with --data")
    cv2.setNumThreads(2)
    print(table(args.data))
    return 0


def main(argv: list[str] | None = None) -> int:
    parser = Parser(__doc__)
    parser.add_argument("--data", type=Path, default=default_data(), help="the shared data (default $OMOKAGE_DATA)")
    return run(_main, parser, argv)


if __name__ == "__main__":
    sys.exit(main())
