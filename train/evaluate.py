"""Measure an encoder: a bundle, a .keras or a .tflite file.

  python train/evaluate.py verify --encoder models/simsiam-fused --lfw DIR
  python train/evaluate.py verify --encoder models/simsiam-fused --against models/simsiam-fused/encoder.keras

`verify` is LFW's protocol: 6,000 pairs in 10 folds, the threshold of each fold chosen on the other nine. DIR holds
crops.zip (Person/Person_0001, aligned) and pairs.txt; default $OMOKAGE_DATA/lfw.
"""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from device import bundle
from device.demo import shared_data
from device.embed import Encoder as Tflite
from device.program import InputError, Parser, run
from train import metrics, probes

Embed = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Encoder:
    """`embed` maps crops uint8 [N, 112, 112, 3] to unit rows float32 [N, D]; `identity` is what the results name."""

    identity: str
    embed: Embed


def open_encoder(path: Path) -> Encoder:
    """The encoder in a bundle (int8), a .tflite (int8) or a .keras (float) file. Raises InputError for anything else."""
    path = Path(path)
    if path.suffix == ".keras" and path.is_file():
        from train import encoders  # TensorFlow takes seconds to import, and only this kind needs it

        model = encoders.load(str(path))
        return Encoder(bundle.sha256(path)[:16], lambda crops: encoders.embed(model, crops))
    if path.suffix == ".tflite" and path.is_file():
        return Encoder(bundle.sha256(path)[:16], Tflite(path).embed)
    if path.suffix in (".keras", ".tflite"):
        raise InputError(f"{path} does not exist", "name a bundle, a .keras or a .tflite file")
    found = bundle.find(str(path))
    return Encoder(found.encoder, Tflite(found.path / bundle.ENCODER).embed)


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


def _verify(args: argparse.Namespace) -> int:
    folder = args.lfw or shared_data() / "lfw"
    if not folder.is_dir():
        raise InputError(f"{folder} does not exist", "name the folder of crops.zip and pairs.txt with --lfw")
    encoder = open_encoder(args.encoder or bundle.find(None).path)
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


def parser() -> Parser:
    result = Parser(__doc__)
    verbs = result.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("verify", help="same or different? LFW's pairs")
    verb.add_argument("--encoder", type=Path, help="bundle, .keras or .tflite (default: the newest shipped bundle)")
    verb.add_argument("--against", type=Path, help="a second encoder on the same pairs, with a paired bootstrap interval")
    verb.add_argument("--lfw", type=Path, help="folder of crops.zip and the protocol files")
    verb.add_argument("--protocol", default="pairs.txt", help="protocol file in that folder (default %(default)s)")
    verb.add_argument("--json", action="store_true", help="one JSON object")
    verb.set_defaults(main=_verify)
    return result


def main(argv: list[str] | None = None) -> int:
    return run(lambda args: args.main(args), parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
