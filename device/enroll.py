"""Add people to the gallery, look after them, and remove them.

  python device/enroll.py add "Grace Hopper" grace.jpg
  python device/enroll.py add Eileen photos/ eileen.mp4
  python device/enroll.py add Eileen --camera 0 --more
  python device/enroll.py show Eileen
  python device/enroll.py rename Eileen "Eileen Collins"
  python device/enroll.py check --html check.html
  python device/enroll.py name unknown-7 Alice
  python device/enroll.py undo
  python device/enroll.py remove "Eileen Collins"
  python device/enroll.py cluster photos/ --out clusters/
  python device/enroll.py name-clusters clusters/

A photo gives one template and must show one face; a video or a camera gives the best of what it shows of one face alone.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import cv2
import numpy as np

from device import bundle, coverage, detect, enrolment, naming, openset, unnamed, vault, verbs
from device.bundle import Bundle
from device.camera import open_camera
from device.cluster import METHODS
from device.collect import CAMERA_SECONDS, Candidate, collect, from_video
from device.detect import Detector
from device.embed import BACKENDS, Encoder, open_encoder
from device.gallery import Template, default_path
from device.program import InputError, Parser, run
from device.verbs import counted, covered_facts, covered_words, done, opened, print_json, say

THREADS = 2


def add(args: argparse.Namespace) -> int:
    if not args.inputs and args.camera is None:
        raise InputError("there is no picture to learn from", "name a photo, a folder or a video, or --camera N")
    used = bundle.find(args.encoder)
    there = enrolment.before(args.gallery or default_path(), used, args.name, args.more, vault.find_key(args.key_file))
    with _networks(args, used) as (detector, encoder):
        candidates, skipped = collect(args.inputs, there.name, detector)
        if args.camera is not None:
            with open_camera(args.camera) as camera:
                say(f"look into the camera and turn your head a little, for {CAMERA_SECONDS:.0f} seconds")
                candidates += from_video(camera, there.name, detector)
        if not candidates:
            raise enrolment.nothing(skipped, there.name)
        made = _templates(args, used, detector, encoder, candidates)
    templates, skipped = enrolment.chosen(there, made, skipped)
    with opened(args, create=True) as gallery:
        _tell_added(args, enrolment.add(gallery, there, templates, skipped, used.threshold(), args.more, args.most))
    return 0


def deny(args: argparse.Namespace) -> int:
    """`not NAME PHOTO` and, without a name, `ignore PHOTO`."""
    name = getattr(args, "name", None)
    with opened(args) as gallery:
        if name is not None:
            name = gallery.accept(name, more=True)
    used = bundle.find(args.encoder)
    with _networks(args, used) as (detector, encoder):
        candidates, skipped = collect([args.photo], "that face", detector)
        if not candidates:
            raise enrolment.nothing(skipped, "that face")
        templates = _templates(args, used, detector, encoder, candidates)
    with opened(args) as gallery:
        gone = gallery.deny(name, templates)
    what = "is to be ignored" if name is None else f"is not {name}"
    more = f"; {counted(gone)} deleted" if gone else ""
    return done(args, f"noted: {args.photo} {what}{more}", name=name, source=args.photo, deleted=gone)


def reembed(args: argparse.Namespace) -> int:
    used = bundle.find(args.encoder)
    with opened(args) as gallery, closing(open_encoder(used, args.backend)) as encoder:
        made, dropped = gallery.reembed(used, encoder.embed, args.drop)
    more = f", {dropped} dropped" if dropped else ""
    return done(args, f"made anew by encoder {used.encoder}: {counted(made)}{more}", encoder=used.encoder, templates=made, dropped=dropped)


def cluster(args: argparse.Namespace) -> int:
    used, out = bundle.find(args.encoder), args.out or Path(f"{args.folder.resolve()}-clusters")
    with _networks(args, used) as (detector, encoder):
        found, hints = naming.make(args.folder, out, used, encoder, detector, args.method)
    clusters = found.as_json()
    pictures, alone = len(found.templates), len(found.templates) - sum(entry["size"] for entry in clusters)
    if args.json:
        print_json({"verb": "cluster", "pictures": pictures, "clusters": clusters, "unclustered": alone, "out": str(out)})
        return 0
    for hint in hints:
        say(hint)
    for entry in clusters:
        print(f"cluster {entry['id']}\t{entry['size']} pictures" + ("" if entry["purity"] is None else f"\tpurity {entry['purity']:.0%}"))
    print(f"{pictures} faces, {len(clusters)} clusters, {alone} alone: look at {out / unnamed.PAGE}, then enroll.py name-clusters {out}")
    return 0


def name_clusters(args: argparse.Namespace) -> int:
    found = unnamed.load(args.folder)
    if args.csv is None and not sys.stdin.isatty():
        raise InputError("there is nobody to ask for names", f"fill in {args.folder / unnamed.NAMES} and name it with --csv")
    answers = naming.ask(args.folder, found) if args.csv is None else unnamed.read_names(args.csv)
    planned = unnamed.plan(found, answers)
    with opened(args, create=True) as gallery:
        added = naming.apply(gallery, planned, args.more, args.keep_crops)
    people = {name: count for name, count in added.items() if name != unnamed.IGNORE}
    ignored = added.get(unnamed.IGNORE, 0)
    told = ", ".join(f"{name} ({counted(count)})" for name, count in people.items()) or "nobody"
    more = f"; {counted(ignored)} to ignore" if ignored else ""
    hint = f"; {args.folder} holds pictures of people, delete it when it has served"
    return done(args, f"added {told}{more}{hint}", people=people, ignored=ignored, left=planned.left)


@contextmanager
def _networks(args: argparse.Namespace, used: Bundle) -> Iterator[tuple[Detector, Encoder]]:
    """What finds faces and what embeds them, within the block."""
    cv2.setNumThreads(THREADS)
    detector = detect.of_arguments(args)
    with closing(open_encoder(used, args.backend, beside=detector.model)) as encoder:
        yield detector, encoder


def _templates(
    args: argparse.Namespace, used: Bundle, detector: Detector, encoder: Encoder, candidates: Sequence[Candidate]
) -> list[Template]:
    embeddings = encoder.embed(np.stack([candidate.crop for candidate in candidates]))
    return enrolment.templates_of(candidates, embeddings, used, detector.name, getattr(args, "keep_crops", False))


def _tell_added(args: argparse.Namespace, done: enrolment.Added) -> None:
    if args.json:
        reasons = [{"source": entry.source, "reason": entry.error.wrong} for entry in done.skipped]
        answer = {"verb": "add", "name": done.name, "added": done.added, "skipped": reasons, "templates": done.total, "advice": done.hints}
        print_json(answer | {"coverage": covered_facts(done.covered)})
        return
    told = [f"skipped: {entry.error.wrong}" for entry in done.skipped] + done.hints
    for line in (*told, f"{done.name} is {covered_words(done.covered)}"):
        say(line)
    print(f"added {done.name}: {counted(done.added)}" + (f", {done.total} in all" if done.total != done.added else ""))


class _VerbParser(Parser):
    """Takes pictures behind options too: argparse of many a Python takes those that directly follow NAME alone."""

    def parse_known_args(self, args=None, namespace=None):
        found, rest = super().parse_known_args(args, namespace)
        if "inputs" in found:
            found.inputs += [word for word in rest if not word.startswith("-")]
            rest = [word for word in rest if word.startswith("-")]
        return found, rest


VERBS = {
    "add": (add, "add a person, or templates to one"),
    "list": (verbs.list_people, "who is in the gallery"),
    "show": (verbs.show, "a person's templates, how well they cover the person, and what would help"),
    "rename": (verbs.rename, "give a person another name"),
    "merge": (verbs.merge, "make one person of two: all templates of NAME go to INTO"),
    "split": (verbs.split, "make a new person of some templates of another one"),
    "remove": (verbs.remove, "delete a person with all templates, for good"),
    "undo": (verbs.undo, "take back the last change (not a removal); again for the one before"),
    "check": (verbs.check, "who is hardly told apart (status 1), photos under a wrong name (status 1), weak templates, coverage"),
    "unknowns": (verbs.unknowns, "the strangers whom recognize.py --remember-unknowns has seen"),
    "name": (verbs.name_unknown, "enrol an unknown from what was seen, or with --more give it to a person who is there"),
    "forget": (verbs.forget, "delete unknowns, for good"),
    "not": (deny, "the photo shows somebody who is not NAME"),
    "ignore": (deny, "the photo shows a face that never matters, like a poster"),
    "reembed": (reembed, "make all templates again with another encoder, from the crops that were kept"),
    "export": (verbs.export, "write all people to one file"),
    "import": (verbs.import_people, "add all people of an export"),
    "backup": (verbs.backup, "copy the whole gallery, also while it is in use"),
    "encrypt": (verbs.encrypt, "encrypt the gallery, change its key, or decrypt it"),
    "log": (verbs.log, "all changes, by number of the person"),
    "cluster": (cluster, "bring the faces of a folder together, without names, for name-clusters"),
    "name-clusters": (name_clusters, "name clusters, and add these people to the gallery"),
}


def build_parser() -> Parser:
    parser = Parser(__doc__)
    each = parser.add_subparsers(required=True, dest="verb", metavar="|".join(VERBS), parser_class=_VerbParser)
    made = {verb: each.add_parser(verb, help=text, description=text) for verb, (_, text) in VERBS.items()}
    for verb in ("add", "show", "rename", "merge", "split", "remove", "not"):
        made[verb].add_argument("name", metavar="NAME")
    made["rename"].add_argument("new", metavar="NEW")
    made["merge"].add_argument("into", metavar="INTO")
    made["split"].add_argument("new", metavar="NEW")
    made["split"].add_argument("templates", nargs="+", type=int, metavar="TEMPLATE", help="a number that show tells")
    made["name"].add_argument("unknown", metavar="UNKNOWN", help="its number, as in unknown-7")
    made["name"].add_argument("name", metavar="NAME")
    made["name"].add_argument("--more", action="store_true", help="the person is in the gallery and gets further templates")
    made["forget"].add_argument("unknowns", nargs="*", metavar="UNKNOWN")
    made["forget"].add_argument("--all", action="store_true", help="all of them")
    made["check"].add_argument(
        "--far", type=openset.rate, metavar="SHARE", default=bundle.FAR, help="as for recognize.py (default: %(default)s)"
    )
    made["check"].add_argument("--html", type=Path, metavar="FILE", help="write a page too, with the crops where they are kept")
    made["remove"].add_argument("--yes", action="store_true", help="do not ask")
    for verb in ("not", "ignore"):
        made[verb].add_argument("photo", metavar="PHOTO")
    for verb in ("export", "import", "backup"):
        made[verb].add_argument("file", type=Path, metavar="FILE")
    for verb in ("export", "import"):
        made[verb].add_argument("--export-key", type=Path, metavar="KEYFILE", help="the key that the export is sealed with")
    made["export"].add_argument("--embeddings-only", action="store_true", help="without names, sources and crops")
    made["import"].add_argument("--more", action="store_true", help="people who are in the gallery get further templates")
    made["reembed"].add_argument("--drop", action="store_true", help="drop templates that have no crop")
    key = made["encrypt"].add_mutually_exclusive_group(required=True)
    key.add_argument("--new-key-file", type=Path, metavar="KEYFILE", help="encrypt with this key")
    key.add_argument("--no-key", action="store_true", help="decrypt")
    _add_pictures(made["add"])
    made["cluster"].add_argument("folder", type=Path, metavar="DIR", help="photos, or what recognize.py --harvest kept")
    made["cluster"].add_argument("--out", type=Path, metavar="DIR", help="a new folder for the clusters (default: DIR-clusters)")
    made["cluster"].add_argument("--method", choices=METHODS, help="how (default: what the bundle was measured to do best)")
    made["name-clusters"].add_argument("folder", type=Path, metavar="CLUSTERS", help="the folder that cluster wrote")
    made["name-clusters"].add_argument("--csv", type=Path, metavar="FILE", help="cluster,name (default: ask on the terminal)")
    made["name-clusters"].add_argument("--more", action="store_true", help="people who are in the gallery get further templates")
    made["name-clusters"].add_argument("--keep-crops", action="store_true", help="keep the crops too, for reembed")
    for verb in ("add", "not", "ignore", "reembed", "cluster", "check"):
        made[verb].add_argument("--encoder", metavar="BUNDLE", help="a bundle of models/ or its folder (default: the newest shipped one)")
    for verb in ("add", "not", "ignore", "reembed", "cluster"):
        made[verb].add_argument("--backend", choices=BACKENDS, default="auto", help="where the networks run (default: %(default)s)")
    for verb in ("add", "not", "ignore", "cluster"):
        detect.add_arguments(made[verb])
    for verb, one in made.items():
        one.add_argument("--gallery", type=Path, metavar="FILE", help="the gallery (default $OMOKAGE_GALLERY, else in ~/.local/share)")
        vault.add_arguments(one)
        one.add_argument("--json", action="store_true", help="the answer as one JSON object")
        one.set_defaults(does=VERBS[verb][0])
    return parser


def _add_pictures(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("inputs", nargs="*", metavar="PHOTO|FOLDER|VIDEO")
    parser.add_argument("--camera", type=int, metavar="N", help="learn from this camera, 0 is the first")
    parser.add_argument("--more", action="store_true", help="add templates to a person who is in the gallery")
    parser.add_argument("--most", type=_positive, default=coverage.MOST, metavar="N", help="templates of a person (default: %(default)s)")
    parser.add_argument("--keep-crops", action="store_true", help="keep the crops too, for reembed: these are pictures of people")


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError("is below 1")
    return number


def main(argv: list[str] | None = None) -> int:
    return run(lambda args: args.does(args), build_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
