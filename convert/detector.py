"""Make the full-int8 face detector of a training of train/detector, and the bundle that ships it.

  python convert/detector.py --run runs/detector --out build/omokage-detector

The ranges of all activations are set from what scenes like those of the training reach; --epochs goes on training under fake
quantisation. The bundle holds the network for 320x240, 160x128 and 480x368 pixels. The score from which a detection
counts is chosen on the photos that the training kept back, and so are the figures of the card. Exit status 1: the bundle is
made, but int8 finds fewer of their faces than float.
"""

import argparse
import json
import sys
import tempfile
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tensorflow as tf
import tf_keras as keras

from convert import calibration, card, quantize
from device import bundle, faces
from device.detect import OmokageDetector
from device.program import HOLDS_NOT, InputError, Parser, run
from train import encoders, runs, watch
from train.detector import distil, losses, network, scenes
from train.detector.agreement import Agreement, agreement
from train.detector.distil import KEPT, Composer, Material

# File, height and width; multiples of the strides, so 128 for 120 and 368 for 360.
SIZES = {bundle.DETECTOR: (240, bundle.DETECTOR_WIDTH), "detector_160x128.tflite": (128, 160), "detector_480x368.tflite": (368, 480)}
CALIBRATION = 256  # scenes
UNLIKELY = -8.0  # logit below which the heat is as good as nothing, and need not be told apart
LIKELY = 0.05  # heat from which the geometry of a cell matters: elsewhere nobody taught it anything
SCORES = np.arange(0.30, 0.86, 0.05)
LEAST_RECALL = 0.01  # that int8 may find less than float, as a share of the faces


@dataclass(frozen=True)
class Settings:
    run: Path
    epochs: int = 0
    rate: float = 1e-4

    def __post_init__(self) -> None:
        if self.epochs < 0 or not self.rate > 0:
            raise InputError(f"--epochs is {self.epochs}, --rate is {self.rate}", "give 0 or more epochs, and a rate above 0")


def listed(model: keras.Model) -> keras.Model:
    """The network with its outputs as a list, in the order of `names`: tensorflow-model-optimization takes no others."""
    return keras.Model(model.input, [model.get_layer(name).output for name in names()], name=model.name)


def names() -> list[str]:
    return [f"{name}{stride}" for stride in faces.STRIDES for name in ("heat", "geometry")]


def ranges(model: keras.Model, pictures: np.ndarray) -> dict[str, tuple[float, float]]:
    """What 8 bits have to cover of every layer, by its name, for scenes uint8 [N, H, W, 3].

    Of the maps only what decoding looks at: heat that is not far from a face's, and geometry where there is some.
    """
    found = {name: calibration.bounds(values, "min-max") for name, values in quantize.reached(model, pictures).items()}
    for stride in faces.STRIDES:
        told = [network.maps(model, pictures[start : start + 8])[stride] for start in range(0, len(pictures), 8)]
        heat, geometry = (np.concatenate(parts) for parts in zip(*told, strict=True))
        live = geometry[heat > np.log(LIKELY / (1 - LIKELY))]
        found[f"heat{stride}"] = (UNLIKELY, max(float(heat.max()), 1.0))
        if len(live):
            found[f"geometry{stride}"] = (min(float(live.min()), 0.0), max(float(live.max()), 0.0))
    return found


def fake_quantised(model: keras.Model, found: dict[str, tuple[float, float]]) -> keras.Model:
    """`model` with 8 bits simulated, calibrated to the ranges `found`; its outputs are a list."""
    student = quantize.fake_quantised(listed(model))
    quantize.calibrate(student, found)
    return student


def learn(student: keras.Model, given: distil.Settings, material: Material, settings: Settings) -> list[dict[str, float]]:
    """Train the calibrated `student` on scenes as the float network was; the loss of every epoch."""

    def loss(net: keras.Model, batch: tuple[tf.Tensor, tf.Tensor, tf.Tensor]) -> tf.Tensor:
        pictures, rows, kinds = batch
        maps = dict(zip(names(), net(encoders.scale(pictures), training=True), strict=True))
        return losses.total(maps, rows, kinds)[0]

    model, told = quantize.Learner(student, loss), []
    steps = settings.epochs * (given.scenes // given.batch)
    model.compile(optimizer=keras.optimizers.Adam(runs.Cosine(settings.rate, steps)))
    composer = Composer(material.sources, given)
    for epoch in range(settings.epochs):
        progress = watch.Progress(epoch, settings.epochs, given.batch)
        fitted = model.fit(composer.batches(epoch), initial_epoch=epoch, epochs=epoch + 1, verbose=0, callbacks=[progress])
        told.append({"epoch": epoch + 1, "loss": float(fitted.history["loss"][-1])})
        print("epoch {epoch}, loss {loss:.4f}".format(**told[-1]), file=sys.stderr)
    return told


@dataclass(frozen=True)
class Judged:
    """What a detector finds on photos kept back, at each of SCORES: `faces` agreement, `false` detections on photos without people."""

    faces: dict[float, Agreement]
    false: dict[float, int]

    def best(self) -> float:
        """The least score at which photos without people show no face, a step added: those at hand are few."""
        quiet = [score for score in self.false if self.false[score] == 0]
        return min(quiet[1] if len(quiet) > 1 else max(self.false), max(self.false))


def judge(detect: Any, material: Material) -> Judged:
    """`detect(picture)` gives the rows [N, 15] down to the least of SCORES in a picture BGR uint8."""
    height, width = SIZES[bundle.DETECTOR]
    judged = [(photo, distil.framed(photo, height, width)) for photo in material.judged]
    shown = [(detect(picture), seen) for _, (picture, seen) in judged]
    nobody = [detect(distil.framed(photo, height, width)[0]) for photo in material.empty]
    scores = [round(float(score), 2) for score in SCORES]
    return Judged(
        {score: agreement((rows[rows[:, -1] >= score], seen) for rows, seen in shown) for score in scores},
        {score: sum(int((rows[:, -1] >= score).sum()) for rows in nobody) for score in scores},
    )


def figures(found: Agreement, false: int, photos: int) -> dict[str, float]:
    told = {"recall": found.recall, "faces": found.wanted, "landmark_error": found.landmarks, "photos": found.photos}
    return told | {"false": found.false, "false_without_people": false, "photos_without_people": photos}


def make_bundle(settings: Settings, out: Path, told: quantize.Told) -> bundle.DetectorBundle:
    """Quantise, measure, and write the bundle `out`."""
    if out.exists():
        raise InputError(f"{out} exists, and a bundle is never changed in place", "choose another name, or remove it first")
    run_ = runs.Run.open(settings.run)
    given = run_.settings(distil.Settings)
    height, width = SIZES[bundle.DETECTOR]
    given = replace(given, height=height, width=width, seed=given.seed + 1)  # other scenes than the training saw
    keras.utils.set_random_seed(given.seed)
    cv2.setNumThreads(1)
    material, net = distil.material(given), network.load(str(run_.path / KEPT))
    pictures = scenes.batch(material.sources, (given.seed, 2**31), CALIBRATION, given.height, given.width)[0]
    whole = network.folded(net, given.height, given.width)
    found = ranges(whole, pictures)
    student = fake_quantised(whole, found)
    epochs = learn(student, given, material, settings) if settings.epochs else []
    with tempfile.TemporaryDirectory() as folder:
        files = {name: Path(folder) / name for name in (*SIZES, KEPT, "report.json", "CARD.md")}
        for name, (height, width) in SIZES.items():
            sized = fake_quantised(network.folded(net, height, width), found)
            sized.set_weights(student.get_weights())
            files[name].write_bytes(quantize.to_tflite(sized))
        net.save(files[KEPT], save_format="keras")
        report = measured(whole, files[bundle.DETECTOR], material) | {"epochs": epochs}
        files["report.json"].write_text(json.dumps(report, indent=1) + "\n")
        made = {
            "time": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "code": told.source,
            "recipe": told.recipe,
            "data": [Path(path).name for path in (*given.photos, *given.empty, *given.crops)],
            "taught": told.taught,
        }
        facts = {"name": out.name, "version": "1", "score": report["score"], "made": made, "licence": told.licence}
        sizes = {name: file.stat().st_size for name, file in files.items() if file.exists()}
        card.write_detector_card(files["CARD.md"], facts, report, sizes)
        return bundle.write_detector(out, files.values(), facts)


def measured(net: keras.Model, model: Path, material: Material) -> dict[str, Any]:
    """The score that int8 is used with, and what float and int8 find at it."""
    least = float(SCORES[0])
    int8 = OmokageDetector(model, least)

    def rows(picture: np.ndarray) -> np.ndarray:
        found = [detection.row for detection in int8.detect(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))]
        return np.array(found, np.float32).reshape(-1, 15)

    judged = {"float": judge(lambda picture: distil.detect(net, [picture], least)[0], material), "int8": judge(rows, material)}
    score = judged["int8"].best()
    told = {kind: figures(each.faces[score], each.false[score], len(material.empty)) for kind, each in judged.items()}
    return {"score": score, "smallest": scenes.SMALLEST, **told}


def parser() -> Parser:
    result = Parser(__doc__)
    result.add_argument("--run", type=Path, required=True, help="run folder of train/detector/distil.py")
    result.add_argument("--out", type=Path, required=True, help="folder of the new bundle")
    result.add_argument("--epochs", type=int, default=Settings.epochs, help="of training under fake quantisation (default %(default)s)")
    result.add_argument("--rate", type=float, default=Settings.rate, help="its learning rate (default %(default)s)")
    result.add_argument("--source", default=quantize.Told.source, help="version of the code, for the manifest")
    result.add_argument("--recipe", default=quantize.Told.recipe, help="how the network was trained, for the manifest and the card")
    result.add_argument("--licence", default=quantize.Told.licence, help="what may be done with the bundle")
    return result


TAUGHT = "no labels were used; the teacher was YuNet (Wu et al. 2023; Apache-2.0), which its authors trained on WIDER FACE"


def _main(args: argparse.Namespace) -> int:
    told = quantize.Told(args.recipe, args.source, TAUGHT, args.licence)
    made = make_bundle(Settings(args.run, args.epochs, args.rate), args.out, told)
    print((made.path / "CARD.md").read_text("utf-8"))
    report = json.loads((made.path / "report.json").read_text("utf-8"))
    lost = report["float"]["recall"] - report["int8"]["recall"]
    if lost <= LEAST_RECALL:
        return 0
    print(f"detector: int8 finds {lost:.1%} fewer faces than float: add --epochs", file=sys.stderr)
    return HOLDS_NOT


def main(argv: list[str] | None = None) -> int:
    return run(_main, parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
