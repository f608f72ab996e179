"""Open-set identification with few labels: who is it, if it is anybody we know?

People with enough pictures are split into known people and strangers; a few pictures of each known person are enrolled,
all other pictures are probes. docs/evaluation.md says what is measured and how to read it.
"""

import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from device.classify import strongest
from device.detect import Detector
from device.known import CLASSIFIERS, Judge
from device.openset import Cohort
from device.program import InputError
from train import data, labels, metrics, prepare

LFW_DOUBLES = Path(__file__).with_name("lfw_doubles.txt")

# Best candidates of probes, float32 unit [M, D]: number of the person int [M], score float [M].
Ranker = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def ranker(classifier: str, templates: np.ndarray, owners: np.ndarray, strangers: np.ndarray) -> Ranker:
    """The device's classifier "knn" or "svm" (device.known), its scores normalised where there are `strangers`.

    `templates` float32 unit [N, D], `owners` int [N]: whose they are; `strangers` float32 unit [K, D] are nobody's.
    """
    judge, names = Judge(Cohort(strangers, len(strangers)), 0.0, classifier=classifier), [str(owner) for owner in owners]
    trained = judge.train(templates, names)
    scorer = judge.normalised(trained, templates, names) if judge.has_cohort else trained
    people = np.array([int(person) for person in scorer.people])

    def rank(probes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        scores, found = strongest(scorer, probes)
        return people[found], scores

    return rank


@dataclass(frozen=True)
class Protocol:
    """What is measured: every classifier at every number of `shots`, the pictures enrolled of a known person.

    `known` and `strangers`: how many people (None: half of them, and the rest). At most `pictures` of each take part, drawn
    by the seed, so that nobody outweighs the others; people with fewer than `least` (None: as many) stay out.
    """

    shots: tuple[int, ...] = (1, 3, 5)
    classifiers: tuple[str, ...] = tuple(CLASSIFIERS)
    known: int | None = None
    strangers: int | None = None
    pictures: int = 8
    least: int | None = None
    seeds: int = 10

    def people(self, identities: np.ndarray) -> tuple[np.ndarray, int, int]:
        """Who may take part, of `identities` int [N], and how many of them are known and are strangers.

        Raises InputError where there are too few of them or of their pictures.
        """
        least = self.pictures if self.least is None else min(self.least, self.pictures)
        if not all(0 < shots < least for shots in self.shots):
            wrong = f"{' '.join(map(str, self.shots))} of {least} pictures leave none to enrol or none to look for"
            raise InputError(wrong, "change --shots, --pictures or --least")
        numbers, counts = np.unique(identities[identities != labels.UNKNOWN], return_counts=True)
        enough = numbers[counts >= least]
        known = len(enough) // 2 if self.known is None else self.known
        strangers = len(enough) - known if self.strangers is None else self.strangers
        if min(known, strangers, self.seeds) < 1 or known + strangers > len(enough):
            have = f"{len(enough)} of {len(numbers)} people have {least} pictures"
            wanted = f"{known} known people and {strangers} strangers over {self.seeds} seeds are asked for"
            raise InputError(f"{have}, {wanted}", "lower --pictures, --known or --strangers, or add pictures")
        return enough, known, strangers

    def split(self, identities: np.ndarray, shots: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows of the enrolled pictures, of the known people's probes and of the strangers' probes.

        With one seed the people are the same for every number of shots, and what one shot enrols, three do too.
        """
        enough, known, strangers = self.people(identities)
        rng = np.random.default_rng(seed)
        drawn = [rng.permutation(np.flatnonzero(identities == person))[: self.pictures] for person in rng.permutation(enough)]
        enrolled, probes = ([rows[part] for rows in drawn[:known]] for part in (slice(shots), slice(shots, None)))
        return np.concatenate(enrolled), np.concatenate(probes), np.concatenate(drawn[known : known + strangers])


@dataclass(frozen=True, eq=False)
class Result:
    """What `identify` found for one classifier at one number of shots; `known` and `strangers` count people, `probes` the
    pictures of either that were looked for, over all seeds."""

    encoder: str
    protocol: Protocol
    known: int
    strangers: int
    shots: int
    classifier: str
    probes: tuple[int, int]
    found: metrics.Identification

    def as_json(self) -> dict[str, Any]:
        """The object of contracts/identify.schema.json; `dir` lacks the rates that these data cannot show."""
        return {
            "encoder": self.encoder,
            "known": self.known,
            "strangers": self.strangers,
            "pictures": self.protocol.pictures,
            "shots": self.shots,
            "seeds": self.protocol.seeds,
            "classifier": self.classifier,
            "probes": dict(zip(("known", "strangers"), self.probes, strict=True)),
            "rank1": self.found.rank1.as_json(),
            "dir": {str(far): rate.as_json() for far, rate in self.found.dir.items()},
            "thresholds": {str(far): threshold for far, threshold in self.found.thresholds.items()},
        }

    def share_of(self, other: "Result") -> dict[str, Any]:
        """Each figure as a share of `other`'s, the same splits with another encoder; None where that has none."""

        def share(mine: metrics.Estimate, theirs: metrics.Estimate) -> dict[str, float] | None:
            found = mine.over(theirs)
            return None if found is None else found.as_json()

        rates = {str(far): share(rate, other.found.dir[far]) for far, rate in self.found.dir.items()}
        return {"rank1": share(self.found.rank1, other.found.rank1), "dir": rates}


def identify(
    encoder: str, embed: Callable[[np.ndarray], np.ndarray], people: data.Crops, negatives: data.Crops | None, protocol: Protocol
) -> Iterator[Result]:
    """Open-set identification over the protocol's seeds, pooled. The crops are embedded once, when the first result is asked for.

    `people`: labelled crops (source/person/picture), of which LFW's known doubles are left out; `negatives`: crops of people
    who take no part, by whom scores are normalised and the SVM learns. Raises InputError, at once, where there are too few people.
    """
    identities = without_doubles(people.names, labels.read(people.names)[0])
    protocol.people(identities)
    return _results(encoder, embed, people.images, identities, None if negatives is None else negatives.images, protocol)


def _results(
    encoder: str,
    embed: Callable[[np.ndarray], np.ndarray],
    images: np.ndarray,
    identities: np.ndarray,
    negatives: np.ndarray | None,
    protocol: Protocol,
) -> Iterator[Result]:
    _, known, strangers = protocol.people(identities)
    embeddings = embed(images)
    others = embeddings[:0] if negatives is None else embed(negatives)
    for shots in protocol.shots:
        splits = [protocol.split(identities, shots, seed) for seed in range(protocol.seeds)]
        probes = sum(len(split[1]) for split in splits), sum(len(split[2]) for split in splits)
        for classifier in protocol.classifiers:
            found = metrics.identification([_search(embeddings, identities, split, classifier, others) for split in splits])
            yield Result(encoder, protocol, known, strangers, shots, classifier, probes, found)


def _search(
    embeddings: np.ndarray,
    identities: np.ndarray,
    split: tuple[np.ndarray, np.ndarray, np.ndarray],
    classifier: str,
    negatives: np.ndarray,
) -> metrics.Searches:
    enrolled, probes, strangers = split
    rank = ranker(classifier, embeddings[enrolled], identities[enrolled], negatives)
    found, scores = rank(embeddings[probes])
    return metrics.Searches(scores, found == identities[probes], rank(embeddings[strangers])[1])


def without_doubles(names: Sequence[str], identities: np.ndarray) -> np.ndarray:
    """`identities` with the people and the pictures of lfw_doubles.txt made unknown; `names` [N]: source/person/picture."""
    lines = LFW_DOUBLES.read_text("utf-8").splitlines()
    doubles = {line.partition("#")[0].strip() for line in lines}
    parts = [name.split("/")[-2:] for name in names]
    return np.where([part[0] in doubles or "/".join(part) in doubles for part in parts], labels.UNKNOWN, identities)


def photo_crops(source: Path, detector: Detector) -> data.Crops:
    """Crops of raw photos PERSON/PICTURE in a folder or a zip, by our own detection and alignment (train.prepare).

    Where a photo shows several faces, the one is taken that the photo is of: the largest, less the farther it is from the
    middle. LFW's photos are cut out around the person whose name they bear. Photos that give nothing are told on stderr.
    """
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) if zipfile.is_zipfile(source) else source
        if root != source:
            with zipfile.ZipFile(source) as archive:
                archive.extractall(root)
        elif not root.is_dir():
            raise InputError(f"{source} is neither a folder nor a zip", "name photos PERSON/PICTURE with --photos")
        found = {name: _face(photo, name, detector) for photo, name in prepare.photos([root])}
    crops = {f"{source.stem}/{name.with_suffix('').as_posix()}": crop for name, crop in found.items() if crop is not None}
    if not crops:
        raise InputError(f"no face in the {len(found)} photos of {source}", "name photos PERSON/PICTURE with --photos")
    return data.Crops(np.stack(list(crops.values())), list(crops))


def _face(photo: Path, name: Path, detector: Detector) -> np.ndarray | None:
    """The crop of a photo; None, and a word on stderr, where it gives none."""
    try:
        found = prepare.crop(photo, detector)
        reason = "no face"
    except InputError as error:
        found, reason = None, error.wrong
    if found is None:
        print(f"skipped {name}: {reason}", file=sys.stderr)
    return found


def cohort(path: Path) -> data.Crops:
    """The crops of strangers that the list `path` names, out of the folders and zips beside it."""
    names = data.read_list(path)
    sources = sorted({name.split("/")[0] for name in names})
    beside = [path.parent / source if (path.parent / source).is_dir() else path.parent / f"{source}.zip" for source in sources]
    return data.read_crops(beside, only=names)
