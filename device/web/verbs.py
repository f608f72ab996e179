"""What can be done on the page, each verb once: forms and the JSON interface (/api) call the same. All of it is in the audit log.

A verb takes fields, which are checked here, and calls what enroll.py calls. It returns what to say.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

import cv2
import numpy as np

from device import enrolment
from device.camera import decode_picture
from device.coverage import MOST
from device.embed import open_encoder
from device.gallery import valid_name
from device.journal import Visit
from device.program import InputError
from device.verbs import counted, covered_words
from device.web import aside, uploads
from device.web.home import Home

LONGEST = 500  # characters of a field
MANY = 500  # numbers in a field
TEXT, NUMBER, NUMBERS, SHARE = "text", "number", "numbers", "share"
Files = Sequence[tuple[str, bytes]]


@dataclass(frozen=True)
class Done:
    """What was done: a line, further advice, the page to look at next (None: where one was), and the number of the change where it
    can be undone."""

    text: str
    hints: tuple[str, ...] = ()
    page: str | None = None
    change: int | None = None


@dataclass(frozen=True)
class Verb:
    """`fields`: name and kind of each; those in `optional` may be missing (None). `files`: it takes pictures, from forms alone."""

    does: Callable[..., Done]
    told: str
    fields: Mapping[str, str] = field(default_factory=dict)
    optional: frozenset[str] = frozenset()
    files: bool = False


def rename(home: Home, name: str, new: str) -> Done:
    with home.opened() as gallery:
        new, old = gallery.rename(name, new), valid_name(name)
        change = gallery.change()
    _in_journal(home, lambda journal: journal.rename(old, new))
    return Done(f"{old} is called {new} now", page=f"person {new}", change=change)


def merge(home: Home, name: str, into: str) -> Done:
    with home.opened() as gallery:
        total = gallery.merge(name, into)
        change = gallery.change()
    name, into = valid_name(name), valid_name(into)
    _in_journal(home, lambda journal: journal.rename(name, into))
    return Done(f"{name} is {into} now: {counted(total)}", page=f"person {into}", change=change)


def split(home: Home, name: str, new: str, templates: list[int]) -> Done:
    with home.opened() as gallery:
        count = gallery.split(name, new, templates)
        name, new = valid_name(name), valid_name(new)
        return Done(f"Made {new} of {counted(count)} of {name}", page=f"person {new}", change=gallery.change())


def remove(home: Home, name: str) -> Done:
    with home.opened() as gallery:
        count = gallery.withdraw(name)
        hint = "in ten minutes it is deleted for good, with everything that could bring it back; until then it can be undone"
        return Done(f"Removed {valid_name(name)}: {counted(count)}", (hint,), "people", gallery.change())


def undo(home: Home, change: int | None = None) -> Done:
    with home.opened() as gallery:
        if change is not None and gallery.change() != change:
            raise InputError("something else was changed since then", "look at the changes, and undo the newest first")
        undone = gallery.undo()
    _in_journal(home, lambda journal: journal.take_back(undone.number))
    return Done(f"Undone: {undone.verb} of {undone.time[:16].replace('T', ' ')}")


def add(home: Home, name: str, files: Files) -> Done:
    """A new person, or further pictures of one who is there."""
    if not files:
        raise InputError("there is no picture to learn from", "choose one, or take one with the camera")
    if len(files) > uploads.FILES:
        raise InputError(f"these are {len(files)} pictures", f"send {uploads.FILES} at most at once")
    more = valid_name(name) in home.names()
    added, change = aside.call(_learnt, home, name, files, more)
    hints = (
        [f"left out: {entry.error.wrong}" for entry in added.skipped]
        + [hint.replace(" (--more)", "") for hint in added.hints]
        + [f"{added.name} is {covered_words(added.covered)}"]
    )
    text = f"Added {added.name}: {counted(added.added)}" + (f", {added.total} in all" if added.total != added.added else "")
    return Done(text, tuple(hints), f"person {added.name}", change)


def _learnt(home: Home, name: str, files: Files, more: bool) -> tuple[enrolment.Added, int]:
    there = enrolment.before(home.gallery, home.used, name, more, home.key)
    detector = home.detector()
    candidates, skipped = uploads.candidates(files, there.name, detector)
    if not candidates:
        raise enrolment.nothing(skipped, there.name)
    with closing(open_encoder(home.used, "cpu")) as encoder:
        embeddings = encoder.embed(np.stack([candidate.crop for candidate in candidates]))
    made = enrolment.templates_of(candidates, embeddings, home.used, detector.name, home.keep_crops)
    templates, skipped = enrolment.chosen(there, made, skipped)
    with home.opened(create=True) as gallery:
        added = enrolment.add(gallery, there, templates, skipped, home.used.threshold(), more, MOST)
        return added, gallery.change()


def name_unknowns(home: Home, unknowns: list[int], name: str) -> Done:
    """They are somebody: a new person, or one who is there."""
    more = valid_name(name) in home.names()
    with home.opened() as gallery:
        total = gallery.enrol(unknowns, name, more, MOST)
        return Done(f"{_told(unknowns)} is {valid_name(name)}: {counted(total)}", change=gallery.change())


def ignore(home: Home, unknowns: list[int]) -> Done:
    with home.opened() as gallery:
        gone = gallery.forget(unknowns)
    return Done(f"Forgot {gone} unknown{'' if gone == 1 else 's'}; who comes again gets a new number")


def never(home: Home, unknowns: list[int]) -> Done:
    with home.opened() as gallery:
        gallery.dismiss(unknowns)
        return Done(f"{_told(unknowns)} is never told of again", change=gallery.change())


def learn(home: Home, visit: int, name: str) -> Done:
    """The visit was this person, who may be new."""
    name = valid_name(name)
    more = name in home.names()
    with home.visits() as journal:
        found = journal.visit(visit)
        template = journal.template(found, home.used)
        crop = journal.crop(visit) if home.keep_crops else None
        if crop is not None:
            template = replace(template, crop=cv2.cvtColor(decode_picture(crop, "the crop"), cv2.COLOR_BGR2RGB))
        with home.opened(create=True) as gallery:
            total = gallery.add(name, [template], more, MOST)
            change = gallery.change()
        journal.answer(visit, "yes" if found.guess == name else "named", change)
    return Done(f"That was {name}: {counted(total)}", change=change)


def yes(home: Home, visit: int) -> Done:
    return learn(home, visit, _asked(home, visit))


def no(home: Home, visit: int) -> Done:
    """The visit was not whom it was taken for."""
    name = _asked(home, visit)
    with home.visits() as journal, home.opened() as gallery:
        gone = gallery.deny(name, [journal.template(journal.visit(visit), home.used)])
        journal.answer(visit, "no", gallery.change())
        more = f"; {counted(gone)} deleted" if gone else ""
        return Done(f"Noted: that was not {name}{more}", change=gallery.change())


def far(home: Home, share: float) -> Done:
    with home.opened(create=True) as gallery:
        gallery.set_far(share)
        return Done(f"Of {round(1 / share)} strangers one may get a name, from now on", change=gallery.change())


VERBS: dict[str, Verb] = {
    "rename": Verb(rename, "give a person another name", {"name": TEXT, "new": TEXT}),
    "merge": Verb(merge, "make one person of two", {"name": TEXT, "into": TEXT}),
    "split": Verb(split, "make a new person of some templates of another one", {"name": TEXT, "new": TEXT, "templates": NUMBERS}),
    "remove": Verb(remove, "remove a person; ten minutes later for good", {"name": TEXT}),
    "undo": Verb(undo, "take back the newest change, or this one if it is the newest", {"change": NUMBER}, frozenset({"change"})),
    "add": Verb(add, "add a person, or pictures of one", {"name": TEXT}, files=True),
    "name": Verb(name_unknowns, "enrol unknowns as one person, new or there", {"unknowns": NUMBERS, "name": TEXT}),
    "ignore": Verb(ignore, "forget unknowns, for good", {"unknowns": NUMBERS}),
    "never": Verb(never, "never tell of these unknowns again", {"unknowns": NUMBERS}),
    "learn": Verb(learn, "a visit was this person, new or there", {"visit": NUMBER, "name": TEXT}),
    "yes": Verb(yes, "a visit was whom it was taken for", {"visit": NUMBER}),
    "no": Verb(no, "a visit was not whom it was taken for", {"visit": NUMBER}),
    "far": Verb(far, "set the false-accept rate", {"share": SHARE}),
}


def parsed(verb: Verb, given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a verb from what a form or a JSON object has. Raises InputError for what is missing or of no use."""
    found: dict[str, Any] = {}
    for name, kind in verb.fields.items():
        value = given.get(name)
        if value in (None, "", []):
            if name not in verb.optional:
                raise InputError(f"{name} is missing", "tick one at least" if kind == NUMBERS else "fill it in")
            found[name] = None
            continue
        found[name] = _field(name, kind, value)
    return found


def _field(name: str, kind: str, value: Any) -> Any:
    if kind == TEXT:
        if not isinstance(value, str) or len(value) > LONGEST:
            raise InputError(f"{name} is no text of up to {LONGEST} characters", "write a shorter one")
        return value
    if kind == NUMBERS:
        values = value if isinstance(value, list) else [value]
        if len(values) > MANY:
            raise InputError(f"{name} has {len(values)} numbers", f"choose {MANY} at most")
        return [_number(name, one) for one in values]
    if kind == SHARE:
        return _share(name, value)
    return _number(name, value)


def _share(name: str, value: Any) -> float:
    try:
        share = float(value)
    except (TypeError, ValueError, OverflowError):
        share = 0.0
    if isinstance(value, bool) or not 0 < share < 1:
        raise InputError(f"{name} is no share between 0 and 1", "choose one like 0.001")
    return share


def _number(name: str, value: Any) -> int:
    word = str(value)
    if isinstance(value, bool | float) or not (word.isascii() and word.isdigit() and len(word) < 19):
        raise InputError(f"{name} is no number", "choose one that the page shows")
    return int(word)


def _asked(home: Home, number: int) -> str:
    """Whom a visit was taken for."""
    with home.visits() as journal:
        visit: Visit = journal.visit(number)
    name = visit.name or visit.guess
    if name is None:
        raise InputError(f"visit {number} was taken for nobody", "say who it was")
    return name


def _in_journal(home: Home, work: Callable[[Any], None]) -> None:
    """Let the journal follow, where there is one."""
    if home.has_journal():
        with home.visits() as journal:
            work(journal)


def _told(unknowns: Sequence[int]) -> str:
    return "Unknown-" + ", unknown-".join(map(str, sorted(set(unknowns))))
