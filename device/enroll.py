"""Add people to the gallery, list and remove them.

  python device/enroll.py add "Grace Hopper" grace.jpg
  python device/enroll.py add Eileen photos/ eileen.mp4
  python device/enroll.py add Eileen --camera 0 --more
  python device/enroll.py list
  python device/enroll.py remove Eileen

A photo gives one template and must show one face; a video or a camera gives the best of what it shows of one face alone.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from device import bundle, detect
from device.align import align
from device.bundle import Bundle
from device.camera import PICTURES, Source, open_camera, open_source, pictures_in, read_picture
from device.detect import Detection, Detector
from device.embed import BACKENDS, open_encoder
from device.gallery import Gallery, Template, default_path, valid_name
from device.program import InputError, Parser, run
from device.quality import quality

THREADS = 2
MOST = 8  # templates from one video: more of the same minutes add little
LOOKS = 10.0  # frames a second of a video that are looked at: neighbours show the same
CAMERA_SECONDS = 10.0
PROGRESS_SECONDS = 5.0
POOR = 0.5  # a quality below this is worth a word


@dataclass(frozen=True, eq=False)
class Candidate:
    """A picture of one face alone: RGB crop uint8 [112, 112, 3], its quality, and the file or camera it is from."""

    crop: np.ndarray
    quality: float
    source: str


@dataclass(frozen=True)
class Skipped:
    """An input that gave nothing, and why."""

    source: str
    error: InputError


class Spread:
    """The best of every stretch of a stream of unknown length: at most `most` candidates, spread over all of it.

    Whenever the stretches are twice too many, neighbours are merged, so that an hour takes no more memory than a second.
    """

    def __init__(self, most: int = MOST):
        self._most = most
        self._length = 1  # frames in a stretch
        self._best: dict[int, Candidate] = {}  # by number of the stretch

    def add(self, index: int, candidate: Candidate) -> None:
        """Offer the candidate of frame `index`; frames come in their order, not all of them have one."""
        while index // self._length >= 2 * self._most:
            self._merge()
        self._keep(index // self._length, candidate)

    def candidates(self) -> list[Candidate]:
        while len(self._best) > self._most:
            self._merge()
        return list(self._best.values())

    def _merge(self) -> None:
        stretches, self._best = self._best, {}
        self._length *= 2
        for number, candidate in stretches.items():
            self._keep(number // 2, candidate)

    def _keep(self, number: int, candidate: Candidate) -> None:
        if number not in self._best or candidate.quality > self._best[number].quality:
            self._best[number] = candidate


def collect(inputs: Sequence[str], name: str, detector: Detector) -> tuple[list[Candidate], list[Skipped]]:
    """What the photos, folders and videos `inputs` show of `name`, and those of them that are of no use."""
    candidates: list[Candidate] = []
    skipped: list[Skipped] = []
    for word in inputs:
        try:
            for source in _files(word):
                try:
                    candidates += from_file(source, name, detector)
                except InputError as error:
                    skipped.append(Skipped(source, error))
        except InputError as error:
            skipped.append(Skipped(word, error))
    return candidates, skipped


def from_file(source: str, name: str, detector: Detector) -> list[Candidate]:
    """The candidates of a photo (one) or of a video. Raises InputError where it shows `name` not at all or not alone."""
    if Path(source).suffix.lower() not in PICTURES:
        with open_source(source) as video:
            return from_video(video, name, detector)
    image = read_picture(Path(source))
    faces = detector.detect(image)
    if not faces:
        raise InputError(f"no face in {source}", f"choose a picture that shows the face of {name} from the front and larger")
    if len(faces) > 1:
        count = "two" if len(faces) == 2 else len(faces)
        raise InputError(f"{count} faces in {source}", f"crop the picture so that only {name} is in it")
    return [_candidate(image, faces[0], source)]


def from_video(video: Source, name: str, detector: Detector) -> list[Candidate]:
    """The best candidates of a video, or of a camera's next seconds. Raises InputError where no frame shows one face alone."""
    spread = Spread()
    alone = several = 0
    step = max(1, round((video.fps or LOOKS) / LOOKS))
    for frame in _watched(video):
        if frame.index % step:
            continue
        faces = detector.detect(frame.image)
        several += len(faces) > 1
        if len(faces) == 1:
            alone += 1
            spread.add(frame.index // step, _candidate(frame.image, faces[0], video.name))
    if not alone:
        wrong = f"no frame of {video.name} shows one face alone ({several} show several)" if several else f"no face in {video.name}"
        raise InputError(wrong, f"choose a video that shows {name} alone, from the front")
    return spread.candidates()


def advice(templates: Sequence[Template], total: int, threshold: float) -> list[str]:
    """Hints that make the recognition of a person better, from the new `templates` and how many there are in all."""
    hints = []
    if total == 1:
        hints.append("only 1 template: add pictures with other light and pose (--more)")
    poor = sorted({template.source for template in templates if template.quality < POOR})
    hints += [f"{source} is small, blurred, dark or turned away: choose a better picture" for source in poor]
    embeddings = np.stack([template.embedding for template in templates])  # [N, D]
    if len(embeddings) > 2:
        likeness = embeddings @ embeddings.T - 2 * np.eye(len(embeddings))  # [N, N], without each one's own
        odd = sorted({template.source for template, best in zip(templates, likeness.max(1), strict=True) if best < threshold})
        hints += [f"{source} looks unlike the other pictures: check that it shows the same person" for source in odd]
    return hints


def add(args: argparse.Namespace) -> int:
    if not args.inputs and args.camera is None:
        raise InputError("there is no picture to learn from", "name a photo, a folder or a video, or --camera N")
    cv2.setNumThreads(THREADS)
    path = args.gallery or default_path()
    used = bundle.find(args.encoder)
    name = _accepted(path, args.name, args.more, used)
    encoder = open_encoder(used, args.backend)
    detector = detect.open_detector(args.detector, args.detector_model)
    candidates, skipped = collect(args.inputs, name, detector)
    if args.camera is not None:
        with open_camera(args.camera) as camera:
            _say(f"look into the camera and turn your head a little, for {CAMERA_SECONDS:.0f} seconds")
            candidates += from_video(camera, name, detector)
    if not candidates:
        raise _nothing(skipped, name)
    embeddings = encoder.embed(np.stack([candidate.crop for candidate in candidates]))
    templates = [
        Template(embedding, used.encoder, used.preprocessing, detector.name, candidate.quality, candidate.source)
        for embedding, candidate in zip(embeddings, candidates, strict=True)
    ]
    with Gallery(path, create=True) as gallery:
        total = gallery.add(name, templates, args.more)
    _tell_added(args.json, name, len(templates), total, skipped, advice(templates, total, used.threshold()))
    return 0


def list_people(args: argparse.Namespace) -> int:
    with Gallery(args.gallery or default_path()) as gallery:
        people, encoder = gallery.people(), gallery.encoder()
    if args.json:
        _print_json({"verb": "list", "people": [asdict(person) for person in people]} | ({"encoder": encoder} if encoder else {}))
    for person in people if not args.json else []:
        print(f"{person.name}\t{_templates(person.templates)}\tsince {person.created[:10]}")
    return 0


def remove(args: argparse.Namespace) -> int:
    with Gallery(args.gallery or default_path()) as gallery:
        count = gallery.remove(args.name)
    name = valid_name(args.name)
    if args.json:
        _print_json({"verb": "remove", "name": name, "templates": count})
    else:
        print(f"removed {name}: {_templates(count)}")
    return 0


def _accepted(path: Path, name: str, more: bool, used: Bundle) -> str:
    """`name` as it is stored, if the gallery would take it from `used`: to be known before the pictures are looked at."""
    if not path.is_file():
        if more:
            raise InputError(f"the gallery {path} is not there", "leave --more out to add a new person")
        return valid_name(name)
    with Gallery(path) as gallery:
        gallery.templates(used)
        return gallery.accept(name, more)


def _files(word: str) -> list[str]:
    return [str(path) for path in pictures_in(Path(word))] if Path(word).is_dir() else [word]


def _watched(video: Source) -> Iterator[Any]:
    """The frames of a file, or of the next seconds of a camera, with a line on how far it is now and then."""
    start = told = time.monotonic()
    for frame in video:
        now = time.monotonic()
        if video.live and now - start > CAMERA_SECONDS:
            return
        if now - told > PROGRESS_SECONDS:
            _say(f"{video.name}: {frame.index} frames so far")
            told = now
        yield frame


def _candidate(image: np.ndarray, face: Detection, source: str) -> Candidate:
    crop = align(image, face.landmarks)
    return Candidate(crop, quality(face, crop), source)


def _nothing(skipped: Sequence[Skipped], name: str) -> InputError:
    first = skipped[0].error
    if len(skipped) == 1:
        return first
    return InputError(f"none of the {len(skipped)} pictures shows {name} alone (the first: {first.wrong})", first.mend)


def _tell_added(as_json: bool, name: str, added: int, total: int, skipped: Iterable[Skipped], hints: list[str]) -> None:
    if as_json:
        reasons = [{"source": entry.source, "reason": entry.error.wrong} for entry in skipped]
        _print_json({"verb": "add", "name": name, "added": added, "skipped": reasons, "templates": total, "advice": hints})
        return
    for entry in skipped:
        _say(f"skipped: {entry.error.wrong}")
    for hint in hints:
        _say(hint)
    print(f"added {name}: {_templates(added)}" + (f", {total} in all" if total > added else ""))


def _templates(count: int) -> str:
    return "1 template" if count == 1 else f"{count} templates"


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _print_json(answer: dict[str, Any]) -> None:
    print(json.dumps(answer, ensure_ascii=False))


class _VerbParser(Parser):
    """Takes pictures behind options too: argparse of many a Python takes those that directly follow NAME alone."""

    def parse_known_args(self, args=None, namespace=None):
        found, rest = super().parse_known_args(args, namespace)
        if "inputs" in found:
            found.inputs += [word for word in rest if not word.startswith("-")]
            rest = [word for word in rest if word.startswith("-")]
        return found, rest


def build_parser() -> Parser:
    parser = Parser(__doc__)
    verbs = parser.add_subparsers(required=True, metavar="add|list|remove", parser_class=_VerbParser)
    adding = verbs.add_parser("add", help="add a person, or templates to one")
    adding.add_argument("name", metavar="NAME")
    adding.add_argument("inputs", nargs="*", metavar="PHOTO|FOLDER|VIDEO")
    adding.add_argument("--camera", type=int, metavar="N", help="learn from this camera, 0 is the first")
    adding.add_argument("--more", action="store_true", help="add templates to a person who is in the gallery")
    adding.add_argument("--encoder", metavar="BUNDLE", help="a bundle of models/ or its folder (default: the newest shipped one)")
    adding.add_argument("--backend", choices=BACKENDS, default="auto", help="where the encoder runs (default: %(default)s)")
    detect.add_arguments(adding)
    listing = verbs.add_parser("list", help="who is in the gallery")
    removing = verbs.add_parser("remove", help="delete a person with all templates")
    removing.add_argument("name", metavar="NAME")
    for verb, does in ((adding, add), (listing, list_people), (removing, remove)):
        verb.add_argument("--gallery", type=Path, metavar="FILE", help="the gallery (default $OMOKAGE_GALLERY, else in ~/.local/share)")
        verb.add_argument("--json", action="store_true", help="the answer as one JSON object")
        verb.set_defaults(does=does)
    return parser


def main(argv: list[str] | None = None) -> int:
    return run(lambda args: args.does(args), build_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
