"""Which way of clustering faces without names agrees best with who they are? And how long does it take?

  python benchmarks/clustering.py --encoder models/omokage-s --data ../shared/data --out build/clustering
  python benchmarks/clustering.py --encoder models/omokage-s --conv graphsage gat --seed 1 --out build/clustering-1
  python benchmarks/clustering.py --encoder models/omokage-s --collections --out build/clustering
  python benchmarks/clustering.py --encoder models/omokage-s --speed --out build/clustering

All seven graph convolutions, each with average linkage over the linker's probabilities (what the device does) and with pseudo label
propagation (as Wang et al. 2019 do), beside average linkage, DBSCAN and connected components of cosines. Networks are trained on 70 %
of the people of CelebA, thresholds and the size cap are chosen on the others who have 5 to 50 pictures, and all is measured on LFW's
people with 5 to 50 pictures. Run it again and it goes on where it broke off; another --seed wants another --out. Writes
clustering.json, clustering.md and clustering.svg to --out; with --collections collections.json, of what ships: both methods on people
drawn from LFW's, few and many, how true the purity is that is told, and how much the threshold matters; with --speed speed.json, of
the device's own code on one core and without TensorFlow. Exit status 1 if the default of the bundle's linker is not the better one of
the device's two methods, or with --speed if 1,000 take more than 2 s or 50,000 more than 5 minutes.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from device import bundle, cluster, linker
from device.demo import shared_data
from device.neighbours import nearest
from device.program import HOLDS_NOT, InputError, Parser, replacing, run
from train import embedded, evaluate
from train.embedded import Embedded
from train.graph import baselines
from train.graph.agreement import agreement

FEW, MANY = 5, 50  # pictures of a person
CAPS = (50, 100, 1_000_000)  # largest clusters that propagation may leave
SIZES, DRAWS = (3, 6, 12, 25, 50, 100), 10  # people in the collections, and how many of each size
LIMITS = {1000: 2.0, 50_000: 300.0}  # seconds
AGAIN = {1000: 5, 50_000: 1}  # runs, of which the fastest counts: others use this machine too
KINDS = {"of cosines": "black", "average linkage": "tab:blue", "propagation": "tab:orange"}  # how the names of methods end
ONE_CORE = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def baseline(make: Callable[[np.ndarray], Callable[[float], np.ndarray]], others: Embedded, tests: Embedded) -> dict[str, Any]:
    """The row of a way to cluster by cosines alone; its threshold is chosen on `others`."""
    from train.graph import training

    threshold, validation = training.best(make(others.rows), others.identities, training.cosines(others.rows))
    start = time.perf_counter()
    found = make(tests.rows)(threshold)
    return row(found, tests, time.perf_counter() - start, validation, f"cosine {threshold:.3f}")


def network(conv: str, seed: int, people: Embedded, others: Embedded, tests: Embedded) -> dict[str, dict[str, Any]]:
    """The rows of a convolution, by what makes clusters of its links."""
    from train.graph import training

    begun = time.perf_counter()
    trained = training.train(people, training.Settings(conv=conv, seed=seed))
    seconds = time.perf_counter() - begun
    ours = trained.likeness(others.rows)
    start = time.perf_counter()
    theirs = trained.likeness(tests.rows)
    links = time.perf_counter() - start
    ways: dict[str, tuple[Callable[..., np.ndarray], list[tuple[float, ...]]]] = {
        "average linkage": (lambda graph, least: cluster.agglomerate(*graph, least), [(t,) for t in training.LIKENESS]),
        "propagation": (
            lambda graph, least, cap: baselines.propagated(*graph, least, cap),
            [(t, cap) for t in (0.3, 0.5, 0.6, 0.7, 0.8, 0.9) for cap in CAPS],
        ),
    }
    rows = {}
    for name, (partition, settings) in ways.items():
        scores = [(agreement(partition(ours, *setting), others.identities).bcubed, setting) for setting in settings]
        validation, setting = max(scores)
        start = time.perf_counter()
        found = partition(theirs, *setting)
        spent = links + time.perf_counter() - start
        told = f"likeness {setting[0]:.2f}" + (f", at most {setting[1]}" if len(setting) > 1 and setting[1] < 1_000_000 else "")
        rows[name] = row(found, tests, spent, validation, told) | {"training": seconds, "parameters": trained.model.count_params()}
    return rows


def row(found: np.ndarray, tests: Embedded, seconds: float, validation: float, setting: str) -> dict[str, Any]:
    return vars(agreement(found, tests.identities)) | {"seconds": seconds, "validation": validation, "setting": setting}


def measure(args: argparse.Namespace, encoder: evaluate.Encoder) -> int:
    from train.graph.convolutions import CONVOLUTIONS

    if unknown := set(args.conv or ()) - CONVOLUTIONS.keys():
        raise InputError(f"no convolution is called {min(unknown)}", f"choose of {', '.join(CONVOLUTIONS)}")
    people, others = embedded.parted(embedded.celeba(encoder, args.data))
    others = others.of_people(FEW, MANY)
    tests = embedded.lfw(encoder, args.data).of_people(FEW, MANY)
    rows: dict[str, dict[str, Any]] = {}
    kept = args.out / f"clustering-{encoder.identity}.json"
    if kept.exists():
        rows = json.loads(kept.read_text())
    ways: dict[str, Callable[[], dict[str, dict[str, Any]]]] = {}
    for name, make in (("average linkage", baselines.average_linkage), ("DBSCAN", baselines.dbscan), ("components", baselines.components)):
        ways[f"{name} of cosines"] = lambda name=name, make=make: {f"{name} of cosines": baseline(make, others, tests)}
    for conv in args.conv or CONVOLUTIONS:
        ways[f"{conv}, average linkage"] = lambda conv=conv: {
            f"{conv}, {way}": found for way, found in network(conv, args.seed, people, others, tests).items()
        }
    for name, way in ways.items():
        if name not in rows:
            rows |= way()
            print(f"{name}: B-cubed F {rows[name]['bcubed']:.4f}", file=sys.stderr)
            save(kept, rows)
    text = markdown(rows, people, others, tests, encoder)
    save(args.out / "clustering.json", rows)
    with replacing(args.out / "clustering.md") as temporary:
        temporary.write_text(text, "utf-8")
    plot(rows, args.out / "clustering.svg")
    print(text)
    return 0 if holds(rows, encoder, len(tests)) else HOLDS_NOT


def holds(rows: dict[str, dict[str, Any]], encoder: evaluate.Encoder, pictures: int) -> bool:
    """The bundle's default for so many pictures is the better one of the two methods that the device has."""
    known = linker.load(encoder.bundle) if encoder.bundle else None
    if known is None or f"{known.conv}, average linkage" not in rows:
        return True
    device = {"linker": rows[f"{known.conv}, average linkage"]["bcubed"], "average": rows["average linkage of cosines"]["bcubed"]}
    return device["linker" if pictures >= known.facts["linker_from"] else "average"] == max(device.values())


def markdown(rows: dict[str, dict[str, Any]], people: Embedded, others: Embedded, tests: Embedded, encoder: evaluate.Encoder) -> str:
    sizes = [f"{len(part)} pictures of {len(np.unique(part.identities))} people" for part in (people, others, tests)]
    head = f"Encoder {encoder.identity}; trained on {sizes[0]}, chosen on {sizes[1]}, measured on {sizes[2]} (LFW). "
    head += f"`chosen by`: B-cubed F on those that are chosen on. {machine()}."
    names = ["method", "B-cubed F", "precision", "recall", "pairwise F", "NMI", "clusters (true)"]
    names += ["chosen by", "seconds", "training, s", "threshold"]
    lines = [head, "", f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for name, found in sorted(rows.items(), key=lambda item: -item[1]["bcubed"]):
        cells = [name, *(f"{found[key]:.4f}" for key in ("bcubed", "precision", "recall", "pairwise", "nmi"))]
        cells += [
            f"{found['found']} ({found['true']})",
            f"{found['validation']:.4f}",
            f"{found['seconds']:.1f}",
            f"{found['training']:.0f}" if "training" in found else "-",
        ]
        lines.append(f"| {' | '.join([*cells, found['setting']])} |")
    return "\n".join(lines) + "\n"


def machine() -> str:
    return f"{platform.machine()}, {os.cpu_count()} cores, {time.strftime('%Y-%m-%d', time.gmtime())}"


def plot(rows: dict[str, dict[str, Any]], path: Path) -> None:
    from matplotlib.figure import Figure  # pyplot would ask for a screen

    figure = Figure(figsize=(7.5, 5), layout="constrained")
    axes = figure.add_subplot(xlabel=f"B-cubed F, people with {FEW} to {MANY} pictures")
    ranked = sorted(rows, key=lambda name: rows[name]["bcubed"])
    for place, name in enumerate(ranked):
        chosen, found = rows[name]["validation"], rows[name]["bcubed"]
        axes.plot([chosen, found], [place, place], color="lightgrey", zorder=0)
        axes.text(max(chosen, found) + 0.005, place, f"{found:.3f}", va="center", fontsize=8)
    axes.scatter(
        [rows[name]["validation"] for name in ranked], ranked, s=20, c="white", edgecolors="grey", label="CelebA, people kept back"
    )
    for kind, colour in KINDS.items():
        own = [name for name in ranked if name.endswith(kind)]
        axes.scatter([rows[name]["bcubed"] for name in own], own, s=30, c=colour, label=f"LFW: {kind}")
    axes.set_xlim(right=axes.get_xlim()[1] + 0.02)
    axes.grid(axis="x", alpha=0.3)
    axes.legend(fontsize=8, loc="lower right")
    with replacing(path) as temporary:
        figure.savefig(temporary, metadata={"Date": None})


def collections(args: argparse.Namespace, encoder: evaluate.Encoder) -> int:
    """What the bundle's two methods are worth in collections of few and many people."""
    from train.graph import training

    if encoder.bundle is None or (known := linker.load(encoder.bundle)) is None:
        raise InputError(f"there is no {linker.FILE} with this encoder", "name a bundle that has one")
    others = embedded.parted(embedded.celeba(encoder, args.data))[1].of_people(FEW, MANY)
    neighbours, _ = nearest(others.rows, known.shape.first)
    likeness = known.likeness(others.rows, neighbours)
    used, tests = encoder.bundle, embedded.lfw(encoder, args.data).of_people(FEW, MANY)
    ways = {name: lambda rows, name=name: cluster.cluster(rows, used, name) for name in cluster.METHODS}
    found: dict[str, Any] = {"bcubed": {}, "purity": {}, "chosen by": {}}
    for least in training.LIKENESS.tolist():
        found["chosen by"][f"{least:.2f}"] = agreement(cluster.agglomerate(neighbours, likeness, least), others.identities).bcubed
    told = ", ".join(f"{least}: {score:.3f}" for least, score in found["chosen by"].items())
    print(f"linker, B-cubed F by threshold on the people of CelebA that it was chosen by: {told}\n")
    print("| people | pictures | " + " | ".join(ways) + " |\n" + "|---" * (2 + len(ways)) + "|")
    for people, pictures, scores in training.by_size(ways, tests, SIZES, DRAWS):
        found["bcubed"][people] = {"pictures": pictures} | scores
        print(f"| {people} | {pictures:.0f} | " + " | ".join(f"{score:.3f}" for score in scores.values()) + " |", flush=True)
    for name, way in ways.items():
        clusters = way(tests.rows)
        found["purity"][name] = purity(clusters, training.purities(clusters.labels, tests.identities))
        print(f"purity, {name}: {found['purity'][name]}")
    save(args.out / "collections.json", found)
    return 0


def purity(clusters: cluster.Clusters, true: np.ndarray) -> dict[str, float]:
    """The purity that is told beside the true one, of clusters of more than one picture and by pictures."""
    sizes = np.bincount(clusters.labels)
    several = sizes > 1
    told, true, sizes = clusters.purity[several], true[several], sizes[several]
    found = {"told": np.average(told, weights=sizes), "true": np.average(true, weights=sizes)}
    for name, part in (("true below 90 %", told < 0.9), ("true above 95 %", told > 0.95)):
        if part.any():
            found[name] = np.average(true[part], weights=sizes[part])
    return {name: round(float(value), 3) for name, value in (found | {"correlation": np.corrcoef(told, true)[0, 1]}).items()}


def speed(args: argparse.Namespace, encoder: evaluate.Encoder) -> int:
    """The device's code in a process of its own, on one core."""
    tests = embedded.lfw(encoder, args.data)
    rng = np.random.default_rng(0)
    found = {}
    for count, limit in LIMITS.items():
        rows = tests.rows[rng.permutation(len(tests))[: min(count, len(tests))]]
        rows = np.resize(rows, (count, rows.shape[1]))  # more than there are: copies with noise
        rows = rows + (0.03 * rng.standard_normal(rows.shape) / np.sqrt(rows.shape[1]) if count > len(tests) else 0)
        path = args.out / f"speed-{count}.npy"
        np.save(path, (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32))
        taken = [_clustered(path, args.encoder) for _ in range(AGAIN[count])]
        path.unlink()
        fastest = min(taken, key=lambda one: one["seconds"])
        found[count] = fastest | {"limit": limit, "machine": machine()}
        told = f"{fastest['seconds']:.2f} s ({fastest['cpu']:.2f} s of the core), {fastest['megabytes']:.0f} MB, {fastest['method']}"
        print(f"{count} embeddings: {told} (at most {limit:g} s)", flush=True)
    save(args.out / "speed.json", found)
    return 0 if all(one["seconds"] <= one["limit"] for one in found.values()) else HOLDS_NOT


ONCE = """
import json, os, re, sys, time
if hasattr(os, "sched_setaffinity"): os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import numpy as np
from pathlib import Path
from device import bundle, cluster, linker
rows, used = np.load(sys.argv[1]), bundle.find(sys.argv[2] or None)
method = "linker" if linker.load(used) else None
start, busy = time.perf_counter(), time.process_time()
found = cluster.cluster(rows, used, method)
seconds, busy = time.perf_counter() - start, time.process_time() - busy
assert "tensorflow" not in sys.modules
told = re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())  # getrusage tells that of the process before exec, too
memory = int(told[1]) / 1024
print(json.dumps({"seconds": seconds, "cpu": busy, "megabytes": memory, "clusters": len(found), "method": method or "average"}))
"""


def _clustered(path: Path, encoder: Path | None) -> dict[str, Any]:
    command = [sys.executable, "-c", ONCE, str(path), str(encoder or "")]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | ONE_CORE).stdout)


def save(path: Path, content: dict) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", "utf-8")


def _main(args: argparse.Namespace) -> int:
    if not (args.data / "lfw").is_dir():
        raise InputError(f"{args.data} is not the shared data", "name its folder with --data")
    encoder = evaluate.open_encoder(args.encoder or bundle.find(None).path)
    args.out.mkdir(parents=True, exist_ok=True)
    return (speed if args.speed else collections if args.collections else measure)(args, encoder)


def main(argv: list[str] | None = None) -> int:
    parser = Parser(__doc__)
    parser.add_argument("--encoder", type=Path, help="what evaluate.py takes; a bundle for --speed (default: the newest shipped one)")
    parser.add_argument("--data", type=Path, default=shared_data(), help="the shared data (default $OMOKAGE_DATA)")
    parser.add_argument("--out", type=Path, default=Path("build/clustering"))
    parser.add_argument("--conv", nargs="+", help="the convolutions to measure (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of the training (default: %(default)s)")
    parser.add_argument("--collections", action="store_true", help="what ships, on few and many people")
    parser.add_argument("--speed", action="store_true", help="how long the device takes, instead of how right it is")
    return run(_main, parser, argv)


if __name__ == "__main__":
    sys.exit(main())
