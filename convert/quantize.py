"""Make a full-int8 encoder of a float one, and the bundle that ships it.

  python convert/quantize.py --encoder runs/first/encoder.keras --crops crops.zip --cohort cohort.txt --out models/mine

The int8 student learns, under fake quantisation (tensorflow-model-optimization), to give the float encoder's embeddings
on unlabelled crops. Crops named in --cohort train nothing here (and nothing before: pretrain.py --without): parity is
measured and the thresholds are taken on them. Exit status 1: the bundle is made, but int8 is too unlike float.
"""

import argparse
import json
import sys
import tempfile
from dataclasses import dataclass, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

from convert.card import write_card
from device import align, bundle
from device.embed import Encoder
from device.program import HOLDS_NOT, InputError, OmokageError, Parser, run
from train import data, encoders, evaluate, metrics, probes, runs

PARITY_CROPS = 1000
LEAST_MEAN, LEAST_FIRST_PERCENTILE = 0.98, 0.95  # of the cosines of float and int8, for a bundle that holds
CALIBRATION_CROPS = 512
FEWEST_STRANGERS = 46  # they make 1,035 pairs, of which one lies above the threshold at 0.001
FARS = (0.01, 0.001, 0.0001)


@dataclass(frozen=True)
class Settings:
    encoder: Path
    crops: tuple[Path, ...]
    cohort: Path
    lfw: Path | None = None
    limit: int = 20_000
    epochs: int = 2
    batch: int = 64
    rate: float = 1e-4
    seed: int = 0


def fake_quantised(model: keras.Model, crops: np.ndarray) -> keras.Model:
    """`model` (no BatchNorm left) with 8-bit weights and activations simulated in float (Jacob et al. 2018, arXiv:1712.05877).

    The activation ranges start from what `crops` uint8 [N, H, W, 3] really reach: tfmot's own start of +-6 takes
    thousands of steps to narrow.
    """
    import tensorflow_model_optimization as tfmot

    student = tfmot.quantization.keras.quantize_model(model)
    images = encoders.scale(crops)
    outputs = {layer.name: layer.output for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)}
    reached = keras.Model(model.input, outputs).predict(images, batch_size=64, verbose=0)
    for layer in student.layers:
        name = layer.name.removeprefix("quant_")
        for variable in layer.weights:
            last = variable.name.split("/")[-1]
            if "kernel" in last or (name not in reached and "quantize_layer" not in layer.name):
                continue
            values = reached.get(name, images)
            if last.endswith("_min:0"):
                variable.assign(min(float(values.min()), 0.0))
            elif last.endswith("_max:0"):
                variable.assign(max(float(values.max()), 0.0))
    student(images[:1], training=True)  # the weights' ranges are only ever taken in training
    return student


def distil(student: keras.Model, images: np.ndarray, targets: np.ndarray, settings: Settings) -> list[float]:
    """Teach `student` the `targets` float32 [N, 2, D] of crops uint8 [N, H, W, 3] and of their mirror images.

    The loss is the negative cosine; its mean per epoch is returned.
    """

    crops, wanted = tf.convert_to_tensor(images), tf.convert_to_tensor(targets, tf.float32)

    def pictures(index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        # Seeded by the batch's first crop, whichever that is in this epoch.
        mirrored = tf.random.stateless_uniform((settings.batch,), tf.stack([settings.seed, tf.cast(index[0], tf.int32)]), 0, 2, tf.int32)
        chosen = tf.gather(crops, index)
        chosen = tf.where(mirrored[:, None, None, None] == 1, chosen[:, :, ::-1], chosen)
        return encoders.scale(chosen), tf.gather(tf.gather(wanted, index), mirrored, batch_dims=1)

    def batches(epoch: int) -> tf.data.Dataset:
        order = tf.data.Dataset.range(len(images)).shuffle(len(images), seed=settings.seed + 2**20 * epoch)
        return order.batch(settings.batch, drop_remainder=True).map(pictures).prefetch(2)

    rate = keras.optimizers.schedules.CosineDecay(settings.rate, settings.epochs * (len(images) // settings.batch))
    student.compile(optimizer=keras.optimizers.Adam(rate), loss=keras.losses.CosineSimilarity())
    losses = []
    for epoch in range(settings.epochs):
        progress = runs.Progress(epoch, settings.epochs, settings.batch)
        history = student.fit(batches(epoch), initial_epoch=epoch, epochs=epoch + 1, verbose=0, callbacks=[progress]).history
        losses.append(float(history["loss"][-1]))
        print(f"epoch {epoch + 1}/{settings.epochs}, cosine to the float encoder {-losses[-1]:.4f}", file=sys.stderr)
        if not np.isfinite(losses[-1]):
            raise OmokageError(f"the loss is {losses[-1]} in epoch {epoch + 1}", "lower --rate")
    return losses


def to_tflite(student: keras.Model) -> bytes:
    """The full-int8 TFLite model, uint8 in and out, batch 1, static."""

    @tf.function(input_signature=[tf.TensorSpec((1, *student.input_shape[1:]), tf.float32, name="crop")])
    def embed(crop: tf.Tensor) -> tf.Tensor:
        return student(crop, training=False)

    converter = tf.lite.TFLiteConverter.from_concrete_functions([embed.get_concrete_function()], student)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.inference_input_type = tf.uint8
    converter.inference_output_type = tf.uint8
    return converter.convert()


def quantise(settings: Settings) -> tuple[keras.Model, bytes, list[float]]:
    """The float encoder, the int8 model and the losses on the way."""
    keras.utils.set_random_seed(settings.seed)
    teacher = encoders.folded(encoders.load(str(settings.encoder)))
    if teacher.input_shape[1] != align.SIZE:
        found = f"{teacher.input_shape[1]}x{teacher.input_shape[2]}"
        raise InputError(f"{settings.encoder} takes {found}, not {align.SIZE}x{align.SIZE}", f"train it with --size {align.SIZE}")
    crops = data.read_crops(settings.crops, without=data.read_list(settings.cohort))
    chosen = np.sort(np.random.default_rng(settings.seed).permutation(len(crops))[: settings.limit])
    images = crops.images[chosen]
    if len(images) < settings.batch:
        raise InputError(f"{len(images)} crops do not fill a batch of {settings.batch}", "lower --batch or add photos")
    targets = np.stack([encoders.embed(teacher, images), encoders.embed(teacher, images[:, :, ::-1])], axis=1)
    student = fake_quantised(teacher, images[:CALIBRATION_CROPS])
    losses = distil(student, images, targets, settings)
    return teacher, to_tflite(student), losses


def thresholds(embeddings: np.ndarray, fars: tuple[float, ...] = FARS) -> list[dict]:
    """For each rate the cosine that this share of all pairs of strangers, unit rows [N, D], reaches."""
    cosines = (embeddings @ embeddings.T)[np.triu_indices(len(embeddings), 1)]
    where = f"{len(cosines)} pairs of {len(embeddings)} crops of strangers (cohort)"
    carried = [far for far in fars if far * len(cosines) >= 1]  # a rate below one pair is nobody's to promise
    return [{"threshold": float(np.quantile(cosines, 1 - far)), "far": far, "measured_on": where} for far in carried]


def report(teacher: keras.Model, tflite: Encoder, cohort: np.ndarray, lfw: Path | None) -> dict[str, Any]:
    """What quantisation cost: cosine of float and int8 on held-out crops, and LFW for both where it is there."""
    chosen = cohort[:: max(len(cohort) // PARITY_CROPS, 1)][:PARITY_CROPS]
    float_, int8 = encoders.embed(teacher, chosen), tflite.embed(chosen)
    mean, first_percentile = metrics.parity(float_, int8)
    common = float_.mean(axis=0)
    centred = [rows - common for rows in (float_, int8)]
    centred_mean, centred_first = metrics.parity(*(rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in centred))
    found: dict[str, Any] = {
        "parity": {"mean": mean, "first_percentile": first_percentile, "crops": len(chosen)},
        "parity_centred": {"mean": centred_mean, "first_percentile": centred_first, "crops": len(chosen)},
    }
    if lfw is not None:
        probe = probes.VerificationProbe.read(lfw / "crops.zip", lfw / "pairs.txt")
        first = evaluate.verify(lambda crops: encoders.embed(teacher, crops), probe)
        second = evaluate.verify(tflite.embed, probe)
        found["lfw"] = {
            "float": first.as_json("float", "pairs.txt"),
            "int8": second.as_json("int8", "pairs.txt"),
            "float_minus_int8": evaluate.compare(second, first),
        }
    return found


def make_bundle(settings: Settings, out: Path, recipe: str, source: str, licence: str) -> bundle.Bundle:
    """Quantise, measure, and write the bundle `out`."""
    if out.exists():
        raise InputError(f"{out} exists, and a bundle is never changed in place", "choose another name, or remove it first")
    cohort = data.read_crops(settings.crops, only=data.read_list(settings.cohort)).images
    if len(cohort) < FEWEST_STRANGERS:
        wrong = f"{len(cohort)} crops of strangers are too few for a threshold at a false-accept rate of {bundle.FAR}"
        raise InputError(wrong, f"name {FEWEST_STRANGERS} or more in {settings.cohort}")
    teacher, model, losses = quantise(settings)
    with tempfile.TemporaryDirectory() as folder:
        files = {name: Path(folder) / name for name in (bundle.ENCODER, "encoder.keras", "cohort.npz", "report.json", "CARD.md")}
        files[bundle.ENCODER].write_bytes(model)
        encoders.load(str(settings.encoder)).save(files["encoder.keras"], save_format="keras")
        tflite = Encoder(files[bundle.ENCODER])
        strangers = tflite.embed(cohort)
        np.savez_compressed(files["cohort.npz"], embeddings=np.round(strangers * 127).astype(np.int8))
        found = report(teacher, tflite, cohort, settings.lfw) | {"epochs": [{"cosine": -loss} for loss in losses]}
        files["report.json"].write_text(json.dumps(found, indent=1) + "\n")
        facts = {
            "name": out.name,
            "version": "1",
            "dimension": tflite.dimension,
            "input": {"shape": [1, align.SIZE, align.SIZE, 3], "dtype": "uint8", "colour": "RGB", **vars(tflite.input)},
            "output": {"dtype": "uint8", **vars(tflite.output)},
            "preprocessing": {"version": align.VERSION, "detector": "yunet"},
            "thresholds": thresholds(strangers),
            "made": {
                "time": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
                "code": source,
                "recipe": recipe,
                "data": [Path(path).name for path in settings.crops],
            },
            "licence": licence,
        }
        sizes = {name: file.stat().st_size for name, file in files.items() if file.exists()}
        write_card(files["CARD.md"], facts, found, bundle.sha256(files[bundle.ENCODER])[:16], sizes)
        return bundle.write(out, files.values(), facts)


def parser() -> Parser:
    result = Parser(__doc__)
    result.add_argument("--encoder", type=Path, required=True, help="float encoder, .keras")
    result.add_argument("--crops", type=Path, nargs="+", required=True, help="folders or zips of unlabelled crops")
    result.add_argument("--cohort", type=Path, required=True, help="text file of crops of strangers that train nothing, one name a line")
    result.add_argument("--out", type=Path, required=True, help="folder of the new bundle, e.g. models/NAME")
    result.add_argument("--lfw", type=Path, help="folder of LFW's crops.zip and pairs.txt: measure float and int8 on them")
    result.add_argument("--limit", type=int, default=Settings.limit, help="train on this many crops (default %(default)s)")
    result.add_argument("--epochs", type=int, default=Settings.epochs, help="(default %(default)s)")
    result.add_argument("--batch", type=int, default=Settings.batch, help="(default %(default)s)")
    result.add_argument("--rate", type=float, default=Settings.rate, help="learning rate (default %(default)s)")
    result.add_argument("--seed", type=int, default=Settings.seed)
    result.add_argument("--source", default="", help="version of the code that made the encoder, for the manifest")
    result.add_argument("--recipe", default="", help="how the float encoder was made, for the manifest and the card")
    result.add_argument("--licence", default="unknown", help="what may be done with the bundle, for the manifest and the card")
    return result


def _main(args: argparse.Namespace) -> int:
    given = {field.name: getattr(args, field.name) for field in fields(Settings)}
    made = make_bundle(Settings(**{**given, "crops": tuple(args.crops)}), args.out, args.recipe, args.source, args.licence)
    print((made.path / "CARD.md").read_text("utf-8"))
    parity = json.loads((made.path / "report.json").read_text("utf-8"))["parity"]
    if parity["mean"] >= LEAST_MEAN and parity["first_percentile"] >= LEAST_FIRST_PERCENTILE:
        return 0
    found = "mean cosine {mean:.3f}, 1st percentile {first_percentile:.3f}".format(**parity)
    wanted = f"{LEAST_MEAN} and {LEAST_FIRST_PERCENTILE} are wanted"
    print(f"quantize: the int8 encoder is unlike the float one ({found}; {wanted}): raise --epochs or add crops", file=sys.stderr)
    return HOLDS_NOT


def main(argv: list[str] | None = None) -> int:
    return run(_main, parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
