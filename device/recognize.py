"""Name the faces that a camera or a file shows.

  python device/recognize.py --camera 0 --show
  python device/recognize.py --source door.mp4 --json
  python device/recognize.py --source photos/ --save annotated.mp4

One line an event on stdout: seen (a face was recognised, or found unknown), changed (on second thoughts), gone (it left). The
log on stderr says why a face was or was not named. A face that is found in one or two frames of a video only is taken for a
false detection and not told. In a photo, and in each photo of a folder, every face is told. A camera that is lost is opened
again until it is back. A summary follows on stderr. Ctrl-C ends cleanly.
"""

import argparse
import contextlib
import json
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2

from device import bundle, detect, draw, events, journal, logs, openset, receivers, vault
from device.camera import Frame, Source, looped, open_camera, open_source
from device.embed import BACKENDS, open_encoder
from device.events import Event
from device.gallery import default_path
from device.harvest import Harvest
from device.known import ADAPTED, CLASSIFIERS, Judge, Known
from device.live import Live
from device.outputs import TOLD, Film, Snapshots, Window
from device.pipeline import INTERVAL, Recogniser, Sighting
from device.program import HOLDS_NOT, INTERRUPTED, Parser, run
from device.receivers import Receivers
from device.recorder import Recorder
from device.unknowns import DAYS, Unknowns
from device.watchdog import Watchdog

THREADS = 2  # more gain little on frames this small, and a Raspberry Pi has other things to do
PROMISE = "share of the pictures of strangers that may get a name, against the whole gallery"
EMPTY = "nobody is enrolled yet, so everyone is unknown: python device/enroll.py add NAME PHOTO"


class Terminated(KeyboardInterrupt):
    """The system asks for the end (SIGTERM), which is no interruption."""


def build_parser() -> Parser:
    parser = Parser(__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--camera", type=int, metavar="N", help="the camera with this number, 0 is the first")
    what.add_argument("--source", metavar="FILE|FOLDER|URL", help="a video, a photo, a folder of photos, or an RTSP or HTTP stream")
    parser.add_argument("--gallery", type=Path, metavar="FILE", help="who is known (default $OMOKAGE_GALLERY, else in ~/.local/share)")
    parser.add_argument("--encoder", metavar="BUNDLE", help="a bundle of models/ or its folder (default: the newest shipped one)")
    parser.add_argument("--backend", choices=BACKENDS, default="auto", help="where the networks run (default: %(default)s)")
    told = f"{PROMISE} (default: what the page has set in the gallery, else {bundle.FAR:g})"
    parser.add_argument("--far", type=openset.rate, metavar="SHARE", help=told)
    parser.add_argument(
        "--classifier",
        choices=(*CLASSIFIERS, ADAPTED),
        default="knn",
        help="nearest templates, an SVM, or a head that adapts to the people (default: %(default)s)",
    )
    detect.add_arguments(parser)
    parser.add_argument(
        "--interval", type=_positive, default=INTERVAL, metavar="N", help="look for faces in every Nth frame at rest (default: %(default)s)"
    )
    parser.add_argument(
        "--remember-unknowns",
        type=_days,
        nargs="?",
        const=DAYS,
        metavar="DAYS",
        help=f"give strangers a number that stays, for so many days after their last visit ({DAYS:g} without a number; default: off)",
    )
    vault.add_arguments(parser)
    parser.add_argument("--loop", action="store_true", help="play a video again and again at its own pace, as if a camera saw it")
    parser.add_argument("--journal", type=Path, metavar="DIR", help="keep who came by, and show live, for device/serve.py (default: off)")
    parser.add_argument("--journal-crops", action="store_true", help="keep a picture of each face there too (default: none)")
    parser.add_argument(
        "--journal-days", type=_days, default=journal.DAYS, metavar="DAYS", help="and all of it for so long (default: %(default)g)"
    )
    receivers.add_arguments(parser)
    logs.add_arguments(parser)
    parser.add_argument("--json", action="store_true", help="events as JSON lines; the last line on stderr is the summary as JSON")
    parser.add_argument("--show", action="store_true", help="show a window; q or Esc ends, any other key turns to the next photo")
    parser.add_argument("--save", type=Path, metavar="VIDEO", help=f"write the annotated video ({', '.join(draw.CODECS)})")
    parser.add_argument("--snapshots", type=Path, metavar="DIR", help="keep a picture of every seen and changed (default: none)")
    parser.add_argument(
        "--harvest", type=Path, metavar="DIR", help="keep the best crops of faces without a name, for enroll.py cluster (default: none)"
    )
    return parser


def _positive(word: str) -> int:
    number = int(word)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def _days(word: str) -> float:
    days = float(word)
    if not 0 < days <= 3650:
        raise argparse.ArgumentTypeError(f"{word} is not between 0 and 3650")
    return days


class Voice:
    """Says what happens: events on stdout and to whoever else is told, and of notices a line in the log too. From any thread."""

    def __init__(self, as_json: bool):
        self.receivers: Receivers | None = None
        self._json = as_json
        self._lock = threading.RLock()

    def tell(self, event: Event, aloud: bool = True) -> None:
        with self._lock:
            if self.receivers:  # first: what was printed will be delivered, whatever happens next
                self.receivers.tell(event)
            if aloud:
                print(json.dumps(event, ensure_ascii=False) if self._json else events.line(event), flush=True)

    def notice(self, code: str, message: str, level: str = "warning") -> None:
        event = events.notice(code, level, message)
        logging.getLogger("omokage").log(getattr(logging, level.upper()), events.line(event), extra={"notice": event})
        self.tell(event, aloud=self._json)


class Outputs:
    """Window, video and snapshots, as far as they are wanted. One that fails is told and given up; the recogniser goes on."""

    def __init__(self, args: argparse.Namespace, voice: Voice):
        self.failed = False
        self._voice = voice
        self._window = Window() if args.show else None
        self._snapshots = Snapshots(args.snapshots) if args.snapshots else None
        self._film: Film | None = None
        self.recorder: Recorder | None = None
        self.live: Live | None = None

    @contextlib.contextmanager
    def filming(self, path: Path | None, source: Source) -> Iterator[None]:
        """Write the video within the block."""
        self._stills = source.stills
        with contextlib.ExitStack() as stack:
            if path is not None:
                self._film = stack.enter_context(Film(path, source))
            yield
            if self._film:
                self._attempt("video", self._film.close)

    def note(self, news: list[Event]) -> None:
        """Tell what has happened, and write it down."""
        for event in news:
            self._voice.tell(event)
        if self.recorder:
            self.recorder.note(news)

    def take(self, frame: Frame, sightings: list[Sighting], news: list[Event]) -> bool:
        """Show and keep what there is to see in a frame. Returns whether to go on."""
        if self.live:
            self.live.offer(frame.image, sightings)
        told = [event for event in news if event["event"] in TOLD] if self._snapshots else []
        if not (self._film or self._window or told):
            return True
        picture = draw.annotate(frame.image, sightings)
        if self._film and not self._attempt("video", self._film.take, frame, picture):
            self._attempt("video", self._film.close)
            self._film = None
        if self._snapshots and told and not self._attempt("snapshots", self._snapshots.take, told, picture):
            self._snapshots = None
        return self._window is None or self._window.show(picture, wait=self._stills)

    def _attempt(self, what: str, work: Callable[..., None], *args: Any) -> bool:
        try:
            work(*args)
            return True
        except (OSError, cv2.error) as error:
            self._voice.notice(f"{what}-failed", f"the {what} cannot be written any more ({error}): free some space", "error")
            self.failed = True
            return False


def recognize(args: argparse.Namespace) -> int:
    voice, heart = Voice(args.json), Watchdog()
    outputs = Outputs(args, voice)
    cv2.setNumThreads(THREADS)
    used = bundle.find(args.encoder)
    judge = Judge.of(used, args.far or bundle.FAR, args.classifier)
    usual_far = bundle.FAR if args.far is None else None
    path, key = args.gallery or default_path(), vault.find_key(args.key_file)
    with contextlib.ExitStack() as stack:
        told = voice.receivers = stack.enter_context(contextlib.closing(Receivers(args, path, voice.notice, key)))
        known = stack.enter_context(contextlib.closing(Known(path, used, judge, voice.notice, key=key, usual_far=usual_far)))
        detector = detect.of_arguments(args)
        encoder = stack.enter_context(contextlib.closing(open_encoder(used, args.backend, voice.notice, detector.model)))
        source = stack.enter_context(_open(args, voice, heart))
        unknowns = None
        if args.remember_unknowns:
            unknowns = stack.enter_context(
                contextlib.closing(Unknowns(path, used, args.remember_unknowns, detector.name, voice.notice, key))
            )
        recogniser = Recogniser(detector, encoder, known.decider, source.stills, args.interval, like=used.threshold(), memory=unknowns)
        if args.harvest:
            recogniser.keepers.append(Harvest(args.harvest, voice.notice))
        if args.journal:
            recorder = Recorder(args.journal, used, detector.name, voice.notice, key, args.journal_days, args.journal_crops)
            outputs.recorder = stack.enter_context(contextlib.closing(recorder))
            outputs.live = stack.enter_context(contextlib.closing(Live(args.journal / journal.SOCKET, told.answers())))
            recogniser.keepers.append(recorder)
        stack.enter_context(outputs.filming(args.save, source))
        told.people(known.names)
        told.follow(recogniser)
        if not known.people:
            voice.notice("gallery-empty", EMPTY)
        elif differs := detect.differs(known.detectors(), detector):
            voice.notice("detector-differs", differs)
        heart.ready()
        interrupted, elapsed = _watch(source, known, recogniser, outputs, voice, heart, told)
        summary = recogniser.summary(used.encoder, elapsed)
    print(json.dumps(summary) if args.json or args.log == "json" else events.summary_line(summary), file=sys.stderr)
    return INTERRUPTED if interrupted else HOLDS_NOT if outputs.failed else 0


def _open(args: argparse.Namespace, voice: Voice, heart: Watchdog) -> Source:
    if args.source is None:
        return open_camera(args.camera, voice.notice, heart.beat)
    if args.loop:
        return looped(args.source)
    return open_source(args.source, voice.notice, heart.beat)


def _watch(
    source: Source, known: Known, recogniser: Recogniser, outputs: Outputs, voice: Voice, heart: Watchdog, told: Receivers
) -> tuple[bool, float]:
    """Recognise frame by frame until the source, the user in the window or Ctrl-C ends it; was it Ctrl-C, and seconds taken."""
    start, interrupted, broken = time.perf_counter(), False, False
    try:
        for frame in source:
            heart.beat()
            if known.poll():
                recogniser.decider = known.decider
                told.people(known.names)
            try:
                news, sightings = recogniser.process(frame)
            except (ValueError, cv2.error) as error:  # no picture, or one that OpenCV cannot work with
                if not broken:
                    reason = " ".join(str(error).split())
                    voice.notice("frame-broken", f"frame {frame.index} of {frame.source} cannot be used ({reason}), it is passed over")
                broken = True
                continue
            broken = False
            told.frame()
            outputs.note(news)
            if not outputs.take(frame, sightings, news):
                break
    except KeyboardInterrupt as interrupt:
        interrupted = not isinstance(interrupt, Terminated)
    elapsed = time.perf_counter() - start
    heart.stopping()
    outputs.note(recogniser.finish())
    return interrupted, elapsed


@contextlib.contextmanager
def _ending_on_sigterm() -> Iterator[None]:
    def end(*_: object) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _main(args: argparse.Namespace) -> int:
    with logs.to_stderr(args.log), _ending_on_sigterm():
        return recognize(args)


def main(argv: list[str] | None = None) -> int:
    return run(_main, build_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
