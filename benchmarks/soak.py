"""Hours of the recogniser in minutes: the clips in a loop through reading, tracking, embedding and decision.

  python benchmarks/soak.py --data ../shared/data --frames 200000

YuNet looks at every frame of the clips once; from then on its detections are replayed. All else is real, and one recogniser sees
one endless source. Exit status 1 if memory grows by 5 MB or more after the first 10,000 frames, or the number of open files changes.
"""

import argparse
import resource
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import cv2
import numpy as np

from device import bundle, demo
from device.camera import Frame, open_source
from device.decide import NearestNeighbours
from device.detect import Detection, Detector, YunetDetector
from device.embed import open_encoder
from device.pipeline import Recogniser
from device.program import HOLDS_NOT, InputError, Parser, run

FIRST = 10_000  # frames after which memory should not grow any more
GROWTH = 5.0  # MB that it may
FPS = 30.0


class Replay:
    """A detector that says again what another one said about each frame; `at` tells it which frame comes."""

    def __init__(self, detector: Detector, clips: list[Path]):
        self.name, self.size = detector.name, getattr(detector, "size", None)
        self._found: dict[tuple[str, int], list[Detection]] = {}
        for clip in clips:
            with open_source(str(clip)) as source:
                for frame in source:
                    self._found[str(clip), frame.index] = detector.detect(frame.image)
        self._next: list[Detection] = []

    def at(self, clip: Path, index: int) -> None:
        self._next = self._found[str(clip), index]

    def detect(self, frame: np.ndarray) -> list[Detection]:
        return self._next


def clips_in(data: Path) -> list[Path]:
    if not (data / "clips").is_dir():
        raise InputError(f"{data} is not the shared data", "name its folder with --data")
    return sorted(path for path in (data / "clips").iterdir() if path.suffix in (".mp4", ".mpg"))


def endless(clips: list[Path], replay: Replay) -> Iterator[tuple[Frame, bool]]:
    """The clips again and again as one source, and whether a clip has ended and its file is closed."""
    start, count = datetime.now(timezone.utc), 0
    while True:
        for clip in clips:
            with open_source(str(clip)) as source:
                for frame in source:
                    replay.at(clip, frame.index)
                    yield replace(frame, index=count, time=start + timedelta(seconds=count / FPS), source="soak"), False
                    count += 1
            yield frame, True


def memory() -> float:
    """Resident memory of this process in MB, now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def soak(recogniser: Recogniser, clips: list[Path], replay: Replay, frames: int) -> list[tuple[int, float, int]]:
    """Frames so far, memory in MB and open files, every FIRST frames or a little later (between two clips)."""
    told: Counter[str] = Counter()
    marks: list[tuple[int, float, int]] = []
    start = time.perf_counter()
    for frame, ended in endless(clips, replay):
        if not ended:
            told.update(event["event"] for event in recogniser.process(frame)[0])
        elif recogniser.frames >= FIRST * (len(marks) + 1) or recogniser.frames >= frames:
            marks.append((recogniser.frames, memory(), open_files()))
            events = ", ".join(f"{kind} {count}" for kind, count in sorted(told.items()))
            speed = recogniser.frames / (time.perf_counter() - start)
            print(f"| {marks[-1][0]} | {marks[-1][1]:.1f} | {marks[-1][2]} | {recogniser.crops} | {events} | {speed:.0f} |", flush=True)
            if recogniser.frames >= frames:
                return marks
    return marks


def _main(args: argparse.Namespace) -> int:
    cv2.setNumThreads(2)
    clips = clips_in(args.data)
    used = bundle.find(args.encoder)
    cohort = np.load(used.path / "cohort.npz")  # strangers stand for the household
    embeddings = cohort[cohort.files[0]][:40].astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    decider = NearestNeighbours(embeddings, [f"person {number // 4}" for number in range(len(embeddings))], used.threshold())
    replay = Replay(YunetDetector(args.data / "detectors" / "yunet_n_dynamic.onnx"), clips)
    recogniser = Recogniser(replay, open_encoder(used, "cpu"), decider, like=used.threshold())
    print("| frames | MB resident | open files | crops embedded | events | frames a second |\n|---|---|---|---|---|---|")
    marks = soak(recogniser, clips, replay, args.frames)
    growth, files = max(mark[1] for mark in marks) - marks[0][1], {mark[2] for mark in marks}
    holds = growth < GROWTH and len(files) == 1
    print(f"\nmemory grew by {growth:.1f} MB after the first {marks[0][0]} frames (promised: less than {GROWTH:.0f}), open files: {files}")
    return 0 if holds else HOLDS_NOT


def main(argv: list[str] | None = None) -> int:
    parser = Parser(__doc__)
    parser.add_argument("--data", type=Path, default=demo.shared_data(), help="the shared data (default $OMOKAGE_DATA)")
    parser.add_argument("--frames", type=int, default=200_000, help="how many (default: %(default)s)")
    parser.add_argument("--encoder", help="bundle (default: the newest shipped one)")
    return run(_main, parser, argv)


if __name__ == "__main__":
    sys.exit(main())
