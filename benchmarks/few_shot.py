"""Who of N people is it, K pictures of each given? Nearest neighbours, SVMs and heads that were meta-learned, on LFW.

  python benchmarks/few_shot.py --encoder models/omokage-s --data ../shared/data --out build/few-shot

5 and 30 people with 1, 3 and 5 pictures each, of LFW's people with seven pictures or more; per seed 20 episodes of 5 people and 4
of 30, two queries a person, 10 seeds; the same episodes for all. The heads are learnt on 70 % of the people of CelebA
(train/meta.py) and kept in --out, so that a second call goes on from there. `no steps` is the best of the heads before it adapts.
Writes few_shot.json, few_shot.md and few_shot.svg to --out; the picture, and a second table, tell how much more each has right than
nearest neighbours, seed by seed. It always ends with 0: what is better is what the table says.
"""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.stats import t

from device import adapt, bundle, openset
from device.adapt import Adapted, Head
from device.classify import Classifier, Neighbours, Planes
from device.demo import shared_data
from device.program import InputError, Parser, replacing, run
from train import embedded, evaluate, meta
from train.embedded import Embedded

SEEDS = 10
EPISODES = {5: 20, 30: 4}
ALGORITHMS = ("maml", "fomaml", "reptile")
Train = Callable[[np.ndarray, list[str]], Classifier]


def learnt(algorithm: str, encoder: evaluate.Encoder, people: Embedded, out: Path, rounds: int) -> Head:
    """The head of an algorithm, out of --out where it is there."""
    path = out / f"{algorithm}-{encoder.identity}-{rounds}.npz"
    if not path.exists():
        head = meta.learn(people, meta.Settings(algorithm, rounds))
        head.facts["encoder"] = encoder.identity
        with replacing(path) as temporary:
            head.save(temporary)
    return adapt.read(path, encoder.identity, people.rows.shape[1])


def classifiers(heads: dict[str, Head], strangers: np.ndarray, best: str) -> dict[str, Train]:
    found: dict[str, Train] = {"knn": Neighbours, "svm": lambda rows, names: Planes.train(rows, names, strangers)}
    found |= {name: lambda rows, names, head=head: Adapted(head, rows, names) for name, head in heads.items()}
    still = replace(heads[best], steps=0)
    return found | {f"{best}, no steps": lambda rows, names: Adapted(still, rows, names)}


def interval(shares: list[float]) -> tuple[float, float]:
    """Mean and half the width of the 95 % interval, by Student's t over seeds."""
    return float(np.mean(shares)), float(t.ppf(0.975, len(shares) - 1) * np.std(shares, ddof=1) / np.sqrt(len(shares)))


def above_knn(found: dict[str, list[float]], knn: dict[str, list[float]]) -> dict[str, list[float]]:
    """How much more is right than with nearest neighbours, seed by seed: the episodes are the same."""
    return {kind: [share - usual for share, usual in zip(found[kind], knn[kind], strict=True)] for kind in found}


def markdown(rows: dict[str, dict[str, list[float]]], facts: str) -> str:
    kinds = list(rows["knn"])
    differences = {name: above_knn(found, rows["knn"]) for name, found in rows.items() if name != "knn"}
    lines = [facts]
    for title, table, form in (("classifier", rows, "{:.2%} ± {:.2%}"), ("above knn, points", differences, "{:+.2f} ± {:.2f}")):
        lines += ["", f"| {title} | {' | '.join(kinds)} |", "|---" * (len(kinds) + 1) + "|"]
        for name, found in table.items():
            scale = 1 if table is rows else 100
            cells = [form.format(*(scale * number for number in interval(found[kind]))) for kind in kinds]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def plot(rows: dict[str, dict[str, list[float]]], path: Path) -> None:
    """How much more each has right than nearest neighbours."""
    from matplotlib.figure import Figure  # pyplot would ask for a screen

    figure = Figure(figsize=(9, 3.5), layout="constrained")
    others = [name for name in rows if name != "knn"]
    for axes, ways in zip(figure.subplots(1, len(meta.WAYS)), meta.WAYS, strict=True):
        axes.axhline(0, color="black", linewidth=1)
        for place, name in enumerate(others):
            more = above_knn(rows[name], rows["knn"])
            points = 100 * np.array([interval(more[f"{ways}-way {shots}-shot"]) for shots in meta.SHOTS])
            at = np.arange(len(meta.SHOTS)) + 0.14 * (place - (len(others) - 1) / 2)
            axes.errorbar(at, points[:, 0], points[:, 1], fmt="o", markersize=4, capsize=2, label=name)
        axes.set(title=f"{ways} people", xlabel="pictures of each", ylim=(-2.2, 2.2))
        axes.set_xticks(range(len(meta.SHOTS)), map(str, meta.SHOTS))
        axes.grid(axis="y", alpha=0.3)
    figure.axes[0].set_ylabel("right, points above nearest neighbours")
    figure.axes[-1].legend(fontsize=8, ncols=2)
    with replacing(path) as temporary:
        figure.savefig(temporary, metadata={"Date": None})


def _main(args: argparse.Namespace) -> int:
    if not (args.data / "lfw").is_dir():
        raise InputError(f"{args.data} is not the shared data", "name its folder with --data")
    encoder = evaluate.open_encoder(args.encoder or bundle.find(None).path)
    if encoder.bundle is None or (cohort := openset.load(encoder.bundle)) is None:
        raise InputError("an SVM learns from strangers", "name a bundle with a cohort")
    people, others = embedded.parted(embedded.celeba(encoder, args.data))
    tests = embedded.lfw(encoder, args.data).of_people(max(meta.SHOTS) + meta.QUERIES, 10_000)
    heads = {algorithm: learnt(algorithm, encoder, people, args.out, args.rounds) for algorithm in ALGORITHMS}
    kept_back = {
        name: float(np.mean([*meta.validated(lambda rows, names, h=head: Adapted(h, rows, names), others).values()]))
        for name, head in heads.items()
    }
    best = max(kept_back, key=lambda name: kept_back[name])
    rows: dict[str, dict[str, list[float]]] = {}
    for name, train in classifiers(heads, cohort.embeddings[::4], best).items():
        rows[name] = {
            f"{ways}-way {shots}-shot": [
                meta.accuracy(train, tests, ways, shots, EPISODES[ways], 1000 + seed) for seed in range(args.seeds)
            ]
            for ways in meta.WAYS
            for shots in meta.SHOTS
        }
        print(f"{name} is measured", file=sys.stderr)
    facts = f"Encoder {encoder.identity}; heads learnt on {len(np.unique(people.identities))} people of CelebA, {args.rounds} rounds; "
    facts += f"{args.seeds} seeds, 95 % by Student's t. Best on people kept back: {best} ({kept_back[best]:.2%})."
    text = markdown(rows, facts)
    for name, content in (("few_shot.json", json.dumps({"rows": rows, "kept_back": kept_back}, indent=1) + "\n"), ("few_shot.md", text)):
        with replacing(args.out / name) as temporary:
            temporary.write_text(content, "utf-8")
    plot(rows, args.out / "few_shot.svg")
    print(text)
    return 0


def main(argv: list[str] | None = None) -> int:
    parser = Parser(__doc__)
    parser.add_argument("--encoder", type=Path, help="a bundle (default: the newest shipped one)")
    parser.add_argument("--data", type=Path, default=shared_data(), help="the shared data (default $OMOKAGE_DATA)")
    parser.add_argument("--out", type=Path, default=Path("build/few-shot"))
    parser.add_argument("--rounds", type=int, default=meta.Settings.rounds, help="of meta-learning (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="(default: %(default)s)")
    return run(_main, parser, argv)


if __name__ == "__main__":
    sys.exit(main())
