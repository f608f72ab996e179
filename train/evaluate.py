"""Measure an encoder: a bundle, a run folder, a .keras, .tflite or .onnx file, or `dlib` (the teacher).

  python train/evaluate.py verify --encoder models/simsiam-fused --against models/simsiam-fused/encoder.keras
  python train/evaluate.py identify --encoder models/simsiam-fused --against dlib --shots 1 3 5
  python train/evaluate.py identify --photos photos/ --detector mtcnn
  python train/evaluate.py compare models/simsiam-fused runs/second --out build/compare
  python train/evaluate.py groups --encoder models/simsiam-fused

`verify` is LFW's protocol: 6,000 pairs in 10 folds, the threshold of each fold chosen on the other nine. `identify` is
open-set identification with few labels: people with enough pictures, half of them strangers. `compare` puts encoders side
by side, with ROC and DET plots. `groups` is the false match rate by sex, origin and age. docs/evaluation.md defines all of
it. The data are those of $OMOKAGE_DATA unless others are named.
"""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from device import bundle, detect
from device.bundle import Bundle
from device.demo import shared_data
from device.embed import Encoder as Tflite
from device.program import InputError, Parser, replacing, run
from train import data, groups, labels, metrics, plots, probes
from train.identification import CLASSIFIERS, Protocol, cohort, identify, photo_crops

Embed = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Encoder:
    """`embed` maps crops uint8 [N, 112, 112, 3] to unit rows float32 [N, D]; `identity` is what the results name.

    `bundle` is where its thresholds are, if it is one's.
    """

    identity: str
    embed: Embed
    bundle: Bundle | None = None


def open_encoder(path: Path) -> Encoder:
    """The encoder in a bundle or a .tflite (int8), a run folder or a .keras (float), or a teacher (`dlib`, an .onnx).

    A teacher sees each crop and its mirror image, as it does when it teaches. Raises InputError for anything else.
    """
    path = Path(path)
    if str(path) == "dlib" or path.suffix == ".onnx":
        from train import teachers  # ONNX, which only this kind needs

        teacher = teachers.open_teacher(str(path))
        return Encoder(teacher.identity, teacher.targets)
    if (path / "config.toml").is_file():
        path = path / "encoder.keras"
    if path.suffix == ".keras" and path.is_file():
        from train import encoders  # TensorFlow takes seconds to import, and only this kind needs it

        model = encoders.load(str(path))
        return Encoder(bundle.sha256(path)[:16], lambda crops: encoders.embed(model, crops))
    if path.suffix == ".tflite" and path.is_file():
        return Encoder(bundle.sha256(path)[:16], Tflite(path).embed)
    if path.suffix in (".keras", ".tflite"):
        raise InputError(f"{path} does not exist", "name a bundle, a .keras or a .tflite file")
    found = bundle.find(str(path))
    return Encoder(found.encoder, Tflite(found.path / bundle.ENCODER).embed, found)


@dataclass(frozen=True)
class Verified:
    result: metrics.Verification
    pairs: int
    missing: int

    def as_json(self, identity: str, protocol: str) -> dict:
        """The object of contracts/verify.schema.json."""
        r = self.result
        return {
            "protocol": protocol,
            "encoder": identity,
            "pairs": self.pairs,
            "missing": self.missing,
            "accuracy": {"mean": r.accuracy, "std": r.std, "folds": r.folds.tolist()},
            "auc": r.auc,
            "eer": r.eer,
            "tar": {str(far): tar for far, tar in r.tar.items()},
            "threshold": float(r.thresholds.mean()),
        }


def verify(embed: Embed, probe: probes.VerificationProbe) -> Verified:
    """LFW's protocol for one encoder; pairs whose crops are not there are left out and counted as missing."""
    scores, there = probe.scores(embed)
    result = metrics.verification(scores, probe.pairs.same[there], probe.pairs.folds[there])
    return Verified(result, int(there.sum()), int((~there).sum()))


def compare(first: Verified, second: Verified) -> dict:
    """Accuracy of `second` minus that of `first` with its 95 % paired bootstrap interval, as shares."""
    mean, low, high = metrics.paired_bootstrap(second.result.correct, first.result.correct)
    return {"difference": mean, "low": low, "high": high}


def _lfw(args: argparse.Namespace) -> Path:
    folder = args.lfw or shared_data() / "lfw"
    if not folder.is_dir():
        raise InputError(f"{folder} does not exist", "name the folder of crops.zip and pairs.txt with --lfw")
    return folder


def _encoder(args: argparse.Namespace) -> Encoder:
    return open_encoder(args.encoder or bundle.find(None).path)


def _verify(args: argparse.Namespace) -> int:
    folder = _lfw(args)
    encoder = _encoder(args)
    other = open_encoder(args.against) if args.against is not None else None
    probe = probes.VerificationProbe.read(folder / "crops.zip", folder / args.protocol)
    verified = verify(encoder.embed, probe)
    found = verified.as_json(encoder.identity, args.protocol)
    if other is not None:
        reference = verify(other.embed, probe)
        found["against"] = reference.as_json(other.identity, args.protocol) | compare(verified, reference)
        embeddings = [e.embed(probe.crops.images) for e in (encoder, other)]
        mean, first_percentile = metrics.parity(*embeddings)
        found["against"]["parity"] = {"mean": mean, "first_percentile": first_percentile, "crops": len(probe.crops)}
    print(json.dumps(found) if args.json else _text(found))
    return 0


def _text(found: dict) -> str:
    lines = [
        f"{found['protocol']}: {found['pairs']} pairs ({found['missing']} missing), encoder {found['encoder']}",
        f"accuracy  {found['accuracy']['mean']:.2%} +- {found['accuracy']['std']:.2%}, threshold {found['threshold']:.4f}",
        f"AUC       {found['auc']:.4f}",
        f"EER       {found['eer']:.2%}",
        *(f"TAR       {tar:.2%} at FAR {far}" for far, tar in found["tar"].items()),
    ]
    if "against" in found:
        other = found["against"]
        points = " ".join(f"{name} {100 * other[name]:+.2f}" for name in ("difference", "low", "high"))
        parity = "mean {mean:.4f}, 1st percentile {first_percentile:.4f} on {crops} crops".format(**other["parity"])
        lines += [
            f"against   {other['encoder']}: {other['accuracy']['mean']:.2%}; that minus this, in points, 95 % of bootstraps: {points}",
            f"cosine    {parity}",
        ]
    return "\n".join(lines)


def _protocol(args: argparse.Namespace) -> Protocol:
    return Protocol(tuple(args.shots), tuple(args.classifier), args.known, args.strangers, args.pictures, args.least, args.seeds)


def _negatives(args: argparse.Namespace) -> data.Crops | None:
    """The strangers; None where none are at hand and nearest neighbours do without."""
    listed = args.cohort or _cohort_list()
    return cohort(listed) if args.cohort or "svm" in args.classifier or listed.is_file() else None


def _cohort_list() -> Path:
    return shared_data() / "crops" / "cohort.txt"


def _people(args: argparse.Namespace) -> data.Crops:
    """The labelled crops that `identify` is about."""
    if args.photos is not None:
        labels.refuse_empty_folders([args.photos])
        return photo_crops(args.photos, detect.of_arguments(args))
    source = args.people or shared_data() / "lfw" / "crops.zip"
    labels.refuse_empty_folders([source])
    return data.read_crops([source])


def _identify(args: argparse.Namespace) -> int:
    protocol, encoders = _protocol(args), [_encoder(args)]
    if args.against is not None:
        encoders.append(open_encoder(args.against))
    people, negatives = _people(args), _negatives(args)
    runs = (identify(encoder.identity, encoder.embed, people, negatives, protocol) for encoder in encoders)
    for number, results in enumerate(zip(*runs, strict=True)):
        first, *others = results
        found = first.as_json()
        if others:
            found["against"] = others[0].as_json() | {"share": first.share_of(others[0])}
        if args.json:
            print(json.dumps(found), flush=True)
            continue
        if number == 0:
            print(_heading(found))
        print("\n".join(_row(result.as_json()) for result in results), flush=True)
        if others:
            print(_row(found | found["against"]["share"] | {"encoder": "first / second"}), flush=True)
    return 0


def _heading(found: dict) -> str:
    people = f"{found['known']} known people, {found['strangers']} strangers, {found['pictures']} pictures each"
    rates = "".join(f"{'DIR at FAR ' + far:24}" for far in found["dir"])
    return f"{people}; {found['seeds']} seeds pooled, 95 % over seeds\nshots classifier encoder           {'rank-1':24}{rates}".rstrip()


def _row(found: dict) -> str:
    told = "{mean:.1%} ({low:.1%} - {high:.1%})"
    figures = [told.format(**figure) if figure else "-" for figure in (found["rank1"], *found["dir"].values())]
    return f"{found['shots']:<5} {found['classifier']:10} {found['encoder']:17} {''.join(f'{figure:24}' for figure in figures)}".rstrip()


def _compare(args: argparse.Namespace) -> int:
    folder, protocol = _lfw(args), _protocol(args)
    encoders = {str(path): open_encoder(path) for path in args.runs}
    probe = probes.VerificationProbe.read(folder / "crops.zip", folder / args.protocol)
    people, negatives = _people(args), _negatives(args)
    asked = {name: identify(used.identity, used.embed, people, negatives, protocol) for name, used in encoders.items()}
    reports: list[dict] = []
    verified: list[Verified] = []
    for name, used in encoders.items():
        verified.append(verify(used.embed, probe))
        report = {"name": name, **verified[-1].as_json(used.identity, args.protocol)}
        if reports:
            report["minus_first"] = compare(verified[0], verified[-1])
        reports.append(report | {"identify": [result.as_json() for result in asked[name]]})
        print(f"{name} is measured", file=sys.stderr)
    pictures = [args.out / name for name in ("roc.png", "det.png")]
    found = {"protocol": args.protocol, "runs": reports, "plots": [str(path) for path in pictures]}
    print(json.dumps(found) if args.json else _table(found), flush=True)
    curves = {name: one.result.curve for name, one in zip(encoders, verified, strict=True)}
    plots.roc(curves, int((~probe.pairs.same).sum()), pictures[0])
    plots.det(curves, pictures[1])
    with replacing(args.out / "compare.json") as temporary:
        temporary.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    return 0


def _table(found: dict) -> str:
    """Side by side, as Markdown."""
    lines = ["| | " + " | ".join(report["name"] for report in found["runs"]) + " |", "|---" * (len(found["runs"]) + 1) + "|"]

    def line(what: str, figures: list[str]) -> None:
        lines.append(f"| {what} | {' | '.join(figures)} |")

    line(f"accuracy, {found['protocol']}", [f"{r['accuracy']['mean']:.2%} +- {r['accuracy']['std']:.2%}" for r in found["runs"]])
    points = "{:+.2f} ({:+.2f} to {:+.2f})"
    less = [[100 * value for value in report.get("minus_first", {}).values()] for report in found["runs"]]
    line("less the first (95 %), points", [points.format(*values) if values else "" for values in less])
    line("AUC", [f"{report['auc']:.4f}" for report in found["runs"]])
    line("EER", [f"{report['eer']:.2%}" for report in found["runs"]])
    for far in found["runs"][0]["tar"]:
        line(f"TAR at FAR {far}", [f"{report['tar'][far]:.2%}" for report in found["runs"]])
    for rows in zip(*(report["identify"] for report in found["runs"]), strict=True):
        what = f"{rows[0]['classifier']}, {rows[0]['shots']} shot{'s' if rows[0]['shots'] > 1 else ''}"
        line(f"{what}: rank-1", [f"{row['rank1']['mean']:.2%}" for row in rows])
        for far in rows[0]["dir"]:
            line(f"{what}: DIR at FAR {far}", [f"{row['dir'][far]['mean']:.2%}" for row in rows])
    return "\n".join([*lines, "", f"Plots: {', '.join(found['plots'])}"])


def _groups(args: argparse.Namespace) -> int:
    encoder = _encoder(args)
    crops = data.read_crops(args.crops) if args.crops else cohort(_cohort_list())
    named = groups.of_table(args.groups, crops.names) if args.groups else groups.of_utkface(crops.names)
    if not named:
        raise InputError("no crop is named as UTKFace's are, age_sex_race_...", "say with --groups who belongs to which group")
    rows = np.unique(np.concatenate(list(named.values())))
    rows = rows[groups.distinct(crops.images[rows])]
    if min(len(rows), args.limit) < 2:
        raise InputError("a pair takes two different pictures", "name more crops with --crops, or raise --limit")
    if len(rows) > args.limit:
        rows = np.sort(np.random.default_rng(0).permutation(rows)[: args.limit])
    embeddings = encoder.embed(crops.images[rows])
    threshold, whence = _threshold(args, encoder, embeddings)
    rates = groups.rates(embeddings, {group: np.flatnonzero(np.isin(rows, members)) for group, members in named.items()}, threshold)
    found = {
        "encoder": encoder.identity,
        "threshold": threshold,
        "threshold_from": whence,
        "groups": [rate.as_json() for rate in rates],
        "not_measured": groups.NOT_MEASURED,
    }
    print(json.dumps(found) if args.json else _groups_text(found))
    return 0


def _threshold(args: argparse.Namespace, encoder: Encoder, embeddings: np.ndarray) -> tuple[float, str]:
    if args.threshold is not None:
        return args.threshold, "--threshold"
    if encoder.bundle is not None:
        return encoder.bundle.threshold(args.far), f"the bundle, at a false-accept rate of {args.far}"
    return groups.threshold_at(embeddings, args.far), f"these crops: a share {args.far} of all pairs reaches it"


def _groups_text(found: dict) -> str:
    lines = [
        f"encoder {found['encoder']}, threshold {found['threshold']:.4f} ({found['threshold_from']})",
        f"{'group':16}{'pictures':>9}{'pairs':>11}  {'false match rate, 95 %':28}times all",
    ]
    for g in found["groups"]:
        rate = "{mean:.3%} ({low:.3%} - {high:.3%})".format(**g["fmr"])
        times = "" if g["times_all"] is None else f"{g['times_all']:.1f}"
        lines.append(f"{g['group']:16}{g['pictures']:>9}{g['pairs']:>11}  {rate:28}{times}")
    return "\n".join([*lines, f"Not measured: {found['not_measured']}."])


def _share(text: str) -> float:
    """An argument between 0 and 1, neither included."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def _encoder_arguments(verb: argparse.ArgumentParser) -> None:
    what = "bundle, run folder, .keras, .tflite or .onnx file, or dlib"
    verb.add_argument("--encoder", type=Path, help=f"{what} (default: the newest shipped bundle)")


def _pair_arguments(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--lfw", type=Path, help="folder of crops.zip and the protocol files")
    verb.add_argument("--protocol", default="pairs.txt", help="protocol file in that folder (default %(default)s)")


def _identify_arguments(verb: argparse.ArgumentParser, shots: tuple[int, ...], classifiers: tuple[str, ...]) -> None:
    people = verb.add_mutually_exclusive_group()
    people.add_argument("--people", type=Path, metavar="SOURCE", help="folder or zip of crops PERSON/PICTURE (default: LFW's)")
    people.add_argument("--photos", type=Path, metavar="SOURCE", help="the same, but raw photos: faces are found and aligned first")
    verb.add_argument(
        "--shots", type=int, nargs="+", default=list(shots), help="pictures enrolled of each known person (default %(default)s)"
    )
    verb.add_argument("--classifier", nargs="+", choices=CLASSIFIERS, default=classifiers, help="(default %(default)s)")
    verb.add_argument("--known", type=int, help="people enrolled (default: half of those with enough pictures)")
    verb.add_argument("--strangers", type=int, help="people who are not (default: the rest)")
    verb.add_argument("--pictures", type=int, default=Protocol.pictures, help="of each person at most, drawn by seed (default %(default)s)")
    verb.add_argument("--least", type=int, help="people with fewer pictures stay out (default: as many as --pictures)")
    verb.add_argument("--seeds", type=int, default=Protocol.seeds, help="splits (default %(default)s)")
    strangers = "strangers by whom scores are normalised and an SVM learns: list of crops, which lie beside it"
    verb.add_argument("--cohort", type=Path, metavar="FILE", help=strangers)
    detect.add_arguments(verb)


def parser() -> Parser:
    result = Parser(__doc__)
    verbs = result.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("verify", help="same or different? LFW's pairs")
    _encoder_arguments(verb)
    verb.add_argument("--against", type=Path, help="a second encoder on the same pairs, with a paired bootstrap interval")
    _pair_arguments(verb)
    verb.set_defaults(main=_verify)
    verb = verbs.add_parser("identify", help="who is it, if anybody we know? few pictures of each person")
    _encoder_arguments(verb)
    verb.add_argument("--against", type=Path, help="a second encoder on the same splits, and the first as a share of it")
    _identify_arguments(verb, Protocol.shots, Protocol.classifiers)
    verb.set_defaults(main=_identify)
    verb = verbs.add_parser("compare", help="encoders side by side, with ROC and DET plots")
    verb.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folders, or whatever --encoder takes elsewhere")
    verb.add_argument(
        "--out", type=Path, default=Path("build/compare"), help="folder of roc.png, det.png, compare.json (default %(default)s)"
    )
    _pair_arguments(verb)
    _identify_arguments(verb, (1,), ("knn",))
    verb.set_defaults(main=_compare)
    verb = verbs.add_parser("groups", help="false match rate by sex, origin and age")
    _encoder_arguments(verb)
    verb.add_argument("--crops", type=Path, nargs="+", help="crops of strangers, one picture a person (default: UTKFace's in the cohort)")
    verb.add_argument("--groups", type=Path, metavar="FILE", help="CSV picture,group (default: what UTKFace's file names say)")
    verb.add_argument("--far", type=_share, default=bundle.FAR, help="false-accept rate of the threshold (default %(default)s)")
    verb.add_argument("--threshold", type=float, help="cosine (default: the bundle's own, else the one with that rate over all pairs)")
    verb.add_argument("--limit", type=int, default=5000, help="take part at most so many crops (default %(default)s)")
    verb.set_defaults(main=_groups)
    for verb in verbs.choices.values():
        verb.add_argument("--json", action="store_true", help="one JSON object, of identify one a line")
    return result


def main(argv: list[str] | None = None) -> int:
    return run(lambda args: args.main(args), parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
