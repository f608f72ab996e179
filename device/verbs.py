"""The verbs of enroll.py that need no picture: each opens the gallery, calls what does the work, and tells what was done."""

import argparse
import json
import sys
from dataclasses import asdict
from typing import Any

from device import bundle, exchange, vault
from device.coverage import MOST, Coverage, cover
from device.gallery import Entry, Gallery, default_path, valid_name
from device.program import HOLDS_NOT, InputError
from device.store import private
from device.visitors import unknown_name, unknown_number


def list_people(args: argparse.Namespace) -> int:
    with opened(args) as gallery:
        people, encoder = gallery.people(), gallery.encoder()
    if args.json:
        print_json({"verb": "list", "people": [asdict(person) for person in people]} | ({"encoder": encoder} if encoder else {}))
    for person in people if not args.json else []:
        print(f"{person.name}\t{counted(person.templates)}\tsince {person.created[:10]}")
    return 0


def show(args: argparse.Namespace) -> int:
    with opened(args) as gallery:
        entries = gallery.entries(args.name)
    covered = cover(entry.template.look for entry in entries if not entry.template.denies)
    name = valid_name(args.name)
    if args.json:
        print_json({"verb": "show", "name": name, "templates": [_facts(entry) for entry in entries], "coverage": covered_facts(covered)})
        return 0
    print(f"{name}: {counted(sum(not entry.template.denies for entry in entries))}, {covered_words(covered)}")
    for entry in entries:
        facts = _facts(entry)
        view = f"{facts['pose']}, {facts['light']} light" if facts["pose"] else "look unknown"
        extra = ("\tis not " + name if entry.template.denies else "") + ("\tcrop kept" if entry.kept else "")
        print(f"{entry.number}\tquality {entry.template.quality:.2f}\t{view}\t{entry.created[:10]}\t{entry.template.source}{extra}")
    return 0


def rename(args: argparse.Namespace) -> int:
    with opened(args) as gallery:
        new = gallery.rename(args.name, args.new)
    return done(args, f"{valid_name(args.name)} is called {new} now", name=valid_name(args.name), new=new)


def merge(args: argparse.Namespace) -> int:
    with opened(args) as gallery:
        total = gallery.merge(args.name, args.into)
    name, into = valid_name(args.name), valid_name(args.into)
    return done(args, f"{name} is {into} now: {counted(total)}", name=name, into=into, templates=total)


def split(args: argparse.Namespace) -> int:
    with opened(args) as gallery:
        count = gallery.split(args.name, args.new, args.templates)
    name, new = valid_name(args.name), valid_name(args.new)
    return done(args, f"made {new} of {counted(count)} of {name}", name=name, new=new, templates=count)


def remove(args: argparse.Namespace) -> int:
    name = valid_name(args.name)
    with opened(args) as gallery:
        count = len(gallery.entries(name))
        _sure(args, f"remove {name} and {counted(count)} for good?")
        count = gallery.remove(name)
        copied = sorted({change.verb for change in gallery.audit()} & {"backup", "export"})
    if copied and not args.json:
        say(f"a {' and an '.join(copied)} was made earlier: if it holds {name}, delete it too")
    return done(args, f"removed {name}: {counted(count)}", name=name, templates=count)


def undo(args: argparse.Namespace) -> int:
    with opened(args) as gallery:
        change = gallery.undo()
    return done(args, f"undone: {change.verb} of {change.time}", undone=change.verb, time=change.time)


def export(args: argparse.Namespace) -> int:
    key = None if args.export_key is None else vault.read_key(args.export_key)
    with opened(args) as gallery:
        count = exchange.export(gallery, args.file, args.embeddings_only, key)
    return done(args, f"exported {count} people to {args.file}", file=str(args.file), people=count)


def import_people(args: argparse.Namespace) -> int:
    people = exchange.read(args.file, None if args.export_key is None else vault.read_key(args.export_key))
    with opened(args, create=True) as gallery:
        total = gallery.load(people, args.more)
    count = sum(name is not None for name, _ in people)
    return done(args, f"imported {count} people from {args.file}: {counted(total)} in all", people=count, templates=total)


def backup(args: argparse.Namespace) -> int:
    with opened(args) as gallery:
        exchange.backup(gallery, args.file)
    return done(args, f"copied the gallery to {args.file}", file=str(args.file))


def encrypt(args: argparse.Namespace) -> int:
    with opened(args) as gallery:
        gallery.encrypt(None if args.no_key else vault.read_key(args.new_key_file))
        return done(args, f"{gallery.path} is {'encrypted' if gallery.encrypted else 'not encrypted'} now", encrypted=gallery.encrypted)


def check(args: argparse.Namespace) -> int:
    from device import checkup, checkup_page  # here: they take scipy, and 40 MB

    used = bundle.find(args.encoder)
    with opened(args) as gallery:
        report = checkup.check(gallery, used, args.far)
        if args.html is not None:
            with private(args.html) as temporary:
                temporary.write_text(checkup_page.page(report, gallery), "utf-8")
    if args.json:
        print_json({"verb": "check", **report.as_json(), **({} if args.html is None else {"html": str(args.html)})})
    else:
        for line in checkup.lines(report):
            print(line)
        found = f"{len(report.pairs)} pairs hardly told apart, {len(report.mislabelled)} templates under a wrong name, likely"
        print(f"{report.people} people, {counted(report.templates)}: {found}, {len(report.weak)} weak")
    return 0 if report.ok else HOLDS_NOT


def unknowns(args: argparse.Namespace) -> int:
    with opened(args) as gallery:
        found = gallery.unknowns()
    if args.json:
        print_json({"verb": "unknowns", "unknowns": [asdict(one) | {"name": one.name} for one in found]})
    for one in found if not args.json else []:
        visits = "1 visit" if one.visits == 1 else f"{one.visits} visits"
        print(f"{one.name}\t{visits}\tfirst {_minute(one.first)}\tlast {_minute(one.last)}\tforgotten {_minute(one.expires)}")
    return 0


def name_unknown(args: argparse.Namespace) -> int:
    number = unknown_number(args.unknown)
    with opened(args) as gallery:
        total = gallery.enrol(number, args.name, args.more, MOST)
    name = valid_name(args.name)
    return done(args, f"{unknown_name(number)} is {name} now: {counted(total)}", unknown=number, name=name, templates=total)


def forget(args: argparse.Namespace) -> int:
    if bool(args.unknowns) == args.all:
        raise InputError("it is not said who to forget", "name them, like unknown-7, or say --all")
    numbers = None if args.all else [unknown_number(word) for word in args.unknowns]
    with opened(args) as gallery:
        gone = gallery.forget(numbers)
    return done(args, f"forgot {gone} unknown{'' if gone == 1 else 's'}", forgotten=gone)


def log(args: argparse.Namespace) -> int:
    with opened(args) as gallery:
        changes = gallery.audit()
    if args.json:
        print_json({"verb": "log", "changes": [asdict(change) for change in changes]})
    for change in changes if not args.json else []:
        print(f"{change.number}\t{change.time}\t{change.verb}\t{change.person or '-'}\t{change.detail}")
    return 0


def opened(args: argparse.Namespace, create: bool = False) -> Gallery:
    return Gallery(args.gallery or default_path(), create, vault.find_key(args.key_file))


def _sure(args: argparse.Namespace, question: str) -> None:
    """Ask before what cannot be undone. Raises InputError where nobody agrees."""
    if args.yes:
        return
    if not sys.stdin.isatty():
        raise InputError("a removal cannot be undone", "repeat with --yes if you are sure")
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise InputError("nothing was removed", "answer y if you are sure")


def covered_facts(covered: Coverage) -> dict[str, Any]:
    return {"share": round(covered.share, 2), "poses": covered.poses, "lights": covered.lights, "would_help": list(covered.wanted)}


def covered_words(covered: Coverage) -> str:
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


def counted(count: int) -> str:
    return "1 template" if count == 1 else f"{count} templates"


def done(args: argparse.Namespace, text: str, **facts: Any) -> int:
    """Tell that the verb was done."""
    if args.json:
        print_json({"verb": args.verb, **facts})
    else:
        print(text)
    return 0


def _minute(time: str) -> str:
    return time[:16].replace("T", " ")


def say(text: str) -> None:
    print(text, file=sys.stderr)


def print_json(answer: dict[str, Any]) -> None:
    print(json.dumps(answer, ensure_ascii=False))
