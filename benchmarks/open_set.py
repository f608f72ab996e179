"""Is the promised false-accept rate kept? LFW's people in nobody's gallery, at the thresholds that the recogniser would take.

  python benchmarks/open_set.py --encoder models/omokage-s --data ../shared/data --out build/open-set
  python benchmarks/open_set.py --people celeba --out build/open-set-celeba
  python benchmarks/open_set.py --people celeba --apart --out build/open-set-apart

Per seed 30 people are enrolled with 3 pictures each; 5,000 strangers, a picture each, and up to 5 more pictures of each enrolled
person are looked for, by nearest neighbours and by SVM, at --far 0.01 and 0.001, with the cohort of real strangers and with a
synthetic one drawn from a density fitted to it. LFW's known doubles are left out. --people celeba takes CelebA's people instead,
who are in no cohort: what device/openset.py says of how much higher strangers score than the cohort was chosen on them, and not on
LFW. With --apart no other picture of CelebA is in the cohort either. A promise is kept in a seed if the share of
strangers who are named is at most FAR, or, where the cohort is too small for FAR, the bound that the recogniser tells. Exit
status 1 if with the real cohort one is kept in fewer than 9 of 10 seeds, or used up by less than a third on average. --out gets
open_set.json, open_set.md, reliability.svg and rates.svg.
"""

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from device import bundle, openset
from device.classify import strongest
from device.demo import shared_data
from device.known import CLASSIFIERS, Judge
from device.program import HOLDS_NOT, InputError, Parser, replacing, run
from train import embedded, evaluate, identification
from train.embedded import Embedded

FARS = (0.01, 0.001)
PEOPLE, SHOTS, PROBES, STRANGERS, SEEDS = 30, 3, 5, 5000, 10
KEPT, USED = 0.9, 1 / 3
CELEBA = "celeba10k/"


@dataclass(frozen=True)
class Row:
    """One classifier, cohort and rate in one seed. `named`: the share of strangers who got a name; `identified`: of the enrolled
    people's pictures, those that got the right one; `review`: of theirs and of the strangers', those to be reviewed; `often`: how
    many times as often strangers exceed what a share `far` of the cohort does."""

    classifier: str
    cohort: str
    far: float
    seed: int
    named: float
    identified: float
    review: tuple[float, float]
    often: float
    threshold: openset.Threshold
    seconds: float

    @property
    def kept(self) -> bool:
        return self.named <= (self.threshold.bound if self.threshold.lacking else self.far)


@dataclass(frozen=True, eq=False)
class Split:
    """Embeddings of a seed: float32 unit rows; `owners` name the enrolled ones and `truth` the people's probes."""

    enrolled: np.ndarray
    owners: list[str]
    probes: np.ndarray
    truth: np.ndarray
    strangers: np.ndarray


def strangers(encoder: evaluate.Encoder, folder: Path, apart: bool) -> openset.Cohort:
    """The cohort of the encoder's bundle. Where it has none, and `apart` from CelebA: that of the shared data, as a bundle keeps it."""
    if not apart and encoder.bundle is not None and (cohort := openset.load(encoder.bundle)) is not None:
        return cohort
    crops = identification.cohort(folder / "crops" / "cohort.txt")
    kept = [not (apart and name.startswith(CELEBA)) for name in crops.names]
    rows = encoder.embed(crops.images[kept])
    return openset.Cohort(openset.unit(np.round(rows * 127)), len(rows))


def everybody(people: str, encoder: evaluate.Encoder, folder: Path) -> Embedded:
    """LFW, or the part of CelebA that has one picture of most people and no label of ours."""
    if people == "lfw":
        return embedded.lfw(encoder, folder)
    found = embedded.celeba(encoder, folder)
    return found.only(np.array([name.startswith(CELEBA) for name in found.names]))


def split(embeddings: np.ndarray, people: dict[str, np.ndarray], seed: int) -> Split:
    """People who are enrolled and looked for again, and as many of the others, a picture each."""
    rng = np.random.default_rng(seed)
    known = rng.choice([name for name, rows in people.items() if len(rows) > SHOTS], PEOPLE, replace=False)
    rows = {str(name): rng.permutation(people[name])[: SHOTS + PROBES] for name in known}
    strangers = rng.permutation([rng.choice(own) for name, own in people.items() if name not in rows])[:STRANGERS]
    if len(strangers) < STRANGERS:
        raise InputError(f"there are {len(strangers)} strangers, {STRANGERS} are wanted", "name the whole of LFW")
    probes = np.concatenate([own[SHOTS:] for own in rows.values()])
    return Split(
        embeddings[np.concatenate([own[:SHOTS] for own in rows.values()])],
        [name for name in rows for _ in range(SHOTS)],
        embeddings[probes],
        np.array([name for name, own in rows.items() for _ in own[SHOTS:]]),
        embeddings[strangers],
    )


def measure(cohort: openset.Cohort, kind: str, classifier: str, parts: Split, seed: int) -> tuple[list[Row], np.ndarray]:
    """The rows of one seed; and of all who were looked for the probability told and whether the name was right, [2, M]."""
    began = time.perf_counter()
    judge = Judge(cohort, 0.0, classifier=classifier)
    trained, evidence = judge.rated(judge.train(parts.enrolled, parts.owners), parts.enrolled, parts.owners)
    seconds = time.perf_counter() - began
    (best, found), (alarms, _) = strongest(trained, parts.probes), strongest(trained, parts.strangers)
    right = np.array(trained.people)[found] == parts.truth
    rows = []
    for far in FARS:
        limit = evidence.threshold(far)
        review = tuple(float(((s >= limit.review) & (s < limit.known)).mean()) for s in (best, alarms))
        named, identified = float((alarms >= limit.known).mean()), float((right & (best >= limit.known)).mean())
        often = float((alarms >= np.quantile(evidence.scores, 1 - far)).mean()) / far
        rows.append(Row(classifier, kind, far, seed, named, identified, review, often, limit, seconds))
    calibration = evidence.calibration()
    # As many strangers as people, which is what the probability takes for granted.
    scores, truth = np.concatenate([best, alarms[: len(best)]]), np.concatenate([right, np.zeros(min(len(best), len(alarms)), bool)])
    told = np.array([calibration(float(score)) if calibration else np.nan for score in scores])
    return rows, np.stack([told, truth])


def holds(rows: list[Row]) -> bool:
    return np.mean([row.kept for row in rows]) >= KEPT and np.mean([row.named for row in rows]) >= USED * rows[0].far


def markdown(groups: list[list[Row]]) -> str:
    head = "classifier | cohort | FAR promised | named, mean | of the promise | kept in | most | identified | to review: known, strangers"
    names = [*head.split(" | "), "bound", "strangers lacking", "as often as the cohort"]
    lines = [f"| {' | '.join(names)} | |", "|---" * (len(names) + 1) + "|"]
    for rows in groups:
        named = [row.named for row in rows]
        limits = [row.threshold for row in rows]
        review = np.mean([row.review for row in rows], axis=0)
        cells = [
            rows[0].classifier,
            rows[0].cohort,
            f"{rows[0].far:g}",
            f"{np.mean(named):.3%}",
            f"{np.mean(named) / rows[0].far:.2f}",
            f"{sum(row.kept for row in rows)} of {len(rows)}",
            f"{max(named):.2%}",
            f"{np.mean([row.identified for row in rows]):.1%}",
            f"{review[0]:.1%}, {review[1]:.1%}",
            f"{np.mean([limit.bound for limit in limits]):.2%}",
            f"{max(limit.lacking for limit in limits) or '-'}",
            f"{np.mean([row.often for row in rows]):.1f}",
        ]
        lines.append(f"| {' | '.join(cells)} | {'holds' if holds(rows) else '**missed**'} |")
    return "\n".join(lines) + "\n"


def plot(told: dict[str, np.ndarray], groups: list[list[Row]], out: Path) -> None:
    """reliability.svg: right verdicts over the probability told; rates.svg: named strangers over the promise, a dot a seed."""
    from matplotlib.figure import Figure  # pyplot would ask for a screen

    figure = Figure(figsize=(5, 4.5), layout="constrained")
    axes = figure.add_subplot(xlabel="probability told", ylabel="share that was right", xlim=(0, 1), ylim=(0, 1))
    axes.plot([0, 1], [0, 1], color="grey", linewidth=1)
    for name, (probability, right) in told.items():
        axes.plot(*np.array(openset.reliability(probability, right.astype(bool))).T[:2], marker="o", label=name)
    axes.legend()
    _save(figure, out / "reliability.svg")
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot(ylabel="strangers named / promised")
    for place, rows in enumerate(groups):
        axes.plot(
            [place] * len(rows), [row.named / row.far for row in rows], "o", alpha=0.5, color="tab:green" if holds(rows) else "tab:red"
        )
    axes.axhline(1, color="grey", linewidth=1)
    axes.set_ylim(bottom=0)
    axes.set_xticks(range(len(groups)), [f"{rows[0].classifier} {rows[0].far:g}\n{rows[0].cohort}" for rows in groups], fontsize=7)
    _save(figure, out / "rates.svg")


def _save(figure, path: Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, metadata={"Date": None})


def _main(args: argparse.Namespace) -> int:
    if not (args.data / "lfw").is_dir():
        raise InputError(f"{args.data} is not the shared data", "name its folder with --data")
    encoder = evaluate.open_encoder(args.encoder or bundle.find(None).path)
    known, real = everybody(args.people, encoder, args.data), strangers(encoder, args.data, args.apart)
    people = {str(number): np.flatnonzero(known.identities == number) for number in np.unique(known.identities)}
    cohorts = {"real": real, "synthetic": openset.Cohort(openset.synthetic(real.embeddings), real.strangers)}
    rows: list[Row] = []
    told: dict[str, list[np.ndarray]] = {classifier: [] for classifier in CLASSIFIERS}
    for seed in range(args.first, args.first + args.seeds):
        parts = split(known.rows, people, seed)
        for kind, cohort in cohorts.items():
            for classifier in CLASSIFIERS:
                found, probabilities = measure(cohort, kind, classifier, parts, seed)
                rows += found
                told[classifier] += [probabilities] if kind == "real" else []
        print(f"seed {seed}", file=sys.stderr)
    kinds = [(kind, classifier, far) for kind in cohorts for classifier in CLASSIFIERS for far in FARS]
    groups = [[row for row in rows if (row.cohort, row.classifier, row.far) == key] for key in kinds]
    text = markdown(groups)
    for name, content in (("open_set.json", json.dumps([asdict(row) for row in rows], indent=1) + "\n"), ("open_set.md", text)):
        with replacing(args.out / name) as temporary:
            temporary.write_text(content, "utf-8")
    plot({name: np.concatenate(parts, axis=1) for name, parts in told.items()}, groups, args.out)
    print(text)
    return 0 if all(holds(group) for group in groups if group[0].cohort == "real") else HOLDS_NOT


def main(argv: list[str] | None = None) -> int:
    parser = Parser(__doc__)
    parser.add_argument("--encoder", type=Path, help="what evaluate.py takes (default: the newest shipped bundle)")
    parser.add_argument("--data", type=Path, default=shared_data(), help="the shared data (default $OMOKAGE_DATA)")
    parser.add_argument("--people", choices=("lfw", "celeba"), default="lfw", help="who comes (default: %(default)s)")
    parser.add_argument("--apart", action="store_true", help="leave CelebA out of the cohort")
    parser.add_argument("--out", type=Path, default=Path("build/open-set"))
    parser.add_argument("--seeds", type=int, default=SEEDS, help="galleries that are drawn (default: %(default)s)")
    parser.add_argument("--first", type=int, default=0, metavar="SEED", help="of the first gallery (default: %(default)s)")
    return run(_main, parser, argv)


if __name__ == "__main__":
    sys.exit(main())
