"""The card of a bundle: what it was trained on, what it measured, what it is not for. Every figure comes from the report."""

from pathlib import Path
from typing import Any

TEMPLATE = """# {name}

A face encoder: a 112x112 crop (RGB, aligned as preprocessing version {preprocessing} says) to an embedding of {dimension} numbers.
Full int8, uint8 in and out, for the Edge TPU and the CPU.

| | |
|---|---|
| encoder id | `{encoder}` |
| files | {files} |
| made | {time}, code {code} |
| recipe | {recipe} |
| data | {data}; {taught} |
| licence | {licence} |

## Measured

{lfw}
| int8 against float on held-out crops | mean cosine | 1st percentile |
|---|---|---|
| as they are | {parity[mean]:.4f} | {parity[first_percentile]:.4f} |
| after the mean over the crops is removed | {parity_centred[mean]:.4f} | {parity_centred[first_percentile]:.4f} |

({parity[crops]} crops of the cohort, on which quantisation was not trained.)

## Thresholds

| share of stranger pairs above it | cosine |
|---|---|
{thresholds}

Measured on {measured_on}, int8. A rate is one of pairs: against a gallery of many templates a stranger has as many chances.

## Limits

- No check that a face is alive: a photo of a person passes for the person. Not for access to doors or accounts.
- What may be done with the training pictures bounds what may be done with this bundle (licence: {licence}).
- Nobody has checked whether people of the training pictures also occur in LFW; if some do, its figures flatter this bundle.
- How well it works for whom (age, sex, skin) has not been measured for this bundle.
"""

LFW = """| LFW, 6,000 pairs, 10 folds | accuracy | AUC | EER | TAR at FAR 1e-2 | TAR at FAR 1e-3 |
|---|---|---|---|---|---|
{rows}

{losses}
"""

KINDS = {"float": "float", "ptq": "int8 before training", "int8": "int8"}


def _row(kind: str, verified: dict[str, Any]) -> str:
    accuracy = "{mean:.2%} +- {std:.2%}".format(**verified["accuracy"])
    tars = [f"{verified['tar'][far]:.2%}" for far in ("0.01", "0.001")]
    return "| " + " | ".join([kind, accuracy, f"{verified['auc']:.4f}", f"{verified['eer']:.2%}", *tars]) + " |"


def _loss(kind: str, lfw: dict[str, Any]) -> str:
    points = {name: 100 * value for name, value in lfw[f"float_minus_{kind}"].items()}
    told = "{difference:+.2f} points (95 % of paired bootstraps: {low:+.2f} to {high:+.2f}).".format(**points)
    return f"Float minus {KINDS[kind]}: {told}"


def write_card(path: Path, facts: dict[str, Any], report: dict[str, Any], encoder: str, sizes: dict[str, int]) -> None:
    """Write CARD.md from the manifest's `facts`, the quantisation `report`, the encoder id and the files' sizes in bytes."""
    lfw = "LFW was not measured.\n"
    if "lfw" in report:
        found = report["lfw"]
        rows = "\n".join(_row(told, found[kind]) for kind, told in KINDS.items() if kind in found)
        lfw = LFW.format(rows=rows, losses="\n\n".join(_loss(kind, found) for kind in KINDS if f"float_minus_{kind}" in found))
    text = TEMPLATE.format(
        name=facts["name"],
        preprocessing=facts["preprocessing"]["version"],
        dimension=facts["dimension"],
        encoder=encoder,
        files=_files(sizes),
        **{key: facts["made"][key] for key in ("time", "code", "recipe", "taught")},
        data=", ".join(facts["made"]["data"]),
        licence=facts["licence"],
        lfw=lfw,
        parity=report["parity"],
        parity_centred=report["parity_centred"],
        thresholds="\n".join(f"| {entry['far']:g} | {entry['threshold']:.4f} |" for entry in facts["thresholds"]),
        measured_on=facts["thresholds"][0]["measured_on"],
    )
    path.write_text(text, "utf-8")


DETECTOR = """# {name}

A face detector: a picture (RGB) to boxes, scores and five landmarks, decoded by device/faces.py. Full int8, uint8 in and out, for
the Edge TPU and the CPU. The same weights for pictures of every size named: detector.tflite is for 320x240.

| | |
|---|---|
| files | {files} |
| made | {time}, code {code} |
| recipe | {recipe} |
| data | {data}; {taught} |
| licence | {licence} |
| score from which a detection counts | {score} |

## Measured

On {photos} photos that were kept back from training, against YuNet's faces of {smallest:g} pixels and more at 320x240 ({faces} faces),
and on {empty} photos without people that were kept back. The score was chosen on them too.

| | found (IoU 0.5) | mean landmark error in distances between the eyes | false: the teacher sees nothing there | false: nobody is there |
|---|---|---|---|---|
{rows}

## Limits

- Taught by another detector: where YuNet is blind, it is. Nobody drew a box by hand, and it has not been measured on WIDER FACE.
- Faces below {smallest:g} pixels of its input are not looked for; --min-face looks at a large frame piece by piece.
- How well it works for whom (age, sex, skin) has not been measured for this bundle.
- What may be done with the training pictures bounds what may be done with this bundle (licence: {licence}).
"""


def write_detector_card(path: Path, facts: dict[str, Any], report: dict[str, Any], sizes: dict[str, int]) -> None:
    """Write CARD.md of a detector from the manifest's `facts`, its `report` and the files' sizes in bytes."""
    form = "| {} | {recall:.2%} | {landmark_error:.2%} | {false} | {false_without_people} |"
    found = report["int8"]
    text = DETECTOR.format(
        name=facts["name"],
        files=_files(sizes),
        **{key: facts["made"][key] for key in ("time", "code", "recipe", "taught")},
        data=", ".join(facts["made"]["data"]),
        licence=facts["licence"],
        score=report["score"],
        smallest=report["smallest"],
        photos=found["photos"],
        faces=found["faces"],
        empty=found["photos_without_people"],
        rows="\n".join(form.format(kind, **report[kind]) for kind in ("float", "int8")),
    )
    path.write_text(text, "utf-8")


def _files(sizes: dict[str, int]) -> str:
    return ", ".join(f"{name} {size / 1e6:.2f} MB" for name, size in sorted(sizes.items()))
