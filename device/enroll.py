"""Add people to the gallery, look after them, and remove them.

  python device/enroll.py add "Grace Hopper" grace.jpg
  python device/enroll.py add Eileen photos/ eileen.mp4
  python device/enroll.py add Eileen --camera 0 --more
  python device/enroll.py show Eileen
  python device/enroll.py rename Eileen "Eileen Collins"
  python device/enroll.py undo
  python device/enroll.py remove "Eileen Collins"
  python device/enroll.py cluster photos/ --out clusters/
  python device/enroll.py name-clusters clusters/

A photo gives one template and must show one face; a video or a camera gives the best of what it shows of one face alone.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from device import bundle, coverage, detect, exchange, naming, unnamed, vault
from device.bundle import Bundle
from device.camera import open_camera
from device.cluster import METHODS
from device.collect import CAMERA_SECONDS, Candidate, Skipped, collect, from_video
from device.coverage import Coverage, choose, cover
from device.detect import Detector
from device.embed import BACKENDS, open_encoder
from device.gallery import Entry, Gallery, Template, default_path, valid_name
from device.program import InputError, Parser, run

THREADS = 2
OF_ONE = 8  # templates from one video
POOR = 0.5  # a quality below this is worth a word


def add(args: argparse.Namespace) -> int:
    if not args.inputs and args.camera is None:
        raise InputError("there is no picture to learn from", "name a photo, a folder or a video, or --camera N")
    used = bundle.find(args.encoder)
    name, embeddings, names = _before(args, used)
    detector = _detector(args)
    candidates, skipped = collect(args.inputs, name, detector)
    if args.camera is not None:
        with open_camera(args.camera) as camera:
            _say(f"look into the camera and turn your head a little, for {CAMERA_SECONDS:.0f} seconds")
            candidates += from_video(camera, name, detector)
    if not candidates:
        raise _nothing(skipped, name)
    own = [index for index, owner in enumerate(names) if owner == name]
    templates, copies = _new(_thinned(_templates(args, used, detector, candidates)), embeddings[own])
    skipped += copies
    if not templates:
        raise InputError(f"nothing new: {copies[0].error.wrong}", "choose other pictures")
    with _open(args, create=True) as gallery:
        total = gallery.add(name, templates, args.more, args.most)
        covered = cover(entry.template.look for entry in gallery.entries(name) if not entry.template.denies)
    others = [index for index, owner in enumerate(names) if owner != name]
    hints = advice(templates, total, used.threshold())
    hints += doubles(templates, embeddings[others], [names[index] for index in others], name, used.threshold())
    _tell_added(args, name, len(templates), total, skipped, hints, covered)
    return 0


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


def doubles(templates: Sequence[Template], embeddings: np.ndarray, names: Sequence[str], name: str, threshold: float) -> list[str]:
    """Hints that `templates` of `name` look like somebody else: those `embeddings` [N, D] and `names`."""
    if not len(embeddings):
        return []
    likeness = (embeddings @ np.stack([template.embedding for template in templates]).T).max(1)  # [N]
    best = {other: float(likeness[[owner == other for owner in names]].max()) for other in sorted(set(names))}
    return [
        f"{name} looks like {other} ({score:.2f}): if this is one person under two names, enroll.py merge makes one of them"
        for other, score in best.items()
        if score >= threshold
    ]


def list_people(args: argparse.Namespace) -> int:
    with _open(args) as gallery:
        people, encoder = gallery.people(), gallery.encoder()
    if args.json:
        _print_json({"verb": "list", "people": [asdict(person) for person in people]} | ({"encoder": encoder} if encoder else {}))
    for person in people if not args.json else []:
        print(f"{person.name}\t{_count(person.templates)}\tsince {person.created[:10]}")
    return 0


def show(args: argparse.Namespace) -> int:
    with _open(args) as gallery:
        entries = gallery.entries(args.name)
    covered = cover(entry.template.look for entry in entries if not entry.template.denies)
    name = valid_name(args.name)
    if args.json:
        _print_json({"verb": "show", "name": name, "templates": [_facts(entry) for entry in entries], "coverage": _covered(covered)})
        return 0
    print(f"{name}: {_count(sum(not entry.template.denies for entry in entries))}, {_coverage(covered)}")
    for entry in entries:
        facts = _facts(entry)
        view = f"{facts['pose']}, {facts['light']} light" if facts["pose"] else "look unknown"
        extra = ("\tis not " + name if entry.template.denies else "") + ("\tcrop kept" if entry.kept else "")
        print(f"{entry.number}\tquality {entry.template.quality:.2f}\t{view}\t{entry.created[:10]}\t{entry.template.source}{extra}")
    return 0


def rename(args: argparse.Namespace) -> int:
    with _open(args) as gallery:
        new = gallery.rename(args.name, args.new)
    return _done(args, f"{valid_name(args.name)} is called {new} now", name=valid_name(args.name), new=new)


def merge(args: argparse.Namespace) -> int:
    with _open(args) as gallery:
        total = gallery.merge(args.name, args.into)
    name, into = valid_name(args.name), valid_name(args.into)
    return _done(args, f"{name} is {into} now: {_count(total)}", name=name, into=into, templates=total)


def split(args: argparse.Namespace) -> int:
    with _open(args) as gallery:
        count = gallery.split(args.name, args.new, args.templates)
    name, new = valid_name(args.name), valid_name(args.new)
    return _done(args, f"made {new} of {_count(count)} of {name}", name=name, new=new, templates=count)


def remove(args: argparse.Namespace) -> int:
    name = valid_name(args.name)
    with _open(args) as gallery:
        count = len(gallery.entries(name))
        _sure(args, f"remove {name} and {_count(count)} for good?")
        count = gallery.remove(name)
        copied = sorted({change.verb for change in gallery.audit()} & {"backup", "export"})
    if copied and not args.json:
        _say(f"a {' and an '.join(copied)} was made earlier: if it holds {name}, delete it too")
    return _done(args, f"removed {name}: {_count(count)}", name=name, templates=count)


def undo(args: argparse.Namespace) -> int:
    with _open(args) as gallery:
        change = gallery.undo()
    return _done(args, f"undone: {change.verb} of {change.time}", undone=change.verb, time=change.time)


def deny(args: argparse.Namespace) -> int:
    """`not NAME PHOTO` and, without a name, `ignore PHOTO`."""
    name = getattr(args, "name", None)
    with _open(args) as gallery:
        if name is not None:
            name = gallery.accept(name, more=True)
    used, detector = bundle.find(args.encoder), _detector(args)
    candidates, skipped = collect([args.photo], "that face", detector)
    if not candidates:
        raise _nothing(skipped, "that face")
    with _open(args) as gallery:
        gone = gallery.deny(name, _templates(args, used, detector, candidates))
    what = "is to be ignored" if name is None else f"is not {name}"
    more = f"; {_count(gone)} deleted" if gone else ""
    return _done(args, f"noted: {args.photo} {what}{more}", name=name, source=args.photo, deleted=gone)


def reembed(args: argparse.Namespace) -> int:
    used = bundle.find(args.encoder)
    with _open(args) as gallery:
        made, dropped = gallery.reembed(used, open_encoder(used, args.backend).embed, args.drop)
    more = f", {dropped} dropped" if dropped else ""
    return _done(args, f"made anew by encoder {used.encoder}: {_count(made)}{more}", encoder=used.encoder, templates=made, dropped=dropped)


def export(args: argparse.Namespace) -> int:
    key = None if args.export_key is None else vault.read_key(args.export_key)
    with _open(args) as gallery:
        count = exchange.export(gallery, args.file, args.embeddings_only, key)
    return _done(args, f"exported {count} people to {args.file}", file=str(args.file), people=count)


def import_people(args: argparse.Namespace) -> int:
    people = exchange.read(args.file, None if args.export_key is None else vault.read_key(args.export_key))
    with _open(args, create=True) as gallery:
        total = gallery.load(people, args.more)
    count = sum(name is not None for name, _ in people)
    return _done(args, f"imported {count} people from {args.file}: {_count(total)} in all", people=count, templates=total)


def backup(args: argparse.Namespace) -> int:
    with _open(args) as gallery:
        exchange.backup(gallery, args.file)
    return _done(args, f"copied the gallery to {args.file}", file=str(args.file))


def encrypt(args: argparse.Namespace) -> int:
    with _open(args) as gallery:
        gallery.encrypt(None if args.no_key else vault.read_key(args.new_key_file))
        return _done(args, f"{gallery.path} is {'encrypted' if gallery.encrypted else 'not encrypted'} now", encrypted=gallery.encrypted)


def cluster(args: argparse.Namespace) -> int:
    used, out = bundle.find(args.encoder), args.out or Path(f"{args.folder.resolve()}-clusters")
    found, hints = naming.make(args.folder, out, used, open_encoder(used, args.backend), _detector(args), args.method)
    clusters = found.as_json()
    pictures, alone = len(found.templates), len(found.templates) - sum(entry["size"] for entry in clusters)
    if args.json:
        _print_json({"verb": "cluster", "pictures": pictures, "clusters": clusters, "unclustered": alone, "out": str(out)})
        return 0
    for hint in hints:
        _say(hint)
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
    with _open(args, create=True) as gallery:
        added = naming.apply(gallery, planned, args.more, args.keep_crops)
    people = {name: count for name, count in added.items() if name != unnamed.IGNORE}
    ignored = added.get(unnamed.IGNORE, 0)
    told = ", ".join(f"{name} ({_count(count)})" for name, count in people.items()) or "nobody"
    more = f"; {_count(ignored)} to ignore" if ignored else ""
    hint = f"; {args.folder} holds pictures of people, delete it when it has served"
    return _done(args, f"added {told}{more}{hint}", people=people, ignored=ignored, left=planned.left)


def log(args: argparse.Namespace) -> int:
    with _open(args) as gallery:
        changes = gallery.audit()
    if args.json:
        _print_json({"verb": "log", "changes": [asdict(change) for change in changes]})
    for change in changes if not args.json else []:
        print(f"{change.number}\t{change.time}\t{change.verb}\t{change.person or '-'}\t{change.detail}")
    return 0


def _open(args: argparse.Namespace, create: bool = False) -> Gallery:
    return Gallery(args.gallery or default_path(), create, vault.find_key(args.key_file))


def _before(args: argparse.Namespace, used: Bundle) -> tuple[str, np.ndarray, list[str]]:
    """The name as it is stored, and the embeddings [N, D] and names of those who are there: known before pictures are looked at."""
    path = args.gallery or default_path()
    if not path.is_file():
        if args.more:
            raise InputError(f"the gallery {path} is not there", "leave --more out to add a new person")
        return valid_name(args.name), np.zeros((0, used.dimension), np.float32), []
    with _open(args) as gallery:
        return gallery.accept(args.name, args.more), *gallery.templates(used)


def _detector(args: argparse.Namespace) -> Detector:
    cv2.setNumThreads(THREADS)
    return detect.of_arguments(args)


def _templates(args: argparse.Namespace, used: Bundle, detector: Detector, candidates: Sequence[Candidate]) -> list[Template]:
    embeddings = open_encoder(used, args.backend).embed(np.stack([candidate.crop for candidate in candidates]))
    keep = getattr(args, "keep_crops", False)
    return [
        Template(row, used.encoder, used.preprocessing, detector.name, c.quality, c.source, c.look, c.crop if keep else None)
        for row, c in zip(embeddings, candidates, strict=True)
    ]


def _thinned(templates: Sequence[Template]) -> list[Template]:
    """The best and most different of each source."""
    kept: list[Template] = []
    for source in dict.fromkeys(template.source for template in templates):
        own = [template for template in templates if template.source == source]
        chosen = choose(np.stack([template.embedding for template in own]), [template.quality for template in own], OF_ONE)
        kept += [own[index] for index in chosen]
    return kept


def _new(templates: Sequence[Template], known: np.ndarray) -> tuple[list[Template], list[Skipped]]:
    """`templates` without those of the very same picture as another one or as one of the `known` embeddings [N, D]."""
    fresh: list[Template] = []
    copies: list[Skipped] = []
    for template in templates:
        seen = [*known, *(other.embedding for other in fresh)]
        if any(float(row @ template.embedding) >= coverage.SAME for row in seen):
            copies.append(Skipped(template.source, InputError(f"{template.source} is there already", "choose another picture")))
        else:
            fresh.append(template)
    return fresh, copies


def _nothing(skipped: Sequence[Skipped], name: str) -> InputError:
    first = skipped[0].error
    if len(skipped) == 1:
        return first
    return InputError(f"none of the {len(skipped)} pictures shows {name} alone (the first: {first.wrong})", first.mend)


def _sure(args: argparse.Namespace, question: str) -> None:
    """Ask before what cannot be undone. Raises InputError where nobody agrees."""
    if args.yes:
        return
    if not sys.stdin.isatty():
        raise InputError("a removal cannot be undone", "repeat with --yes if you are sure")
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise InputError("nothing was removed", "answer y if you are sure")


def _tell_added(
    args: argparse.Namespace, name: str, added: int, total: int, skipped: Sequence[Skipped], hints: list[str], covered: Coverage
) -> None:
    if args.json:
        reasons = [{"source": entry.source, "reason": entry.error.wrong} for entry in skipped]
        answer = {"verb": "add", "name": name, "added": added, "skipped": reasons, "templates": total, "advice": hints}
        _print_json(answer | {"coverage": _covered(covered)})
        return
    for line in (*(f"skipped: {entry.error.wrong}" for entry in skipped), *hints, f"{name} is {_coverage(covered)}"):
        _say(line)
    print(f"added {name}: {_count(added)}" + (f", {total} in all" if total != added else ""))


def _covered(covered: Coverage) -> dict[str, Any]:
    return {"share": round(covered.share, 2), "poses": covered.poses, "lights": covered.lights, "would_help": list(covered.wanted)}


def _coverage(covered: Coverage) -> str:
    if not covered.poses:
        return "covered nobody knows how: its pictures came before that was looked at"
    shown = ", ".join(f"{word} {count}" for word, count in (covered.poses | covered.lights).items())
    return f"{covered.word} covered ({shown})" + (f"; what would help: {', '.join(covered.wanted)}" if covered.wanted else "")


def _facts(entry: Entry) -> dict[str, Any]:
    template = entry.template
    return {
        "number": entry.number,
        "quality": round(template.quality, 4),
        "pose": template.look.pose if template.look else None,
        "light": template.look.lit if template.look else None,
        "source": template.source,
        "detector": template.detector,
        "created": entry.created,
        "crop": entry.kept,
        "denies": template.denies,
    }


def _count(count: int) -> str:
    return "1 template" if count == 1 else f"{count} templates"


def _done(args: argparse.Namespace, text: str, **facts: Any) -> int:
    """Tell that the verb was done."""
    if args.json:
        _print_json({"verb": args.verb, **facts})
    else:
        print(text)
    return 0


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


VERBS = {
    "add": (add, "add a person, or templates to one"),
    "list": (list_people, "who is in the gallery"),
    "show": (show, "a person's templates, how well they cover the person, and what would help"),
    "rename": (rename, "give a person another name"),
    "merge": (merge, "make one person of two: all templates of NAME go to INTO"),
    "split": (split, "make a new person of some templates of another one"),
    "remove": (remove, "delete a person with all templates, for good"),
    "undo": (undo, "take back the last change (not a removal); again for the one before"),
    "not": (deny, "the photo shows somebody who is not NAME"),
    "ignore": (deny, "the photo shows a face that never matters, like a poster"),
    "reembed": (reembed, "make all templates again with another encoder, from the crops that were kept"),
    "export": (export, "write all people to one file"),
    "import": (import_people, "add all people of an export"),
    "backup": (backup, "copy the whole gallery, also while it is in use"),
    "encrypt": (encrypt, "encrypt the gallery, change its key, or decrypt it"),
    "log": (log, "all changes, by number of the person"),
    "cluster": (cluster, "bring the faces of a folder together, without names, for name-clusters"),
    "name-clusters": (name_clusters, "name clusters, and add these people to the gallery"),
}


def build_parser() -> Parser:
    parser = Parser(__doc__)
    verbs = parser.add_subparsers(required=True, dest="verb", metavar="|".join(VERBS), parser_class=_VerbParser)
    made = {verb: verbs.add_parser(verb, help=text, description=text) for verb, (_, text) in VERBS.items()}
    for verb in ("add", "show", "rename", "merge", "split", "remove", "not"):
        made[verb].add_argument("name", metavar="NAME")
    made["rename"].add_argument("new", metavar="NEW")
    made["merge"].add_argument("into", metavar="INTO")
    made["split"].add_argument("new", metavar="NEW")
    made["split"].add_argument("templates", nargs="+", type=int, metavar="TEMPLATE", help="a number that show tells")
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
    for verb in ("add", "not", "ignore", "reembed", "cluster"):
        made[verb].add_argument("--encoder", metavar="BUNDLE", help="a bundle of models/ or its folder (default: the newest shipped one)")
        made[verb].add_argument("--backend", choices=BACKENDS, default="auto", help="where the encoder runs (default: %(default)s)")
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
