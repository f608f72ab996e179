"""The recogniser as a whole: speed, memory, start, faces found, verdicts; and the package face_recognition on the same clips.

  python benchmarks/pipeline.py --data ../shared/data --peer .venv-peer/bin/python

The clips are brought to 640x480 first. Every clip is recognised by a recognize.py of its own (CPU, YuNet), then by the other
package, if --peer names a Python that has it (benchmarks/peer.py says how to make one). Exit status 1 if a promise is not kept.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.soak import Replay
from device import bundle, demo, draw, enroll
from device.camera import open_source
from device.decide import NearestNeighbours
from device.detect import Detector, YunetDetector
from device.embed import open_encoder
from device.gallery import Gallery
from device.pipeline import STAGES, Recogniser
from device.program import HOLDS_NOT, InputError, MissingError, Parser, run
from device.track import Box, Track, Tracker, distance_iou

Promise = tuple[str, str, bool | None]  # what is promised, what was measured, whether it holds (None: there is no promise)
ROOT = Path(__file__).resolve().parents[1]
SIZE = 640, 480
FPS, MEMORY, START, FASTER = 60.0, 220.0, 3.0, 5.0  # promised: frames a second, MB, seconds to the first verdict, times the peer
VISIBLE = 5  # frames in which a face shows that must be found
EXPECTED: dict[str, tuple[str, ...]] = {  # names in a clip; nobody in the others
    **{f"{person}-{take}": (person,) for person in demo.PEOPLE for take in "bc"},
    "two-p1-p2": ("p1", "p2"),
    "two-p4-p5": ("p4",),
}
# recognize.py in a process of its own, which tells at the end its greatest resident memory, and the seconds of all cores that its
# loop took: what else the machine does spoils those much less than the frames a second.
PROGRAM = """
import sys, time
from device import recognize

def watch(*args, watch=recognize._watch):
    start = time.process_time()
    try:
        return watch(*args)
    finally:
        watch.seconds = time.process_time() - start

before, recognize._watch = recognize._watch, watch
status = recognize.main(sys.argv[1:])
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")), before.seconds, file=sys.stderr)
sys.exit(status)
"""


@dataclass(frozen=True)
class Run:
    """What one recognize.py did: seconds from its start to its first verdict (None: there was none), MB at most, seconds of all
    cores that its loop took, its words."""

    first: float | None
    memory: float
    cpu: float
    summary: dict[str, Any]
    events: list[dict[str, Any]]

    @property
    def seconds(self) -> float:
        return self.summary["frames"] / self.summary["fps"]

    @property
    def names(self) -> set[str]:
        return {event["name"] for event in self.events if event.get("name")}


@dataclass(frozen=True)
class Setup:
    """What every run works with."""

    bundle: bundle.Bundle
    model: Path
    gallery: Path


def prepare(data: Path, out: Path) -> dict[str, Path]:
    """All clips as 640x480 videos, by name."""
    found = {}
    for path in sorted(path for path in (data / "clips").iterdir() if path.suffix in (".mp4", ".mpg")):
        found[path.stem] = out / f"{path.stem}.mp4"
        if not found[path.stem].exists():
            with open_source(str(path)) as source, draw.recording(found[path.stem], source.fps or 25) as write:
                for frame in source:
                    write(draw.fit(frame.image, *SIZE))
    return found


def enrol(clips: dict[str, Path], setup: Setup) -> None:
    """The people, each from clip a."""
    for old in setup.gallery.parent.glob(f"{setup.gallery.name}*"):
        old.unlink()
    options = ["--gallery", setup.gallery, "--encoder", setup.bundle.path, "--detector-model", setup.model]
    for person in demo.PEOPLE:
        demo.call(enroll.main, "add", person, clips[f"{person}-a"], *options)


def recognise(clip: Path, setup: Setup, *options: str) -> Run:
    """recognize.py, from its start to its end."""
    words = [sys.executable, "-c", PROGRAM, "--source", clip, "--json", "--gallery", setup.gallery, "--encoder", setup.bundle.path]
    words += ["--detector-model", setup.model, "--backend", "cpu", *options]
    start, first, told = time.perf_counter(), None, []
    with subprocess.Popen(map(str, words), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stderr
        for line in process.stdout:
            told.append(json.loads(line))
            if first is None and told[-1]["event"] == "seen":
                first = time.perf_counter() - start
        *_, summary, last = process.stderr.read().splitlines()
    memory, cpu = map(float, last.split())
    return Run(first, memory / 1024, cpu, json.loads(summary), told)


def recogniser(setup: Setup, detector: Detector, **settings: Any) -> Recogniser:
    """One in this process, as recognize.py makes it."""
    with Gallery(setup.gallery) as gallery:
        embeddings, names = gallery.templates(setup.bundle)
    threshold = setup.bundle.threshold()
    encoder = open_encoder(setup.bundle, "cpu")
    return Recogniser(detector, encoder, NearestNeighbours(embeddings, names, threshold), like=threshold, **settings)


def tracks(clip: Path, follow: Callable[[Any], list[Track]]) -> list[dict[int, Box]]:
    """The confirmed tracks of a clip: where each was in which frame."""
    places: dict[int, dict[int, Box]] = {}
    with open_source(str(clip)) as source:
        for frame in source:
            for track in follow(frame):
                if track.id:
                    places.setdefault(track.id, {})[frame.index] = track.box
    return [*places.values()]


def found(clips: dict[str, Path], setup: Setup) -> Promise:
    """How many faces show for VISIBLE frames or more, and how many of them the recogniser tells of.

    To show is to be found in as many frames by YuNet at full size in every frame, linked by place alone.
    """
    shown = told = 0
    for clip in clips.values():
        detector, tracker, ours = YunetDetector(setup.model, max(SIZE)), Tracker(VISIBLE), recogniser(setup, YunetDetector(setup.model))
        reference = tracks(clip, lambda frame, d=detector, t=tracker: t.update(d.detect(frame.image), frame)[0])
        followed = tracks(clip, lambda frame, r=ours: [track for track, verdict in r.process(frame)[1] if verdict])
        shown += len(reference)
        for face in reference:
            if any(meet(face, track) for track in followed):
                told += 1
            else:
                print(f"not found: {clip.stem}, {len(face)} frames from {min(face)}, box {[round(v) for v in next(iter(face.values()))]}")
    return f"faces that show for {VISIBLE} frames or more are found", f"{told} of {shown}", told == shown


def meet(a: dict[int, Box], b: dict[int, Box]) -> bool:
    """Whether two tracks overlap by half in a frame."""
    common = a.keys() & b.keys()
    return any(distance_iou(np.array([a[i]], float), np.array([b[i]], float))[0, 0] > 0.5 for i in common)


def work(clips: dict[str, Path], setup: Setup) -> str:
    """A table of what interval and re-check save, over all clips; detections are replayed and take no time."""
    replay = Replay(YunetDetector(setup.model), [*clips.values()])
    every: dict[str, Any] = {"recheck": timedelta(0)}
    lines = ["| what is embedded | looks | faces in them | crops | align, embed, decide: ms a frame |", "|---|---|---|---|---|"]
    for what, settings in (
        ("every face of every frame", every | {"interval": 1}),
        ("every face of every look", every),
        ("settled tracks once a second, every frame", {"interval": 1}),
        ("both, as recognize.py does", {}),
    ):
        recognisers = [recogniser(setup, replay, **settings) for _ in clips]
        for ours, clip in zip(recognisers, clips.values(), strict=True):
            with open_source(str(clip)) as source:
                for frame in source:
                    replay.at(clip, frame.index)
                    ours.process(frame)
        looks, faces, crops, frames = (sum(getattr(ours, key) for ours in recognisers) for key in ("looks", "faces", "crops", "frames"))
        ms = 1000 * sum(sum(ours.seconds.values()) for ours in recognisers) / frames
        lines.append(f"| {what} | {looks} of {frames} | {faces} | {crops} | {ms:.2f} |")
    return "\n".join([*lines, ""])


def peer(python: Path, clips: dict[str, Path]) -> dict[str, Any]:
    """What benchmarks/peer.py says, run by `python`."""
    people = [f"{person}={clips[f'{person}-a']}" for person in demo.PEOPLE]
    probes = [str(path) for name, path in clips.items() if name not in {f"{person}-a" for person in demo.PEOPLE}]
    words = [str(python), "-W", "ignore", str(ROOT / "benchmarks" / "peer.py"), "--people", *people, "--probes", *probes]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise MissingError(f"{python} cannot run benchmarks/peer.py ({done.stderr.strip().splitlines()[-1]})", "see its docstring")
    return json.loads(done.stdout)


def _words(names: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(names.items(), key=lambda entry: -entry[1])) or "no face"


def _verdicts(run: Run) -> str:
    return ", ".join(event["name"] or event["decision"] for event in run.events if event["event"] == "gone") or "no face"


def speed(clips: dict[str, Path], setup: Setup) -> dict[str, Run]:
    """The table of all runs, printed as it grows."""
    print("| clip | expected | named | frames/s | detect | align | embed | decide | CPU | first verdict s | MB |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    runs = {}
    for name, path in clips.items():
        runs[name] = one = recognise(path, setup)
        ms = " | ".join(f"{value:.2f}" for value in [*(one.summary["ms"][stage] for stage in STAGES), _cpu({name: one})])
        first = f"{one.first:.2f}" if one.first else ""
        expected = ", ".join(EXPECTED.get(name, ())) or "nobody"
        print(f"| {name} | {expected} | {_verdicts(one)} | {one.summary['fps']:.0f} | {ms} | {first} | {one.memory:.0f} |", flush=True)
    detector, interval = one.summary["detector"], one.summary["interval"]
    print(f"\n{detector['name']} at {detector['size']}, looking in one of {interval} frames at rest. Times in ms a frame.")
    print("CPU: of all cores, reading included.\n", flush=True)
    return runs


def side_by_side(runs: dict[str, Run], other: dict[str, Any], clips: dict[str, Path]) -> list[Promise]:
    """The verdicts of both, and how many times faster ours is than each of the peer's ways."""
    print("| clip | Omokage | face_recognition, every frame | face_recognition, quarter size |\n|---|---|---|---|")
    for name, path in clips.items():
        theirs = " | ".join(_words(row["clips"][str(path)]["names"]) for row in other.values())
        print(f"| {name} | {_verdicts(runs[name])} | {theirs} |")
    print()
    every, quarter = other["frame"], other["quarter"]
    times = _fps(runs) / every["fps"]
    return [
        (f"times the frame rate of face_recognition ({every['fps']:.1f}), >= {FASTER:.0f}", f"{times:.1f}", times >= FASTER),
        (f"times less CPU a frame ({every['cpu']:.0f} ms)", f"{every['cpu'] / _cpu(runs):.1f}", None),
        (f"the same, of every second frame at a quarter of its size ({quarter['cpu']:.0f} ms)", f"{quarter['cpu'] / _cpu(runs):.1f}", None),
    ]


def _main(args: argparse.Namespace) -> int:
    if not (args.data / "clips").is_dir():
        raise InputError(f"{args.data} is not the shared data", "name its folder with --data")
    cv2.setNumThreads(2)
    args.out.mkdir(parents=True, exist_ok=True)
    setup = Setup(bundle.find(args.encoder), args.data / "detectors" / "yunet_n_dynamic.onnx", args.out / "gallery.db")
    clips = prepare(args.data, args.out)
    enrol(clips, setup)
    probes = {name: path for name, path in clips.items() if name not in {f"{person}-a" for person in demo.PEOPLE}}
    print(f"{_machine()}; bundle {setup.bundle.name}; clips at {SIZE[0]}x{SIZE[1]}\n")
    runs = speed(probes, setup)
    promises = judge(runs)
    if args.peer:
        promises += side_by_side(runs, peer(args.peer, clips), probes)
    if not args.quick:
        promises.append(found(probes, setup))
        print(work(probes, setup))
    print("| promise | measured | |\n|---|---|---|")
    for what, value, holds in promises:
        print(f"| {what} | {value} | {'' if holds is None else 'holds' if holds else '**missed**'} |")
    return HOLDS_NOT if any(holds is False for _, _, holds in promises) else 0


def _cpu(runs: dict[str, Run]) -> float:
    """Milliseconds of all cores a frame."""
    return 1000 * sum(one.cpu for one in runs.values()) / sum(one.summary["frames"] for one in runs.values())


def _fps(runs: dict[str, Run]) -> float:
    return sum(one.summary["frames"] for one in runs.values()) / sum(one.seconds for one in runs.values())


def judge(runs: dict[str, Run]) -> list[Promise]:
    fps, memory = _fps(runs), max(one.memory for one in runs.values())
    first = max(one.first for one in runs.values() if one.first)
    wrong = {name: one.names - set(EXPECTED.get(name, ())) for name, one in runs.items()}
    right = sum(set(EXPECTED[name]) == runs[name].names for name in EXPECTED)
    return [
        (f"frames a second over all clips, reading included, >= {FPS:.0f}", f"{fps:.1f}", fps >= FPS),
        ("milliseconds of all cores a frame", f"{_cpu(runs):.1f}", None),
        (f"resident memory at most {MEMORY:.0f} MB", f"{memory:.0f}", memory <= MEMORY),
        (f"start to first verdict at most {START:.0f} s (slowest clip)", f"{first:.2f}", first <= START),
        ("clips of enrolled people with the right names and no other", f"{right} of {len(EXPECTED)}", right == len(EXPECTED)),
        ("clips with a wrong name (crowd.mp4 included)", f"{sum(map(bool, wrong.values()))} of {len(runs)}", not any(wrong.values())),
    ]


def _machine() -> str:
    now = datetime.now(timezone.utc).strftime("%Y-%m-%d")
    return f"{os.cpu_count()} cores {platform.machine()}, Python {platform.python_version()}, OpenCV {cv2.__version__}, {now}"


def main(argv: list[str] | None = None) -> int:
    parser = Parser(__doc__)
    parser.add_argument("--data", type=Path, default=demo.shared_data(), help="the shared data (default $OMOKAGE_DATA)")
    parser.add_argument("--out", type=Path, default=Path("build/pipeline"), help="clips and gallery (default: %(default)s)")
    parser.add_argument("--encoder", help="bundle (default: the newest shipped one)")
    parser.add_argument("--quick", action="store_true", help="speed, memory and verdicts alone")
    parser.add_argument("--peer", type=Path, metavar="PYTHON", help="a Python that has face_recognition (default: leave it out)")
    return run(_main, parser, argv)


if __name__ == "__main__":
    sys.exit(main())
