"""The page of `enroll.py check`: one HTML file without scripts or anything fetched, with the crops where they are kept.

Names and sources are escaped: they must not become markup. The file shows people, and is its owner's alone.
"""

import base64
from collections.abc import Iterable, Sequence
from html import escape

import cv2

from device.checkup import Pair, Report, Suspect, Weak
from device.coverage import LIGHTS, POSES, Coverage
from device.gallery import Entry, Gallery

SHOWN = 4  # templates of a person in a row, at most

HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Gallery check</title><style>
:root { color-scheme: light dark; --bad: #c2410c; --good: #1a7f5a; --dim: #8888; --back: #fff; --text: #222 }
@media (prefers-color-scheme: dark) { :root { --back: #16181c; --text: #ddd; --bad: #e4692f; --good: #2aa876 } }
body { font: 15px/1.5 system-ui, sans-serif; margin: 1.5em auto; max-width: 75em; padding: 0 1em }
body { background: var(--back); color: var(--text) }
h1 { font-size: 1.3em } h2 { font-size: 1.1em; margin-top: 2em; border-bottom: 1px solid var(--dim) } .good { color: var(--good) }
.bad { color: var(--bad) } p { margin: .4em 0; overflow-wrap: anywhere } code { font-size: .9em }
.row { display: flex; flex-wrap: wrap; gap: 1.5em; margin: .6em 0 1.4em } .people { display: flex; flex-wrap: wrap; gap: .6em }
figure { margin: 0; width: 112px; font-size: .75em; line-height: 1.3; overflow-wrap: anywhere }
figure img, figure .none { width: 112px; height: 112px; border-radius: 6px; display: block; margin-bottom: 6px }
figure .none { background: var(--dim); text-align: center; line-height: 112px } figure.bad img { outline: 3px solid var(--bad) }
figure.bad { color: inherit } section > h3 { font-size: 1em; margin: 0 0 .4em; overflow-wrap: anywhere }
section { max-width: 480px }
table { border-collapse: collapse } th, td { padding: .15em .7em; text-align: left; border-bottom: 1px solid var(--dim) }
td { overflow-wrap: anywhere } td.no { color: var(--bad) } .dim { opacity: .7 }
</style></head><body>
"""


def page(report: Report, gallery: Gallery) -> str:
    """The page of what `check` found in `gallery`."""
    shown = _Pictures(gallery)
    verdict = (
        '<p class="good">Nobody is mistaken for anybody, as far as can be seen.</p>'
        if report.ok
        else '<p class="bad">Something to mend.</p>'
    )
    counts = f"{report.people} people, {report.templates} templates; known from {report.threshold:.3f}, to review from {report.review:.3f}"
    parts = [
        f'{HEAD}<h1>Gallery check</h1>\n{verdict}<p class="dim">{counts}. This file shows people: keep it to yourself.</p>\n',
        _part("Hardly told apart", (_pair(pair, shown) for pair in report.pairs), "no two people"),
        _part("Under a wrong name, likely", (_suspect(one, shown) for one in report.mislabelled), "no picture"),
        _part("Weak templates", _weak(report.weak, shown), "none"),
        _part("Coverage", [_coverage(report.coverage)] if report.coverage else [], "nobody is enrolled"),
    ]
    return "".join(parts) + "</body></html>\n"


class _Pictures:
    """The templates of people as figures."""

    def __init__(self, gallery: Gallery):
        self._gallery = gallery
        self._known: dict[str, list[Entry]] = {}

    def of(self, name: str) -> list[Entry]:
        if name not in self._known:
            self._known[name] = [entry for entry in self._gallery.entries(name, crops=True) if not entry.template.denies]
        return self._known[name]

    def person(self, name: str, first: Sequence[int] = (), but: Sequence[int] = ()) -> str:
        """Some of a person's templates: those with the numbers `first`, then the best, and none of `but`."""
        entries = [entry for entry in self.of(name) if entry.number not in but]
        entries.sort(key=lambda entry: (entry.number not in first, -entry.template.quality))
        figures = "".join(figure(entry, entry.number in first) for entry in entries[:SHOWN])
        more = f' <span class="dim">and {len(entries) - SHOWN} more</span>' if len(entries) > SHOWN else ""
        return f'<section><h3>{escape(name)}{more}</h3><div class="people">{figures}</div></section>'

    def one(self, name: str, number: int, told: str) -> str:
        return "".join(figure(entry, True, told) for entry in self.of(name) if entry.number == number)


def figure(entry: Entry, marked: bool = False, told: str = "") -> str:
    """A template: its crop if it is kept, its number, quality and source."""
    picture = '<span class="none">no crop kept</span>'
    if entry.template.crop is not None:
        jpeg = cv2.imencode(".jpg", cv2.cvtColor(entry.template.crop, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
        picture = f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}">'
    name = entry.template.source.replace("\\", "/").rsplit("/", 1)[-1]
    facts = f"{entry.number}, quality {entry.template.quality:.2f}<br>{escape(name)}" + (f"<br>{told}" if told else "")
    mark, whole = " class=bad" if marked else "", escape(entry.template.source)
    return f'<figure{mark} title="{whole}">{picture}<figcaption>{facts}</figcaption></figure>'


def _part(title: str, parts: Iterable[str], nothing: str) -> str:
    body = "".join(parts)
    return f"<h2>{title}</h2>\n{body or f'<p class=good>{nothing}</p>'}\n"


def _pair(pair: Pair, shown: _Pictures) -> str:
    one, two = pair.people
    people = "".join(shown.person(name, pair.templates) for name in pair.people)
    told = f"{pair.score:.3f}, {'named' if pair.decision == 'known' else 'to review'}; marked: {', '.join(map(str, pair.templates))}"
    mend = f"One person: <code>enroll.py merge {_quoted(two)} {_quoted(one)}</code>. Two: add better pictures of both."
    return f'<p><b>{escape(one)}</b> and <b>{escape(two)}</b> ({told}). {mend}</p><div class="row">{people}</div>'


def _suspect(one: Suspect, shown: _Pictures) -> str:
    split = f"enroll.py split {_quoted(one.person)} NEW {one.template}"
    if one.other is None:
        what = f"is unlike the others: {one.strangers:.0%} of strangers look more like them"
        mend = f"<code>{split}</code>, if it is somebody else"
    else:
        what = f"looks like {escape(one.other)} ({one.other_score:.3f}) rather than {escape(one.person)} ({one.score:.3f})"
        mend = f"<code>{split}</code>, <code>enroll.py merge NEW {_quoted(one.other)}</code>"
    rest = shown.person(one.person, but=[one.template]) + (shown.person(one.other) if one.other else "")
    picture = shown.one(one.person, one.template, "")
    return (
        f"<p>Template {one.template} of <b>{escape(one.person)}</b> {what}. {mend}.</p>"
        f'<div class="row"><section><h3>this one</h3>{picture}</section>{rest}</div>'
    )


def _weak(weak: Sequence[Weak], shown: _Pictures) -> list[str]:
    people = dict.fromkeys(one.person for one in weak)
    return [
        f"<p><b>{escape(name)}</b></p>"
        f'<div class="people">{"".join(shown.one(name, one.template, "; ".join(one.why)) for one in weak if one.person == name)}</div>'
        for name in people
    ]


def _coverage(coverage: dict[str, Coverage]) -> str:
    heads = "".join(f"<th>{word}</th>" for word in (*POSES, *LIGHTS))
    rows = []
    for name, one in coverage.items():
        counts = one.poses | one.lights
        cells = "".join(f"<td{'' if counts.get(word) else ' class=no'}>{counts.get(word, 0)}</td>" for word in (*POSES, *LIGHTS))
        wanted = ", ".join(one.wanted) if one.poses else "not known: its pictures came before that was looked at"
        rows.append(f"<tr><td>{escape(name)}</td><td>{one.share:.0%}</td>{cells}<td>{escape(wanted)}</td></tr>")
    return f"<table><tr><th>person</th><th>covered</th>{heads}<th>what would help</th></tr>{''.join(rows)}</table>"


def _quoted(name: str) -> str:
    return escape(f'"{name}"')
