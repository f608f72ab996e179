"""Name the faces that a camera or a file shows.

  python device/recognize.py --camera 0 --show
  python device/recognize.py --source door.mp4 --json
  python device/recognize.py --source photos/ --save annotated.mp4

One line an event on stdout: seen (a face was recognised, or found unknown), changed (on second thoughts), gone (it left).
A face that is found in one or two frames of a video only is taken for a false detection and not told. In a photo, and in
each photo of a folder, every face is told. A summary follows on stderr. Ctrl-C ends cleanly.
"""

import argparse
import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import TextIO

import cv2
import numpy as np

from device import bundle, detect, draw, events
from device.bundle import Bundle
from device.camera import Frame, Source, open_camera, open_source
from device.decide import NearestNeighbours
from device.embed import BACKENDS, open_encoder
from device.events import Event
from device.gallery import Gallery, default_path
from device.pipeline import Recogniser
from device.program import INTERRUPTED, MissingError, Parser, run

THREADS = 2  # more gain little on frames this small, and a Raspberry Pi has other things to do
LIVE_FPS = 15.0  # of the video that --save writes where the camera does not tell its own
WINDOW = "Omokage"
QUIT = {ord("q"), 27}  # 27: Esc
NO_KEY = 0xFF
EMPTY = "nobody is enrolled yet, so everyone is unknown: python device/enroll.py add NAME PHOTO"


def build_parser() -> Parser:
    parser = Parser(__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--camera", type=int, metavar="N", help="the camera with this number, 0 is the first")
    what.add_argument("--source", metavar="FILE|FOLDER|URL", help="a video, a photo, a folder of photos, or an RTSP or HTTP stream")
    parser.add_argument("--gallery", type=Path, metavar="FILE", help="who is known (default $OMOKAGE_GALLERY, else in ~/.local/share)")
    parser.add_argument("--encoder", metavar="BUNDLE", help="a bundle of models/ or its folder (default: the newest shipped one)")
    parser.add_argument("--backend", choices=BACKENDS, default="auto", help="where the encoder runs (default: %(default)s)")
    detect.add_arguments(parser)
    parser.add_argument("--json", action="store_true", help="events as JSON lines; the last line on stderr is the summary as JSON")
    parser.add_argument("--show", action="store_true", help="show a window; q or Esc ends, any other key turns to the next photo")
    parser.add_argument("--save", type=Path, metavar="VIDEO", help=f"write the annotated video ({', '.join(draw.CODECS)})")
    return parser


def recognize(args: argparse.Namespace) -> int:
    if args.show:
        _require_window()
    cv2.setNumThreads(THREADS)
    used = bundle.find(args.encoder)
    embeddings, names = _templates(args.gallery or default_path(), used)
    decider = NearestNeighbours(embeddings, names, used.threshold())
    encoder = open_encoder(used, args.backend)
    detector = detect.open_detector(args.detector, args.detector_model)
    with open_camera(args.camera) if args.source is None else open_source(args.source) as source:
        recogniser = Recogniser(detector, encoder, decider, stills=source.stills)
        with _record(args.save, source) as record:
            if not names:
                notice = events.notice("gallery-empty", "warning", EMPTY)
                _tell(notice, args, sys.stdout if args.json else sys.stderr)
            interrupted, elapsed = _watch(source, recogniser, record, args)
    summary = recogniser.summary(used.encoder, elapsed)
    print(json.dumps(summary) if args.json else events.summary_line(summary), file=sys.stderr)
    return INTERRUPTED if interrupted else 0


def _templates(path: Path, used: Bundle) -> tuple[np.ndarray, list[str]]:
    """Embeddings [N, D] and names of the gallery; none where nobody has enrolled anyone yet."""
    if not path.exists():
        return np.zeros((0, used.dimension), np.float32), []
    with Gallery(path) as gallery:
        return gallery.templates(used)


def _tell(event: Event, args: argparse.Namespace, file: TextIO) -> None:
    print(json.dumps(event, ensure_ascii=False) if args.json else events.line(event), file=file, flush=True)


def _watch(
    source: Source, recogniser: Recogniser, record: Callable[[Frame, np.ndarray], None] | None, args: argparse.Namespace
) -> tuple[bool, float]:
    """Recognise frame by frame until the source, the user in the window or Ctrl-C ends it; was it Ctrl-C, and seconds taken."""
    start, interrupted = time.perf_counter(), False
    try:
        for frame in source:
            news, sightings = recogniser.process(frame)
            for event in news:
                _tell(event, args, sys.stdout)
            picture = draw.annotate(frame.image, sightings) if record or args.show else frame.image
            if record:
                record(frame, picture)
            if args.show and not _show(picture, source):
                break
    except KeyboardInterrupt:
        interrupted = True
    elapsed = time.perf_counter() - start
    for event in recogniser.finish():
        _tell(event, args, sys.stdout)
    return interrupted, elapsed


@contextlib.contextmanager
def _record(path: Path | None, source: Source) -> Iterator[Callable[[Frame, np.ndarray], None] | None]:
    """A function that adds the annotated picture of a frame to the video `path`.

    A live source has no steady rate: a frame is written as often as its time asks, so that the video runs at true speed. Gaps
    of more than a second are left out: the clock may have been set.
    """
    if path is None:
        yield None
        return
    fps = source.fps or LIVE_FPS
    last: datetime | None = None
    owed = 0.0  # copies of the next frame
    with draw.recording(path, fps) as write:

        def record(frame: Frame, picture: np.ndarray) -> None:
            nonlocal last, owed
            gap = (frame.time - last).total_seconds() if last and source.live else 1 / fps
            owed += fps * min(max(gap, 0.0), 1.0)
            last, copies = frame.time, round(owed)
            for _ in range(copies):
                write(picture)
            owed -= copies

        yield record


def _require_window() -> None:
    if not cv2.currentUIFramework():
        raise MissingError("this OpenCV cannot open windows", "pip install opencv-python in place of opencv-python-headless")
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise MissingError("there is no screen to show a window on", "use --save VIDEO, or set $DISPLAY")


def _show(picture: np.ndarray, source: Source) -> bool:
    """Show a picture in the window, a photo until a key is pressed. Returns whether to go on."""
    stills = source.stills
    cv2.imshow(WINDOW, picture)
    while True:
        key = cv2.waitKey(50 if stills else 1) & 0xFF
        if key in QUIT or cv2.getWindowProperty(WINDOW, cv2.WND_PROP_VISIBLE) < 1:
            return False
        if key != NO_KEY or not stills:
            return True


def main(argv: list[str] | None = None) -> int:
    return run(recognize, build_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
