"""What is the matter with a gallery: people who can hardly be told apart, photos under a wrong name, templates that serve badly.

Every template is looked for among the others as if it were not enrolled (leave-one-out). What counts as alike is the threshold that
the recogniser would take (docs/thresholds.md), so that nothing here depends on the scale of an encoder's cosines.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from device import openset
from device.bundle import FAR, Bundle
from device.classify import BLOCK, NEIGHBOURS, Classifier, Neighbours, left_out
from device.coverage import Coverage, cover
from device.gallery import Entry, Gallery
from device.known import Judge
from device.normalise import Normalised
from device.search import Index

POOR = 0.5  # a quality below this is worth a word
ODD = 0.05  # share of strangers who look more like a person than a picture may, that is said to show that person
FEW = 3  # templates from which on one that is unlike the others can be told from the others

ALONE, BLURRED, UNLIKE = "it is the only one", "it is small, blurred, dark or turned away", "the others would not recognise it"


@dataclass(frozen=True)
class Pair:
    """Two people, of whom `templates` would be told as the other one, the most alike with this `score`; or looked at, in `review`."""

    people: tuple[str, str]
    score: float
    templates: tuple[int, ...]
    decision: str


@dataclass(frozen=True)
class Suspect:
    """A template that likely shows somebody else than `person`: what it scores against that person's others, who it is more like, if
    anybody, and how many of all strangers score higher against that person."""

    person: str
    template: int
    source: str
    score: float
    other: str | None
    other_score: float | None
    strangers: float | None


@dataclass(frozen=True)
class Weak:
    """A template that helps little, and why."""

    person: str
    template: int
    source: str
    quality: float
    score: float | None
    why: tuple[str, ...]


@dataclass(frozen=True)
class Report:
    """`threshold` and `review` are what the pairs were measured by. `ok`: nobody is mistaken for somebody, as far as can be seen."""

    people: int
    templates: int
    threshold: float
    review: float
    pairs: tuple[Pair, ...]
    mislabelled: tuple[Suspect, ...]
    weak: tuple[Weak, ...]
    coverage: dict[str, Coverage]

    @property
    def ok(self) -> bool:
        return not self.pairs and not self.mislabelled

    def as_json(self) -> dict[str, Any]:
        told = {word: [_rounded(asdict(entry)) for entry in getattr(self, word)] for word in ("pairs", "mislabelled", "weak")}
        covered = {
            name: {"share": round(one.share, 2), "poses": one.poses, "lights": one.lights, "would_help": list(one.wanted)}
            for name, one in self.coverage.items()
        }
        facts = {"ok": self.ok, "people": self.people, "templates": self.templates}
        return facts | {"threshold": round(self.threshold, 4), "review": round(self.review, 4)} | told | {"coverage": covered}


def check(gallery: Gallery, used: Bundle, far: float = FAR) -> Report:
    """Look through a gallery whose templates the encoder of `used` made. Raises what Gallery.templates raises."""
    everybody = {person.name: [e for e in gallery.entries(person.name) if not e.template.denies] for person in gallery.people()}
    gallery.templates(used)  # all are of this encoder
    found = _Checkup({name: entries for name, entries in everybody.items() if entries}, used, far)
    coverage = {name: cover(entry.template.look for entry in entries) for name, entries in everybody.items()}
    suspects = sorted(found.suspects(), key=lambda one: one.score - (one.other_score or 0.0))
    pairs = found.pairs({one.template for one in suspects})
    weak = found.weak({one.template for one in suspects})
    count = sum(map(len, everybody.values()))
    return Report(len(everybody), count, found.known, found.review, tuple(pairs), tuple(suspects), tuple(weak), coverage)


class _Checkup:
    """The templates of a gallery [N], and what each scores against its own person's others and against everybody else."""

    def __init__(self, everybody: dict[str, list[Entry]], used: Bundle, far: float):
        self._entries = [entry for entries in everybody.values() for entry in entries]
        self._owners = [name for name, entries in everybody.items() for _ in entries]
        rows = [entry.template.embedding for entry in self._entries]
        embeddings = np.stack(rows) if rows else np.zeros((0, used.dimension), np.float32)
        classifier = Neighbours(embeddings, self._owners)
        decider, threshold = Judge.of(used, far).judge(embeddings, self._owners, classifier)
        self.known, self.review = decider.threshold, decider.threshold if threshold is None else threshold.review
        self._scorer = decider.classifier if isinstance(decider.classifier, Normalised) else classifier
        cohort = openset.load(used)
        self._strangers = None if cohort is None else cohort.embeddings
        self._index = classifier.index
        self._rows = rows
        self._own = [self._among(self._index, place) for place in range(len(rows))]
        # Only what comes near the threshold, or is the best: template -> person -> score.
        self._others: dict[int, dict[str, float]] = defaultdict(dict)
        for place, person, score in _near(self._scorer, embeddings, self._owners, self.review):
            self._others[place][person] = score

    def suspects(self) -> Iterator[Suspect]:
        for place, entry in enumerate(self._entries):
            own, name = self._own[place], self._owners[place]
            if own is None or own >= self.known:
                continue
            others = self._others[place]
            other = max(others, key=others.__getitem__, default=None)
            if other is not None and others[other] > own and not self._alike(name, other, place):
                yield Suspect(name, entry.number, entry.template.source, own, other, others[other], self._strangers_nearer(place))
            elif own < self.review and len(self._index.of(name)) >= FEW:
                share = self._strangers_nearer(place)
                if share is not None and share >= ODD:
                    yield Suspect(name, entry.number, entry.template.source, own, None, None, share)

    def pairs(self, suspects: set[int]) -> list[Pair]:
        """The most alike first."""
        found: dict[tuple[str, str], list[tuple[float, int]]] = defaultdict(list)
        for place, others in self._others.items():
            for other, score in others.items() if self._entries[place].number not in suspects else ():
                one, two = sorted((self._owners[place], other))
                found[one, two].append((score, self._entries[place].number))
        pairs = [
            Pair(people, max(scores)[0], tuple(sorted(number for _, number in scores)), self._decision(max(scores)[0]))
            for people, scores in found.items()
        ]
        return sorted(pairs, key=lambda pair: -pair.score)

    def weak(self, suspects: set[int]) -> Iterator[Weak]:
        kept = [place for place, entry in enumerate(self._entries) if entry.number not in suspects]
        index = Index(np.stack([self._rows[place] for place in kept]), [self._owners[place] for place in kept]) if kept else self._index
        for place in kept:
            entry, name = self._entries[place], self._owners[place]
            own = self._among(index, place)
            unlike = own is not None and own < self.review
            why = ((ALONE, own is None), (BLURRED, entry.template.quality < POOR), (UNLIKE, unlike))
            if any(holds for _, holds in why):
                reasons = tuple(reason for reason, holds in why if holds)
                yield Weak(name, entry.number, entry.template.source, entry.template.quality, own, reasons)

    def _among(self, index: Index, place: int) -> float | None:
        """What a template scores against its person's others in `index`; None where there are none."""
        name, row = self._owners[place], self._rows[place]
        cosine = left_out(index.of(name), row)
        return None if cosine is None else self._scorer.scored(cosine, name, row)

    def _decision(self, score: float) -> str:
        return "known" if score >= self.known else "review"

    def _alike(self, person: str, other: str, without: int) -> bool:
        """Whether most of a person's other templates are near `other` too: then it is no matter of a single picture."""
        places = [place for place, name in enumerate(self._owners) if name == person and place != without]
        near = sum(other in self._others[place] for place in places)
        return 2 * near > len(places) or (2 * near == len(places) and near > 0)

    def _strangers_nearer(self, place: int) -> float | None:
        """The share of the cohort that scores higher than this template against its person's others."""
        templates = self._index.of(self._owners[place])
        own = left_out(templates, self._rows[place])
        if self._strangers is None or own is None:
            return None
        rest = templates[np.arange(len(templates)) != (templates == self._rows[place]).all(axis=1).argmax()]
        return float((Index(rest, ["it"] * len(rest)).scores(self._strangers, NEIGHBOURS)[:, 0] >= own).mean())


def _near(scorer: Classifier, embeddings: np.ndarray, owners: list[str], least: float) -> Iterator[tuple[int, str, float]]:
    """Each template's number, every other person against whom it scores `least` or more, and that score."""
    step = max(BLOCK // max(len(embeddings), 1), 1)
    for start in range(0, len(embeddings), step):
        scores = scorer.scores(embeddings[start : start + step])
        for line, column in np.argwhere(scores >= least).tolist():
            if scorer.people[column] != owners[start + line]:
                yield start + line, scorer.people[column], float(scores[line, column])


def _rounded(facts: dict[str, Any]) -> dict[str, Any]:
    return {key: round(value, 4) if isinstance(value, float) else value for key, value in facts.items()}


def lines(report: Report) -> list[str]:
    """The report for people: what is the matter, and how to mend it."""
    told = [_pair(pair) for pair in report.pairs] + [_suspect(one) for one in report.mislabelled]
    told += [f"weak: {one.person}'s template {one.template} ({one.source}): {'; '.join(one.why)}" for one in report.weak]
    for name, covered in report.coverage.items():
        wanted = f"; what would help: {', '.join(covered.wanted)}" if covered.wanted else ""
        told.append(f"{name} is {covered.word} covered{wanted}" if covered.poses else f"{name}: coverage unknown")
    return told


def _pair(pair: Pair) -> str:
    one, two = pair.people
    told = "would be named like" if pair.decision == "known" else "come near"
    numbers = f"template{'s' if len(pair.templates) > 1 else ''} {', '.join(map(str, pair.templates))}"
    return (
        f"alike: {one} and {two} ({pair.score:.2f}): {numbers} {told} the other person: one person? "
        f'enroll.py merge "{two}" "{one}"; two? add better pictures of both'
    )


def _suspect(one: Suspect) -> str:
    split = f'enroll.py split "{one.person}" NEW {one.template}'
    if one.other is None:
        return (
            f"wrong name? {one.person}'s template {one.template} ({one.source}) is unlike the others ({one.score:.2f}): look at it; {split}"
        )
    return (
        f"wrong name? {one.person}'s template {one.template} ({one.source}) looks like {one.other} ({one.other_score:.2f}), "
        f'less like {one.person} ({one.score:.2f}): {split}, enroll.py merge NEW "{one.other}"'
    )
