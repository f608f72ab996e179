"""Our own face detector against its teacher, YuNet: every promise about it, measured.

  python benchmarks/detector.py --data ../shared/data --detector models/omokage-detector

LFW's raw photos, the clips and the photos of noface_test.txt, none of which trained it or chose its score; time, size and the
estimate for the Edge TPU; what tiles and skipping still frames bring. WIDER FACE, which the literature measures on, is not
among the data: its figures cannot be given. Exit status 1 if a promise is not kept.
"""

import argparse
import itertools
import json
import os
import platform
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import cv2
import numpy as np

from convert import check
from device import boxes, bundle
from device.align import align
from device.camera import open_source
from device.demo import shared_data
from device.detect import NAMES, Detector, OmokageDetector, YunetDetector, open_detector
from device.embed import Encoder
from device.motion import GatedDetector
from device.program import HOLDS_NOT, InputError, Parser, run
from device.tiles import TiledDetector
from train import data, metrics
from train.detector import photos
from train.detector.agreement import Agreement, agreement
from train.detector.teacher import Faces, Teacher
from train.prepare import main_face

RECALL, LANDMARKS = 0.99, 0.04
CLEAR, HALF_SEEN = 0.7, 0.35  # YuNet's scores: a face that is to be found; a place where a detection is not called false
FALSE_FRAMES = 500  # frames of the clips in which one false detection is allowed
FALSE_EMPTY = 2  # false detections on photos without people
INT8_LOSS, VERIFICATION_LOSS = 0.01, 0.003
BYTES, MILLISECONDS = 700_000, 4.0
FOLDS = 10
TIMED = "p2-b.mp4"  # 640x360


@dataclass(frozen=True)
class Line:
    """A promise, what was measured in words, and whether it holds (None: nothing was promised)."""

    promise: str
    found: str
    holds: bool | None = None


class Yunet:
    """The teacher as the recogniser uses it, what it half believes, and as it teaches: its mean over views."""

    def __init__(self, model: Path):
        self.clear, self._half, self.mean = YunetDetector(model), YunetDetector(model, score=HALF_SEEN), Teacher(model)

    def see(self, image: np.ndarray) -> Faces:
        rows = _rows(self._half, image)
        return Faces(rows, rows[:, -1] >= CLEAR)


def _rows(detector: Detector, image: np.ndarray) -> np.ndarray:
    return np.array([found.row for found in detector.detect(image)], np.float32).reshape(-1, boxes.ROW)


def agreed(detector: Detector, yunet: Yunet, images: Iterable[np.ndarray]) -> Agreement:
    return agreement((_rows(detector, image), yunet.see(image)) for image in images)


def faces(detector: Detector, yunet: Yunet, folder: Path) -> Iterator[Line]:
    """LFW's photos, the clips, photos without people."""
    lfw = list(photos.read([folder / "lfw" / "raw.zip"]).values())
    found = agreed(detector, yunet, lfw)
    told = f"{len(found.errors)} of {found.wanted} ({found.recall:.2%})"
    yield Line(f"LFW, {len(lfw)} photos: YuNet's faces of score {CLEAR} found (IoU 0.5), >= {RECALL:.0%}", told, found.recall >= RECALL)
    told = f"{found.landmarks:.2%}"
    yield Line(f"LFW: mean landmark error, share of the distance between the eyes, <= {LANDMARKS:.0%}", told, found.landmarks <= LANDMARKS)
    seen = [yunet.mean.see(image) for image in lfw]
    for name, each in {"ours": detector, "YuNet itself": yunet.clear}.items():
        against = agreement(zip((_rows(each, image) for image in lfw), seen, strict=True))
        told = f"{against.landmarks:.2%}, median {np.median(against.errors):.2%}"
        yield Line(f"LFW: landmark error of {name} against the mean of what YuNet says of six views, its noise averaged out", told)
    counts = {}
    for path in _clips(folder):
        with open_source(str(path)) as source:
            counts[path.name] = agreed(detector, yunet, (frame.image for frame in source))
    wanted, hits = sum(each.wanted for each in counts.values()), sum(len(each.errors) for each in counts.values())
    told = f"{hits} of {wanted} ({hits / wanted:.2%}); missed: {_worst(counts)}"
    yield Line(f"{len(counts)} clips: the same, >= {RECALL:.0%}", told, hits / wanted >= RECALL)
    frames, false = sum(each.photos for each in counts.values()), sum(each.false for each in counts.values())
    allowed = frames / FALSE_FRAMES
    yield Line(f"clips: false detections, <= 1 in {FALSE_FRAMES} frames", f"{false} in {frames} frames", false <= allowed)
    nobody = _without_people(folder)
    false = sum(len(detector.detect(image)) for image in nobody.values())
    theirs = sum(len(yunet.clear.detect(image)) for image in nobody.values())
    told = f"{false} (YuNet: {theirs})"
    yield Line(f"{len(nobody)} photos without people: false detections, <= {FALSE_EMPTY}", told, false <= FALSE_EMPTY)


def _worst(counts: Mapping[str, Agreement]) -> str:
    missed = {name: each.wanted - len(each.errors) for name, each in counts.items()}
    return ", ".join(f"{name} {count}" for name, count in sorted(missed.items(), key=lambda item: -item[1])[:4] if count) or "none"


def _clips(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / "clips").iterdir() if path.suffix in {".mp4", ".mpg"})


def _without_people(folder: Path) -> dict[str, np.ndarray]:
    kept = {f"noface/{Path(name).stem}" for name in data.read_list(folder / "noface_test.txt")}
    return {name: image for name, image in photos.read([folder / "noface.zip"]).items() if name in kept}


def int8(used: bundle.DetectorBundle) -> Line:
    """As the bundle's report has it: on photos kept back from training."""
    report = json.loads((used.path / "report.json").read_text("utf-8"))
    lost = report["float"]["recall"] - report["int8"]["recall"]
    found = "recall {:.2%} and {:.2%} of {} faces, landmark error {:.2%} and {:.2%}".format(
        *(report[kind]["recall"] for kind in ("float", "int8")),
        report["int8"]["faces"],
        *(report[kind]["landmark_error"] for kind in ("float", "int8")),
    )
    return Line("float and int8 on photos kept back: within 1 point", found, lost <= INT8_LOSS)


def speed(used: bundle.DetectorBundle, model: Path, clip: Path) -> Iterator[Line]:
    """One core, both detectors in turn on each frame; detection whole, from the frame to the faces."""
    cv2.setNumThreads(1)
    ours = OmokageDetector(used.model, used.score, threads=1)
    detectors: dict[str, Detector] = {"ours": ours, "YuNet": YunetDetector(model, ours.size)}
    seconds: dict[str, list[float]] = {name: [] for name in detectors}
    with open_source(str(clip)) as source:
        images = [cv2.resize(frame.image, (320, 240)) for frame in source]
    for image in images:
        for name, detector in detectors.items():
            start = time.perf_counter()
            detector.detect(image)
            seconds[name].append(time.perf_counter() - start)
    cv2.setNumThreads(2)
    own, yunet = (1000 * float(np.median(seconds[name])) for name in detectors)
    yield Line(f"ms a frame of 320x240 on one core, <= {MILLISECONDS:g}", f"{own:.2f}", own <= MILLISECONDS)
    yield Line("faster than YuNet at the same size, in the same run", f"{own:.2f} ms against {yunet:.2f} ms", own < yunet)
    size = used.model.stat().st_size
    yield Line(f"bytes of the int8 file, <= {BYTES:,}", f"{size:,}", size <= BYTES)


def edgetpu(used: bundle.DetectorBundle, encoder: bundle.Bundle) -> Iterator[Line]:
    """What convert/check.py says of the detector, and of it and the encoder together."""
    report, other = check.check(used.model), check.check(encoder.path / bundle.ENCODER)
    mapped = sum(operation["target"] == "tpu" for operation in report["operations"])
    yield Line("operations that map to the Edge TPU: all", f"{mapped} of {len(report['operations'])}", report["maps"] == "all")
    times = {host: report["latency_ms"][host] for host in ("usb3", "pi4")}
    told = ", ".join(f"{check.HOSTS[host]} {t['estimate']:.1f} ms ({t['low']:.1f} to {t['high']:.1f})" for host, t in times.items())
    yield Line("an inference on the Edge TPU, estimated", told)
    needed = report["memory"]["occupied"] + other["memory"]["occupied"]
    room = min(report["memory"]["available"], other["memory"]["available"])
    streamed = report["memory"]["streamed"] + other["memory"]["streamed"]
    told = f"{check.size(needed)} of {check.size(room)}, {streamed} bytes streamed"
    yield Line(f"detector and {encoder.name} stay on the chip together, estimated", told, needed <= room and not streamed)


@dataclass(frozen=True)
class Pairs:
    """Pairs of `images`: as many of strangers as of one person, in ten folds that share nobody."""

    images: list[np.ndarray]
    left: np.ndarray
    right: np.ndarray
    same: np.ndarray
    fold: np.ndarray


def lfw_pairs(folder: Path) -> Pairs:
    """Of LFW's raw photos, the same ones each time."""
    images = photos.read([folder / "lfw" / "raw.zip"])
    people = np.array([name.split("/")[1] for name in images])
    known = sorted(set(people))
    fold = np.array([known.index(person) % FOLDS for person in people])
    left, right = np.triu_indices(len(people), 1)
    inside = fold[left] == fold[right]
    left, right = left[inside], right[inside]
    same = people[left] == people[right]
    rng = np.random.default_rng(0)
    chosen = np.concatenate([np.flatnonzero(same), rng.choice(np.flatnonzero(~same), same.sum(), replace=False)])
    left, right = left[chosen], right[chosen]
    return Pairs(list(images.values()), left, right, same[chosen], fold[left])


def verification(detectors: Mapping[str, Detector], pairs: Pairs, encoder: bundle.Bundle) -> Iterator[Line]:
    """What crops made with our detector cost against YuNet's, and what it costs where a gallery was made with another detector than
    the one that recognises: of each pair one photo through either."""
    net = Encoder(encoder.path / bundle.ENCODER)
    embeddings = {name: net.embed(np.stack([_crop(image, used) for image in pairs.images])) for name, used in detectors.items()}
    found, accepted = {}, {}
    for enrolled, seen in itertools.product(detectors, detectors):
        scores = (embeddings[enrolled][pairs.left] * embeddings[seen][pairs.right]).sum(1)
        found[enrolled, seen] = metrics.verification(scores, pairs.same, pairs.fold).accuracy
        accepted[enrolled, seen] = float((scores[pairs.same] >= encoder.threshold()).mean())
    count = f"LFW's raw photos, {len(pairs.same)} pairs, {encoder.name}"
    if "omokage" in detectors:
        own, theirs = (found[name, name] for name in ("omokage", "yunet"))
        told = f"{own:.2%} through ours, {theirs:.2%} through YuNet"
        yield Line(f"{count}: at most 0.3 points less right than through YuNet", told, theirs - own <= VERIFICATION_LOSS)
    for enrolled, seen in found:
        told = f"{found[enrolled, seen]:.2%} right; {accepted[enrolled, seen]:.2%} of one person's pairs above the threshold"
        yield Line(f"{count}: enrolled with {enrolled}, seen with {seen}", told)


def _crop(image: np.ndarray, detector: Detector) -> np.ndarray:
    """The crop of the photo's face; without one, the middle of the photo, which will not verify."""
    found = detector.detect(image)
    if not found:
        return cv2.cvtColor(cv2.resize(image, (112, 112)), cv2.COLOR_BGR2RGB)
    return align(image, main_face(found, *image.shape[:2]).landmarks)


def more(detector: OmokageDetector, yunet: Yunet, folder: Path) -> Iterator[Line]:
    """What tiles find in crowd.mp4, and how often a still scene is not looked at."""
    with open_source(str(folder / "clips" / "crowd.mp4")) as source:
        images = [frame.image for frame in source][::5]
    for least in (24.0, 12.0):
        found = agreed(TiledDetector(detector, least), yunet, images)
        told = f"{len(found.errors)} of {found.wanted}, {found.false} false"
        yield Line(f"crowd.mp4, every fifth frame, --min-face {least:g}: YuNet's faces found", told)
    gated = GatedDetector(detector)
    rng = np.random.default_rng(0)
    noisy = [np.clip(images[0] + rng.normal(0, 5, images[0].shape), 0, 255).astype(np.uint8) for _ in range(60)]
    for image in noisy:
        gated.detect(image)
    yield Line("a still picture with noise of 5 grey levels, --skip-still: frames looked at", f"{gated.looks} of {len(noisy)}")
    gated = GatedDetector(detector)
    with open_source(str(folder / "clips" / TIMED)) as source:
        count = [len(gated.detect(frame.image)) for frame in source]
    yield Line(f"{TIMED}, somebody who speaks: the same", f"{gated.looks} of {len(count)}")


def _machine() -> str:
    now = datetime.now(timezone.utc).strftime("%Y-%m-%d")
    return f"{os.cpu_count()} cores {platform.machine()}, Python {platform.python_version()}, OpenCV {cv2.__version__}, {now}"


def _main(args: argparse.Namespace) -> int:
    if not (args.data / "clips").is_dir():
        raise InputError(f"{args.data} is not the shared data", "name its folder with --data")
    encoder, yunet = bundle.find(args.encoder), Yunet(args.data / "detectors" / "yunet_n_dynamic.onnx")
    if args.mixed:
        names = {name: open_detector(name, args.detector if name == "omokage" else None) for name in args.mixed if name != "yunet"}
        return _told(encoder.name, [*verification({"yunet": yunet.clear, **names}, lfw_pairs(args.data), encoder)])
    used = bundle.load_detector(args.detector)
    detector = OmokageDetector(used.model, used.score)
    lines = [*speed(used, args.data / "detectors" / "yunet_n_dynamic.onnx", args.data / "clips" / TIMED)]
    if not args.speed:
        lines += [*faces(detector, yunet, args.data), int8(used), *edgetpu(used, encoder)]
        lines += [*verification({"omokage": detector, "yunet": yunet.clear}, lfw_pairs(args.data), encoder)]
        lines += more(detector, yunet, args.data)
    return _told(f"{used.name}, score {used.score:g}", lines)


def _told(what: str, lines: Sequence[Line]) -> int:
    print(f"{what}; {_machine()}\n\n| promise | measured | holds |\n|---|---|---|")
    for line in lines:
        print(f"| {line.promise} | {line.found} | {'' if line.holds is None else 'yes' if line.holds else 'no'} |")
    return HOLDS_NOT if any(line.holds is False for line in lines) else 0


def main(argv: list[str] | None = None) -> int:
    parser = Parser(__doc__)
    parser.add_argument("--data", type=Path, default=shared_data(), help="the shared data (default $OMOKAGE_DATA)")
    parser.add_argument("--detector", type=Path, default=bundle.MODELS / bundle.SHIPPED_DETECTOR, help="its bundle (default: %(default)s)")
    parser.add_argument("--encoder", help="bundle of the encoder (default: the newest shipped one)")
    parser.add_argument("--speed", action="store_true", help="time and size alone")
    told = "verification alone, between YuNet and these detectors: what it costs to enrol with one and to recognise with another"
    parser.add_argument("--mixed", nargs="+", choices=NAMES, metavar="DETECTOR", help=told)
    return run(_main, parser, argv)


if __name__ == "__main__":
    sys.exit(main())
