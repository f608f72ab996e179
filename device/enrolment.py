"""How a person is learnt from pictures: which templates are kept, and what would make the recognition better.

enroll.py and the page (device/web) both add people by these lines.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from device import coverage
from device.bundle import Bundle
from device.collect import Candidate, Skipped
from device.coverage import Coverage, choose, cover
from device.gallery import Gallery, Template, valid_name
from device.program import InputError

OF_ONE = 8  # templates from one video
POOR = 0.5  # a quality below this is worth a word


@dataclass(frozen=True, eq=False)
class Before:
    """Who is there before pictures are looked at: the `name` as it is stored, everybody's embeddings [N, D] and names."""

    name: str
    embeddings: np.ndarray
    names: list[str]


@dataclass(frozen=True)
class Added:
    """What came of it: how many templates were `added` and are there in `total`, which inputs were `skipped`, hints, and how well
    the person is covered now."""

    name: str
    added: int
    total: int
    skipped: list[Skipped]
    hints: list[str]
    covered: Coverage


def before(path: Path, used: Bundle, name: str, more: bool, key: bytes | None = None) -> Before:
    """Who is in the gallery at `path`, which need not be there yet. Raises InputError where `name` cannot be added."""
    if not path.is_file():
        if more:
            raise InputError(f"the gallery {path} is not there", "leave --more out to add a new person")
        return Before(valid_name(name), np.zeros((0, used.dimension), np.float32), [])
    with Gallery(path, key=key) as gallery:
        return Before(gallery.accept(name, more), *gallery.templates(used))


def templates_of(
    candidates: Sequence[Candidate], embeddings: np.ndarray, used: Bundle, detector: str, keep_crops: bool = False
) -> list[Template]:
    """The candidates and their embeddings, float32 unit [N, D], as templates."""
    return [
        Template(row, used.encoder, used.preprocessing, detector, c.quality, c.source, c.look, c.crop if keep_crops else None)
        for row, c in zip(embeddings, candidates, strict=True)
    ]


def chosen(there: Before, templates: Sequence[Template], skipped: Sequence[Skipped]) -> tuple[list[Template], list[Skipped]]:
    """The templates that are worth keeping, and all inputs that are not. Raises InputError where none is."""
    own = [index for index, owner in enumerate(there.names) if owner == there.name]
    fresh, copies = _new(_thinned(templates), there.embeddings[own])
    if not fresh:
        raise InputError(f"nothing new: {copies[0].error.wrong}", "choose other pictures")
    return fresh, [*skipped, *copies]


def add(
    gallery: Gallery, there: Before, templates: Sequence[Template], skipped: Sequence[Skipped], threshold: float, more: bool, most: int
) -> Added:
    """Store what `chosen` gave, and tell what would help. `threshold`: the cosine from which two faces look like one person."""
    name = there.name
    total = gallery.add(name, templates, more, most)
    covered = cover(entry.template.look for entry in gallery.entries(name) if not entry.template.denies)
    others = [index for index, owner in enumerate(there.names) if owner != name]
    hints = advice(templates, total, threshold)
    hints += doubles(templates, there.embeddings[others], [there.names[index] for index in others], name, threshold)
    return Added(name, len(templates), total, list(skipped), hints, covered)


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


def nothing(skipped: Sequence[Skipped], name: str) -> InputError:
    """The error that tells why no picture shows `name`."""
    first = skipped[0].error
    if len(skipped) == 1:
        return first
    return InputError(f"none of the {len(skipped)} pictures shows {name} alone (the first: {first.wrong})", first.mend)


def _thinned(templates: Sequence[Template]) -> list[Template]:
    """The best and most different of each source."""
    kept: list[Template] = []
    for source in dict.fromkeys(template.source for template in templates):
        own = [template for template in templates if template.source == source]
        places = choose(np.stack([template.embedding for template in own]), [template.quality for template in own], OF_ONE)
        kept += [own[index] for index in places]
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
