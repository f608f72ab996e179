"""See Omokage at work without a camera: it films two photos that Python packages bring, and names who it knows.

  python device/demo.py --out build/demo
  python device/demo.py --clips ../shared/data --out build/demo-clips

The first call enrols Eileen Collins from her photo, films that photo and one of Grace Hopper (who is not enrolled), and
recognises the film. It is a smoke test: that all parts work together, not how well faces are recognised.
With --clips people are enrolled from one real video each and looked for in others. Exit status 1: a verdict is wrong.
"""

import argparse
import contextlib
import io
import json
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import util
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from device import detect, draw, enroll, events, recognize
from device.camera import open_source, read_picture
from device.events import Event
from device.program import HOLDS_NOT, InputError, MissingError, Parser, replacing, run

COLLINS = "Eileen Collins"
SIZE = 640, 480  # width and height of the film
FPS = 15
TITLE_FRAMES = 10
SHOT_FRAMES = 28
UNKNOWN = "unknown"
STRANGERS = ("p5-a.mp4", "p6-a.mpg", "p7-a.mpg", "p11-a.mp4")
PEOPLE = ("p1", "p2", "p3", "p4")
SMOKE = """
This is a smoke test: the camera filmed the very photo that Eileen Collins was enrolled from. It shows that all parts work
together; it does not show how well other pictures of a person are recognised.

Look at
  {annotated}  the film with a box and a name on each face
  {sheet}  twelve frames of it in one picture
  {film}  the film as the camera took it
Next: {python} device/enroll.py add NAME PHOTO
      {python} device/recognize.py --camera 0 --save me.mp4"""


@dataclass(frozen=True)
class Shot:
    """A slow move of the camera over a photo. A view is (centre x, centre y, height) in pixels of the BGR `photo`."""

    title: str
    photo: np.ndarray
    start: tuple[float, float, float]
    end: tuple[float, float, float]
    expected: list[str | None]  # who it shows, from left to right; None: somebody unknown


def photo_of(package: str, *parts: str) -> Path:
    """A file that an installed package brings. The package is found and not imported: that would take seconds."""
    spec = util.find_spec(package)
    path = Path(spec.origin).parent.joinpath(*parts) if spec and spec.origin else None
    if path is None or not path.is_file():
        raise MissingError(f"the demo's photo {parts[-1]} is not on this machine", "pip install omokage[demo]")
    return path


def shared_data() -> Path:
    """The data for training, tests and benchmarks: $OMOKAGE_DATA, or ../shared/data beside the checkout."""
    return Path(os.environ.get("OMOKAGE_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")


def storyboard(collins: np.ndarray, hopper: np.ndarray) -> list[Shot]:
    """The film's shots, from both photos (BGR, 512x512 and 512x600)."""
    beside = np.hstack([cv2.resize(collins[:300, 122:322], (400, 600), interpolation=cv2.INTER_CUBIC), hopper[:, 62:462]])
    return [
        Shot("1  Eileen Collins, who is enrolled", collins, (256, 200, 384), (240, 150, 270), [COLLINS]),
        Shot("2  Grace Hopper, who is not", hopper, (262, 222, 300), (256, 230, 384), [None]),
        Shot("3  both at once", beside, (400, 300, 600), (400, 260, 500), [COLLINS, None]),
    ]


def shoot(shots: Iterable[Shot], path: Path) -> None:
    """Write the film: a title, then the move, for each shot."""
    with draw.recording(path, FPS) as write:
        for shot in shots:
            for _ in range(TITLE_FRAMES):
                write(_title(shot.title))
            for t in np.linspace(0, 1, SHOT_FRAMES):
                smooth = t * t * (3 - 2 * t)  # starts and ends softly
                write(_view(shot.photo, *(np.array(shot.start) * (1 - smooth) + np.array(shot.end) * smooth)))


def _view(photo: np.ndarray, x: float, y: float, height: float) -> np.ndarray:
    scale = SIZE[1] / height
    matrix = np.array([(scale, 0, SIZE[0] / 2 - scale * x), (0, scale, SIZE[1] / 2 - scale * y)])
    return cv2.warpAffine(photo, matrix, SIZE, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


def _title(text: str) -> np.ndarray:
    picture = np.full((SIZE[1], SIZE[0], 3), 40, np.uint8)
    width = cv2.getTextSize(text, draw.FONT, 0.9, 2)[0][0]
    cv2.putText(picture, text, ((SIZE[0] - width) // 2, SIZE[1] // 2), draw.FONT, 0.9, (255, 255, 255), 2, cv2.LINE_AA)
    return picture


def call(main: Callable[[list[str]], int], *words: object) -> tuple[str, str]:
    """Run another program's `main`; returns what it printed to stdout and to stderr. Its failure ends this program too."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main([str(word) for word in words])
    if status:
        print(err.getvalue(), end="", file=sys.stderr)
        raise SystemExit(status)
    return out.getvalue(), err.getvalue()


def recognise(source: Path, *options: object) -> tuple[list[Event], dict[str, Any]]:
    """What recognize.py says about `source`: its events and its summary."""
    out, err = call(recognize.main, "--source", source, "--json", *options)
    return [json.loads(line) for line in out.splitlines()], json.loads(err.splitlines()[-1])


def names_in_shots(told: list[Event], shots: int) -> list[list[str | None]]:
    """The final names of each shot's tracks, from left to right."""
    starts = {event["track"]: event["frame"] for event in told if event["event"] == "seen"}
    names: list[list[str | None]] = [[] for _ in range(shots)]
    for event in sorted((event for event in told if event["event"] == "gone"), key=lambda event: event["box"][0]):
        names[starts[event["track"]] // (TITLE_FRAMES + SHOT_FRAMES)].append(event["name"])
    return names


def demo(args: argparse.Namespace) -> int:
    photos = [photo_of("skimage", "data", "astronaut.png"), photo_of("matplotlib", "mpl-data", "sample_data", "grace_hopper.jpg")]
    film, annotated, sheet = (args.out / name for name in ("demo.mp4", "annotated.mp4", "contact-sheet.png"))
    gallery, options = _fresh_gallery(args.out), _options(args)
    call(enroll.main, "add", COLLINS, photos[0], "--gallery", gallery, *options)
    print(f"Enrolled {COLLINS} from one photo, {photos[0].name}.")
    shots = storyboard(*(read_picture(photo) for photo in photos))
    shoot(shots, film)
    print(f"Filmed {len(shots)} shots. Recognising the film ...", flush=True)
    told, summary = recognise(film, "--gallery", gallery, "--save", annotated, *options)
    _write_sheet(annotated, sheet)
    for event in told:
        print("  " + events.line(event))
    print(events.summary_line(summary))
    found = names_in_shots(told, len(shots))
    print("\nWhat was recognised, from left to right:")
    for shot, names in zip(shots, found, strict=True):
        print(f"  {shot.title}: {_list(names)}" + ("" if names == shot.expected else f"  <- WRONG, expected {_list(shot.expected)}"))
    right = all(names == shot.expected for shot, names in zip(shots, found, strict=True))
    python = os.path.relpath(sys.executable) if Path(sys.executable).is_relative_to(Path.cwd()) else "python"
    print(SMOKE.format(annotated=annotated, sheet=sheet, film=film, python=python))
    return 0 if right else HOLDS_NOT


def clips(args: argparse.Namespace) -> int:
    """The people's clips a are enrolled, all their others and the strangers' are recognised."""
    folder, gallery = args.clips / "clips", _fresh_gallery(args.out)
    if not folder.is_dir():
        raise InputError(f"{folder} is not there", "name the shared data folder, or set $OMOKAGE_DATA")
    if args.detector != "mtcnn" and args.detector_model is None:
        args.detector_model = args.clips / "detectors" / "yunet_n_dynamic.onnx"
    options = _options(args)
    for person in PEOPLE:
        call(enroll.main, "add", person, folder / f"{person}-a.mp4", "--gallery", gallery, *options)
    probes = [(f"{person}-{take}.mp4", person) for person in PEOPLE for take in "bc"] + [(clip, None) for clip in STRANGERS]
    print(f"{'clip':10} {'expected':10} {'name':10} {'score':>6} {'verdict':8} {'frames/s':>8}")
    rows = []
    for clip, expected in probes:
        told, summary = recognise(folder / clip, "--gallery", gallery, *options)
        rows.append(_row(clip, expected, told, summary))
        print(_table_line(rows[-1]), flush=True)
    right = sum(row["right"] for row in rows)
    print(f"{right} of {len(rows)} right; people enrolled from one clip each, {summary['backend']}, encoder {summary['encoder']}")
    if args.json:
        with replacing(args.json) as temporary:
            temporary.write_text(json.dumps({"right": right, "clips": rows}, indent=1) + "\n")
    return 0 if right == len(rows) else HOLDS_NOT


def _row(clip: str, expected: str | None, told: list[Event], summary: dict[str, Any]) -> dict[str, Any]:
    """What became of a clip: the final verdict on its longest track. A clip in which no face was found is wrong."""
    gone = [event for event in told if event["event"] == "gone"]
    longest = max(gone, key=lambda event: event["frames"], default={"name": None, "score": None})
    right = bool(gone) and longest["name"] == expected
    return {"clip": clip, "expected": expected, "name": longest["name"], "score": longest["score"], "right": right, "fps": summary["fps"]}


def _table_line(row: dict[str, Any]) -> str:
    score = "no face" if row["score"] is None else f"{row['score']:.2f}"
    verdict = "right" if row["right"] else "WRONG"
    return f"{row['clip']:10} {row['expected'] or UNKNOWN:10} {row['name'] or UNKNOWN:10} {score:>6} {verdict:8} {row['fps']:8.1f}"


def _list(names: list[str | None]) -> str:
    return ", ".join(name or UNKNOWN for name in names) or "no face"


def _fresh_gallery(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("gallery.db*"):  # SQLite keeps files beside it
            old.unlink()
    except OSError as error:
        raise InputError(f"cannot write to {folder} ({error.strerror})", "choose another folder with --out") from error
    return folder / "gallery.db"


def _write_sheet(video: Path, sheet: Path) -> None:
    with open_source(str(video)) as source, replacing(sheet) as temporary:
        cv2.imwrite(str(temporary), draw.contact_sheet([frame.image for frame in source]))


def _options(args: argparse.Namespace) -> list[object]:
    """The options that enroll.py and recognize.py share with this program, as the user set them."""
    shared = ("encoder", "detector", "detector_model", "detector_size", "min_face")
    given = {f"--{name.replace('_', '-')}": getattr(args, name) for name in shared}
    words = [word for option, value in given.items() if value is not None for word in (option, value)]
    return [*words, "--skip-still"] if args.skip_still else words


def build_parser() -> Parser:
    parser = Parser(__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/demo"), metavar="FOLDER", help="what is written (default: %(default)s)")
    parser.add_argument(
        "--clips", type=Path, nargs="?", const=shared_data(), metavar="DATA", help="the data (default $OMOKAGE_DATA, else ../shared/data)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="with --clips: write the table as JSON")
    parser.add_argument("--encoder", metavar="BUNDLE", help="a bundle of models/ or its folder (default: the newest shipped one)")
    detect.add_arguments(parser)
    return parser


def _chosen(args: argparse.Namespace) -> int:
    if args.clips is not None:
        return clips(args)
    if args.json is not None:
        raise InputError("--json writes the table of --clips", "add --clips, or leave --json out")
    return demo(args)


def main(argv: list[str] | None = None) -> int:
    return run(_chosen, build_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
