"""YuNet's working size: milliseconds a frame and faces found on the clips, for several long sides.

python benchmarks/detection.py --data ../shared/data
"""

import argparse
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np

from device.camera import open_source
from device.demo import shared_data
from device.detect import Detector, MtcnnDetector, YunetDetector
from device.program import InputError, Parser, run

SIZES = (320, 480, 640)
VIDEOS = {".mp4", ".mpg"}
TIMED = "p2-b.mp4"  # 640x360


def table(data: Path) -> str:
    paths = sorted(path for path in (data / "clips").iterdir() if path.suffix in VIDEOS)
    clips = {path.name: [frame.image for frame in open_source(str(path))] for path in paths}
    images = [image for clip in clips.values() for image in clip]
    model = data / "detectors" / "yunet_n_dynamic.onnx"
    yunets = {f"YuNet, long side {size}": YunetDetector(model, size) for size in SIZES}
    faces = {name: str(sum(len(detector.detect(image)) for image in images)) for name, detector in yunets.items()}
    times = milliseconds({**yunets, "MTCNN": MtcnnDetector()}, clips[TIMED])
    lines = [f"| detector | ms a frame of {TIMED}, median | faces in {len(images)} frames of {len(clips)} clips |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| {name} | {time:.1f} | {faces.get(name, '')} |" for name, time in times.items())])


def milliseconds(detectors: Mapping[str, Detector], images: list[np.ndarray]) -> dict[str, float]:
    """The median time of each detector, all in turn on every frame: the machine's speed drifts."""
    seconds: dict[str, list[float]] = {name: [] for name in detectors}
    for image in images:
        for name, detector in detectors.items():
            start = time.perf_counter()
            detector.detect(image)
            seconds[name].append(time.perf_counter() - start)
    return {name: 1000 * float(np.median(values)) for name, values in seconds.items()}


def _main(args: argparse.Namespace) -> int:
    if not (args.data / "clips").is_dir():
        raise InputError(f"{args.data} is not the shared data", "name its folder with --data")
    cv2.setNumThreads(2)
    print(table(args.data))
    return 0


def main(argv: list[str] | None = None) -> int:
    parser = Parser(__doc__)
    parser.add_argument("--data", type=Path, default=shared_data(), help="the shared data (default $OMOKAGE_DATA)")
    return run(_main, parser, argv)


if __name__ == "__main__":
    sys.exit(main())
