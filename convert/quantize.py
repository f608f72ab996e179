"""Make a full-int8 encoder of a float one, and the bundle that ships it.

  python convert/quantize.py --encoder runs/first/encoder.keras --crops crops.zip --cohort cohort.txt --out models/mine

Three ways (--method): `ptq` sets the ranges of all activations from what crops reach and trains nothing; `qat` goes on
training under fake quantisation (tensorflow-model-optimization), every crop a person of its own; `distill`, the default,
teaches the fake-quantised encoder to give the float encoder's embeddings, and keeps nothing that made it less like them.
None needs a label. Training starts from `ptq`, and that from the best of several sizes and ways of calibration, unless
--calibration and --ranges name them.

Crops named in --cohort train nothing here (and nothing before: pretrain.py --without): parity is measured and the
thresholds are taken on them. A page with plots, the layers and the crops that suffer most is written beside --encoder
(report.html; pictures of people: it is no part of the bundle). Exit status 1: the bundle is made, but int8 is too unlike
float.
"""

import argparse
import json
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

from convert import calibration, card, tflite_graph
from convert.report import page
from device import align, bundle
from device.embed import Encoder
from device.program import HOLDS_NOT, InputError, OmokageError, Parser, replacing, run
from train import data, encoders, evaluate, metrics, probes, runs, watch
from train.objectives.triplet import Triplet
from train.views import Views, view

METHODS = ("ptq", "qat", "distill")
PARITY_CROPS = 1000
LAYER_CROPS = 48
WATCHED = 512  # training crops, a fifth of them at most, that choose the epoch to keep
LEAST_MEAN, LEAST_FIRST_PERCENTILE = 0.98, 0.95  # of the cosines of float and int8, for a bundle that holds
SWEEP = (16, 64, 256, 1024)  # sizes of the calibration
BATCH = 64  # where nothing is trained
FEWEST_STRANGERS = 46  # they make 1,035 pairs, of which one lies above the threshold at 0.001
FARS = (0.01, 0.001, 0.0001)
INPUT = "quantize_layer"  # what tfmot puts before the first layer; with a number from the second model on
# What the device sees, and a little more: nothing that would widen the ranges beyond what faces need.
VIEWS = Views(area=(0.8, 1.0), ratio=(0.95, 1.05), strength=0.25, grey=0.0, blur=0.0)


@dataclass(frozen=True)
class Settings:
    encoder: Path
    crops: tuple[Path, ...]
    cohort: Path
    lfw: Path | None = None
    method: str = "distill"
    calibration: int | None = None
    ranges: str | None = None
    limit: int = 20_000
    epochs: int = 2
    batch: int = 64
    rate: float = 1e-5
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("calibration", "limit", "epochs", "batch", "rate"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise InputError(f"--{name} is {getattr(self, name)}", "give a number above 0")
        if self.method == "qat" and self.batch % 2:
            raise InputError(f"--batch is {self.batch}", "give an even number: qat shows every crop twice")
        for name, choices in (("method", METHODS), ("ranges", calibration.METHODS)):
            if getattr(self, name) not in (None, *choices):
                raise InputError(f"--{name} is {getattr(self, name)}", f"choose one of {', '.join(choices)}")


@dataclass(frozen=True)
class Quantised:
    """The float encoder without BatchNorm, the fake-quantised one, the int8 model, and `log`: how it came about.

    `ptq` is the int8 model before training, where it was asked for.
    """

    teacher: keras.Model
    student: keras.Model
    tflite: bytes
    ptq: bytes | None = None
    log: dict[str, Any] = field(default_factory=dict)


def reached(model: keras.Model, images: np.ndarray) -> dict[str, calibration.Reached]:
    """What every layer of `model` reaches on crops uint8 [N, 112, 112, 3] and on their mirror images, by the layer's name.

    The mirror images are part of the job: of a small set they give as much as twice the crops.
    """
    taps = keras.Model(model.input, {layer.name: layer.output for layer in model.layers})
    watches = {layer.name: calibration.Watch(2 * -(-len(images) // BATCH)) for layer in model.layers}
    for start in range(0, len(images), BATCH):
        batch = images[start : start + BATCH]
        for side in (batch, batch[:, :, ::-1]):
            for name, values in taps(encoders.scale(tf.constant(side)), training=False).items():
                watches[name].see(values.numpy())
    return {name: watch.reached() for name, watch in watches.items()}


def calibrate(student: keras.Model, ranges: dict[str, tuple[float, float]]) -> None:
    """Set the range of every activation that `student` stores in 8 bits, by its layer's name, and those of its weights.

    The input's is always the bytes' own, -1 to 1.
    """
    student(tf.zeros((1, *student.input_shape[1:])), training=True)  # the weights' ranges are only ever taken in training
    _assign(student, {**ranges, INPUT: (-1.0, 1.0)})


def _assign(student: keras.Model, ranges: dict[str, tuple[float, float]]) -> None:
    for layer in student.layers:
        name = INPUT if layer.name.startswith(INPUT) else layer.name.removeprefix("quant_")
        for variable in layer.weights:
            last = variable.name.split("/")[-1]
            if name in ranges and "kernel" not in last and last.endswith(("_min:0", "_max:0")):
                variable.assign(ranges[name][last.endswith("_max:0")])


def fake_quantised(model: keras.Model) -> keras.Model:
    """`model` (no BatchNorm left) with 8-bit weights and activations simulated in float (Jacob et al. 2018, arXiv:1712.05877).

    Its ranges mean nothing before `calibrate`: tfmot's own start of +-6 takes thousands of steps to narrow.
    """
    import tensorflow_model_optimization as tfmot

    return tfmot.quantization.keras.quantize_model(model)


def sweep(student: keras.Model, teacher: keras.Model, images: np.ndarray, watched: np.ndarray, settings: Settings) -> list[dict[str, Any]]:
    """The sizes and ways of calibration that `settings` leave open: how like float each makes `student` on crops `watched`.

    No choice is best for all. The rare outliers of swish make min-max worse with every crop more: on 1,024 crops a MobileNetV2
    kept a cosine of 0.92, on 16 one of 0.99. No epoch of training mends that, because ranges hardly move in it.
    """
    sizes = SWEEP if settings.calibration is None else (settings.calibration,)
    tried = []
    for size in sorted({min(size, len(images)) for size in sizes}):
        found = reached(teacher, images[:size])
        for method in calibration.METHODS if settings.ranges is None else (settings.ranges,):
            calibrate(student, {name: calibration.bounds(values, method) for name, values in found.items()})
            tried.append({"crops": size, "ranges": method, **alike(teacher, student, watched)})
    return tried


Loss = Callable[[keras.Model, tf.Tensor], tf.Tensor]


def unexplained(teacher: keras.Model, images: np.ndarray) -> Loss:
    """For `distill`: the share of the variance of the float embeddings that the student misses.

    Squared errors are divided by the variance of the float embeddings over crops uint8 `images`. A plain cosine is nearly
    satisfied by what all faces share, which can be most of an embedding's length (that of a dlib-taught encoder: strangers
    have a mean cosine of 0.84); the variance is what tells people apart.
    """
    variance = encoders.outputs(teacher, images).var(axis=0).mean()

    def loss(student: keras.Model, views: tf.Tensor) -> tf.Tensor:
        embeddings = tf.cast(student(views, training=True), tf.float32)
        return tf.reduce_mean(tf.square(embeddings - teacher(views, training=False))) / variance

    return loss


def instances(batch: int) -> Loss:
    """For `qat`: every crop is a person of its own, seen in two views next to each other in the batch.

    The triplet loss moves only what lies within its margin, so an encoder that tells faces apart already is moved little.
    A loss without negatives would be least where all embeddings are equal, and the one that the encoder was trained with
    needs heads (SimSiam's projector and predictor, ArcFace's centres) that are not part of it.
    """
    objective, people = Triplet(), tf.repeat(tf.range(batch // 2), 2)
    return lambda student, views: objective(student(views, training=True), people)[0]


class Learner(keras.Model):
    """Trains `student` on `loss` of batches of views."""

    def __init__(self, student: keras.Model, loss: Loss):
        super().__init__(name="learner")
        self.student, self.measure = student, loss
        self.mean = keras.metrics.Mean("loss")

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        return [self.mean]

    def train_step(self, views: tf.Tensor) -> dict[str, tf.Tensor]:
        variables = self.student.trainable_variables
        with tf.GradientTape() as tape:
            loss = self.measure(self.student, views)
        self.optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        self.mean.update_state(loss)
        return {"loss": self.mean.result()}


def batches(images: tf.Tensor, settings: Settings, epoch: int) -> tf.data.Dataset:
    """Views float32 [batch, H, W, 3] of all crops uint8 [N, H, W, 3]; with `qat` two of each, next to each other."""
    twice = 2 if settings.method == "qat" else 1

    def views(index: tf.Tensor, number: tf.Tensor) -> tf.Tensor:
        rows = tf.ensure_shape(tf.gather(images, tf.repeat(index, twice)), (settings.batch, *images.shape[1:]))
        return view(rows, tf.stack([settings.seed, epoch * 2**20 + tf.cast(number, tf.int32)]), VIEWS)

    order = tf.data.Dataset.range(len(images)).shuffle(len(images), seed=settings.seed + 2**20 * epoch)
    numbered = tf.data.Dataset.zip((order.batch(settings.batch // twice, drop_remainder=True), tf.data.Dataset.range(2**20)))
    return numbered.map(views).prefetch(2)


def learn(student: keras.Model, teacher: keras.Model, images: np.ndarray, watched: np.ndarray, settings: Settings) -> list[dict]:
    """Train the calibrated `student` on crops uint8 [N, H, W, 3] by `settings.method`; the figures of all epochs.

    With `distill` it ends with the weights of its best epoch: what is most like the float encoder on crops `watched`, before
    training counting as epoch 0. `qat` has another aim, so nothing tells which of its epochs is best, and the last one stays.
    Raises OmokageError where the loss is no number any more.
    """
    loss = unexplained(teacher, images[:WATCHED]) if settings.method == "distill" else instances(settings.batch)
    model = Learner(student, loss)
    tensor = tf.convert_to_tensor(images)
    model.compile(optimizer=keras.optimizers.Adam(runs.Cosine(settings.rate, settings.epochs * len(batches(tensor, settings, 0)))))
    epochs: list[dict[str, Any]] = [{"epoch": 0, **alike(teacher, student, watched)}]
    kept = student.get_weights()
    for epoch in range(settings.epochs):
        progress = watch.Progress(epoch, settings.epochs, settings.batch)
        dataset = batches(tensor, settings, epoch)
        history = model.fit(dataset, initial_epoch=epoch, epochs=epoch + 1, verbose=0, callbacks=[progress]).history
        found = {"epoch": epoch + 1, "loss": float(history["loss"][-1]), **alike(teacher, student, watched)}
        if not np.isfinite(found["loss"]):
            raise OmokageError(f"the loss is {found['loss']} in epoch {epoch + 1}", "lower --rate")
        if settings.method == "qat" or found["mean"] > max(entry["mean"] for entry in epochs):
            kept = student.get_weights()
        epochs.append(found)
        print("epoch {epoch}, loss {loss:.4f}, cosine to the float encoder {mean:.4f}".format(**found), file=sys.stderr)
    student.set_weights(kept)
    _assign(student, {INPUT: (-1.0, 1.0)})  # training moves it to what the views reach
    return epochs


def alike(teacher: keras.Model, student: keras.Model, images: np.ndarray) -> dict[str, float]:
    """Cosine of the two encoders' embeddings of the same crops, after the mean over the crops is removed."""
    mean, first_percentile = metrics.parity(*_centred(encoders.embed(teacher, images), encoders.embed(student, images)))
    return {"mean": mean, "first_percentile": first_percentile}


def _centred(reference: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit rows of both [N, D] after the mean of `reference` is removed."""
    first, second = (rows - reference.mean(axis=0) for rows in (reference, other))
    return first / np.linalg.norm(first, axis=1, keepdims=True), second / np.linalg.norm(second, axis=1, keepdims=True)


def to_tflite(student: keras.Model) -> bytes:
    """The full-int8 TFLite model, uint8 in and out, batch 1, static."""

    @tf.function(input_signature=[tf.TensorSpec((1, *student.input_shape[1:]), tf.float32, name="crop")])
    def embed(crop: tf.Tensor) -> tf.Tensor:
        return student(crop, training=False)

    converter = tf.lite.TFLiteConverter.from_concrete_functions([embed.get_concrete_function()], student)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.inference_input_type = tf.uint8
    converter.inference_output_type = tf.uint8
    with warnings.catch_warnings():
        # A transposed convolution, as tfmot wraps it, cannot be saved; the converter then takes the graph, and asks for the
        # input's statistics, which the graph holds.
        warnings.filterwarnings("ignore", "Statistics for quantized inputs")
        return converter.convert()


@dataclass(frozen=True)
class Source:
    """What is quantised: the float encoder without BatchNorm; crops uint8 [N, 112, 112, 3] to learn from, and those that are `watched`."""

    teacher: keras.Model
    images: np.ndarray
    watched: np.ndarray


def read(settings: Settings) -> Source:
    """The encoder and the crops of `settings`. Raises InputError if they cannot be used."""
    teacher = encoders.folded(encoders.load(str(settings.encoder)))
    if teacher.input_shape[1] != align.SIZE:
        found = f"{teacher.input_shape[1]}x{teacher.input_shape[2]}"
        raise InputError(f"{settings.encoder} takes {found}, not {align.SIZE}x{align.SIZE}", f"train it with --size {align.SIZE}")
    crops = data.read_crops(settings.crops, without=data.read_list(settings.cohort))
    images = crops.images[np.random.default_rng(settings.seed).permutation(len(crops))[: settings.limit]]
    watching = min(WATCHED, len(images) // 5)
    if not watching or (settings.method != "ptq" and len(images) - watching < settings.batch):
        raise InputError(f"{len(images) - watching} crops do not fill a batch of {settings.batch}", "lower --batch or add photos")
    return Source(teacher, images[watching:], images[:watching])


def quantise(source: Source, settings: Settings) -> Quantised:
    """The int8 encoder: calibrated, trained where the method trains, converted."""
    keras.utils.set_random_seed(settings.seed)
    teacher, images, watched = source.teacher, source.images, source.watched
    student = fake_quantised(teacher)
    tried = sweep(student, teacher, images, watched, settings)
    best = max(tried, key=lambda entry: entry["mean"])
    size, ranges = best["crops"], best["ranges"]
    log: dict[str, Any] = {"method": settings.method, "sweep": tried, "calibration": {"crops": size, "ranges": ranges}}
    calibrate(student, {name: calibration.bounds(values, ranges) for name, values in reached(teacher, images[:size]).items()})
    if settings.method == "ptq":
        return Quantised(teacher, student, to_tflite(student), log=log)
    ptq = to_tflite(student) if settings.lfw else None
    log["epochs"] = learn(student, teacher, images, watched, settings)
    return Quantised(teacher, student, to_tflite(student), ptq, log)


def thresholds(embeddings: np.ndarray, fars: tuple[float, ...] = FARS) -> list[dict]:
    """For each rate the cosine that this share of all pairs of strangers, unit rows [N, D], reaches."""
    cosines = (embeddings @ embeddings.T)[np.triu_indices(len(embeddings), 1)]
    where = f"{len(cosines)} pairs of {len(embeddings)} crops of strangers (cohort)"
    carried = [far for far in fars if far * len(cosines) >= 1]  # a rate below one pair is nobody's to promise
    return [{"threshold": float(np.quantile(cosines, 1 - far)), "far": far, "measured_on": where} for far in carried]


def layers(made: Quantised, model: Path, images: np.ndarray) -> list[dict[str, Any]]:
    """Layer by layer, the cosine of the float output to the fake-quantised one and to that of the int8 file `model`, on crops uint8.

    Layers that the int8 model has merged into the next (a convolution into its ReLU6) are left out. `lost` is what the
    int8 cosine falls by from the layer's inputs to its output: the layer with the most has lost the most.
    """
    graph, interpreter = tflite_graph.read(model).graphs[0], _all_tensors(model)
    # The last tensor of a layer stands for it.
    stored = {_layer_of(tensor.name): tensor for operation in graph.operations for tensor in graph.of(operation.outputs)}
    names = [layer.name for layer in made.teacher.layers if layer.name in stored]
    float_ = keras.Model(made.teacher.input, {name: made.teacher.get_layer(name).output for name in names})
    fake = keras.Model(made.student.input, {name: made.student.get_layer(f"quant_{name}").output for name in names})
    cosines: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for start in range(0, len(images), 8):  # few at a time: all layers of a crop are megabytes
        batch = encoders.scale(tf.constant(images[start : start + 8]))
        wanted, simulated = ({name: rows.numpy() for name, rows in model(batch, training=False).items()} for model in (float_, fake))
        for row, image in enumerate(images[start : start + 8]):
            interpreter.set_tensor(graph.inputs[0], image[None])
            interpreter.invoke()
            for name in names:
                tensor = stored[name]
                real = tensor.scales[0] * (interpreter.get_tensor(tensor.index)[0].astype(np.float32) - tensor.zero_points[0])
                cosines[name].append((_cosine(wanted[name][row], simulated[name][row]), _cosine(wanted[name][row], real)))
    means = {name: float(np.mean([int8 for _, int8 in cosines[name]])) for name in names}
    found = []
    for name in names:
        pairs = np.array(cosines[name])  # [N, 2]
        before = min((means[parent] for parent in _parents(made.teacher.get_layer(name), means)), default=1.0)
        figures = {"mean": pairs.mean(axis=0), "first_percentile": np.percentile(pairs, 1, axis=0)}
        fake_quant, int8 = ({key: float(values[side]) for key, values in figures.items()} for side in (0, 1))
        found.append({"name": name, "fake_quant": fake_quant, "int8": int8, "lost": before - means[name]})
    return found


def _layer_of(tensor: str) -> str:
    """The layer that a tensor of the int8 model comes from: fused/quant_stem_relu/Relu6;fused/quant_stem/BiasAdd is stem_relu's."""
    parts = tensor.split(";")[0].split("/")
    return parts[min(1, len(parts) - 1)].removeprefix("quant_")


def _all_tensors(model: Path) -> Any:
    """An interpreter that keeps what lies between, so without XNNPACK."""
    import ai_edge_litert.interpreter as litert

    plain = litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = litert.Interpreter(str(model), experimental_preserve_all_tensors=True, experimental_op_resolver_type=plain)
    interpreter.allocate_tensors()
    return interpreter


def _cosine(left: np.ndarray, right: np.ndarray) -> float:
    """Of two arrays as they are; 1 where the reference is zero throughout, as the output of a dead layer is."""
    lengths = np.linalg.norm(left) * np.linalg.norm(right)
    return float((left * right).sum() / lengths) if lengths > 0 else 1.0


def _parents(layer: keras.layers.Layer, known: dict[str, float]) -> set[str]:
    """The nearest layers before `layer` that are in `known`."""
    before = [node.layer for node in layer.inbound_nodes[0].parent_nodes]
    return {name for parent in before for name in ({parent.name} if parent.name in known else _parents(parent, known))}


def _parity(reference: np.ndarray, other: np.ndarray) -> dict[str, Any]:
    mean, first_percentile = metrics.parity(reference, other)
    return {"mean": mean, "first_percentile": first_percentile, "crops": len(reference)}


def parities(float_: np.ndarray, int8: np.ndarray) -> dict[str, Any]:
    """How like two encoders' unit rows [N, D] of the same crops are, as they are and after the mean of the first is removed."""
    return {"parity": _parity(float_, int8), "parity_centred": _parity(*_centred(float_, int8))}


def report(teacher: keras.Model, tflite: Encoder, cohort: np.ndarray, lfw: Path | None, ptq: Encoder | None = None) -> dict[str, Any]:
    """What quantisation cost: cosine of float and int8 on held-out crops, and LFW for float, `ptq` and int8 where it is there."""
    chosen = held_out(cohort)
    found: dict[str, Any] = parities(encoders.embed(teacher, chosen), tflite.embed(chosen))
    if lfw is not None:
        probe = probes.VerificationProbe.read(lfw / "crops.zip", lfw / "pairs.txt")
        embeds = {"float": lambda crops: encoders.embed(teacher, crops), **({"ptq": ptq.embed} if ptq else {}), "int8": tflite.embed}
        verified = {kind: evaluate.verify(embed, probe) for kind, embed in embeds.items()}
        found["lfw"] = {kind: result.as_json(kind, "pairs.txt") for kind, result in verified.items()}
        for kind in list(verified)[1:]:
            found["lfw"][f"float_minus_{kind}"] = evaluate.compare(verified[kind], verified["float"])
    return found


def held_out(cohort: np.ndarray) -> np.ndarray:
    """The crops on which parity is measured: PARITY_CROPS of the cohort, evenly spread."""
    return cohort[:: max(len(cohort) // PARITY_CROPS, 1)][:PARITY_CROPS]


def write_page(path: Path, name: str, made: Quantised, tflite: Encoder, cohort: np.ndarray, found: dict[str, Any]) -> None:
    """Write report.html: `found`, its plots, and the crops whose embeddings suffer most, as pictures."""
    chosen = held_out(cohort)
    float_, int8 = encoders.embed(made.teacher, chosen), tflite.embed(chosen)
    plain, centred = ((left * right).sum(axis=1) for left, right in ((float_, int8), _centred(float_, int8)))
    with replacing(path) as temporary:
        temporary.write_text(page(name, found, chosen, plain, centred), "utf-8")


@dataclass(frozen=True)
class Told:
    """What only a person knows of a bundle, for its manifest and card."""

    recipe: str = ""
    source: str = ""
    taught: str = "no labels were used"
    licence: str = "unknown"


def make_bundle(settings: Settings, out: Path, told: Told, html: Path) -> bundle.Bundle:
    """Quantise, measure, and write the bundle `out` and the page `html`."""
    if out.exists():
        raise InputError(f"{out} exists, and a bundle is never changed in place", "choose another name, or remove it first")
    if (html.parent / "manifest.json").exists() or html.parent.resolve() == out.resolve():
        raise InputError(f"{html} would lie in a bundle, and it shows pictures of people", "name another place with --report")
    cohort = data.read_crops(settings.crops, only=data.read_list(settings.cohort)).images
    if len(cohort) < FEWEST_STRANGERS:
        wrong = f"{len(cohort)} crops of strangers are too few for a threshold at a false-accept rate of {bundle.FAR}"
        raise InputError(wrong, f"name {FEWEST_STRANGERS} or more in {settings.cohort}")
    made = quantise(read(settings), settings)
    with tempfile.TemporaryDirectory() as folder:
        names = (bundle.ENCODER, "encoder.keras", "cohort.npz", "report.json", "training.json", "CARD.md")
        files = {name: Path(folder) / name for name in names}
        files[bundle.ENCODER].write_bytes(made.tflite)
        _save_small(encoders.load(str(settings.encoder)), files["encoder.keras"])
        tflite, ptq = Encoder(files[bundle.ENCODER]), None
        if made.ptq is not None:
            (Path(folder) / "ptq.tflite").write_bytes(made.ptq)
            ptq = Encoder(Path(folder) / "ptq.tflite")
        strangers = tflite.embed(cohort)
        np.savez_compressed(files["cohort.npz"], embeddings=np.round(strangers * 127).astype(np.int8))
        found = report(made.teacher, tflite, cohort, settings.lfw, ptq) | made.log
        found["layers"] = layers(made, files[bundle.ENCODER], cohort[:: max(len(cohort) // LAYER_CROPS, 1)][:LAYER_CROPS])
        found["worst_layer"] = max(found["layers"], key=lambda layer: layer["lost"])["name"]
        files["report.json"].write_text(json.dumps(found, indent=1) + "\n")
        files["training.json"].write_text(json.dumps(runs.history(settings.encoder), indent=1) + "\n")
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
                "code": told.source,
                "recipe": told.recipe,
                "data": [Path(path).name for path in settings.crops],
                "taught": told.taught,
            },
            "licence": told.licence,
        }
        sizes = {name: file.stat().st_size for name, file in files.items() if file.exists()}
        card.write_card(files["CARD.md"], facts, found, bundle.sha256(files[bundle.ENCODER])[:16], sizes)
        written = bundle.write(out, files.values(), facts)
        write_page(html, out.name, made, tflite, cohort, found)
        return written


def _save_small(model: keras.Model, path: Path) -> None:
    """Write `model` with weights of half precision, which changes a cosine by less than 1e-6, in a zip that is compressed: a
    bundle lies in a repository, and this is its largest file."""
    for layer in model.layers:
        layer.set_weights([weight.astype(np.float16).astype(np.float32) for weight in layer.get_weights()])
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "encoder.keras"
        model.save(whole, save_format="keras")
        with zipfile.ZipFile(whole) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
            for name in source.namelist():
                target.writestr(name, source.read(name))


def parser() -> Parser:
    result = Parser(__doc__)
    result.add_argument("--encoder", type=Path, required=True, help="float encoder, .keras")
    result.add_argument("--crops", type=Path, nargs="+", required=True, help="folders or zips of unlabelled crops")
    result.add_argument("--cohort", type=Path, required=True, help="text file of crops of strangers that train nothing, one name a line")
    result.add_argument("--out", type=Path, required=True, help="folder of the new bundle, e.g. models/NAME")
    result.add_argument("--lfw", type=Path, help="folder of LFW's crops.zip and pairs.txt: measure float and int8 on them")
    result.add_argument("--method", choices=METHODS, default=Settings.method, help="(default %(default)s)")
    sizes = ", ".join(map(str, SWEEP))
    result.add_argument("--calibration", type=int, help=f"crops that set the ranges (default: the best of {sizes})")
    result.add_argument("--ranges", choices=calibration.METHODS, help="how they do (default: the best of all)")
    result.add_argument("--limit", type=int, default=Settings.limit, help="train on this many crops (default %(default)s)")
    result.add_argument("--epochs", type=int, default=Settings.epochs, help="(default %(default)s)")
    result.add_argument("--batch", type=int, default=Settings.batch, help="(default %(default)s)")
    result.add_argument("--rate", type=float, default=Settings.rate, help="learning rate (default %(default)s)")
    result.add_argument("--seed", type=int, default=Settings.seed)
    result.add_argument("--source", default=Told.source, help="version of the code that made the encoder, for the manifest")
    result.add_argument("--recipe", default=Told.recipe, help="how the float encoder was made, for the manifest and the card")
    result.add_argument("--taught", default=Told.taught, help="by which teacher or labels, for the card (default: %(default)s)")
    result.add_argument("--licence", default=Told.licence, help="what may be done with the bundle, for the manifest and the card")
    result.add_argument("--report", type=Path, help="page with plots and pictures (default report.html beside --encoder)")
    return result


def _main(args: argparse.Namespace) -> int:
    given = {entry.name: getattr(args, entry.name) for entry in fields(Settings)}
    told = Told(**{entry.name: getattr(args, entry.name) for entry in fields(Told)})
    html = args.report or args.encoder.parent / "report.html"
    made = make_bundle(Settings(**{**given, "crops": tuple(args.crops)}), args.out, told, html)
    print((made.path / "CARD.md").read_text("utf-8"))
    parity = json.loads((made.path / "report.json").read_text("utf-8"))["parity_centred"]
    if parity["mean"] >= LEAST_MEAN and parity["first_percentile"] >= LEAST_FIRST_PERCENTILE:
        return 0
    found = "cosine after the mean is removed {mean:.3f}, 1st percentile {first_percentile:.3f}".format(**parity)
    wanted = f"{LEAST_MEAN} and {LEAST_FIRST_PERCENTILE} are wanted"
    mend = "add crops" if args.method == "distill" else "use --method distill, or add crops"
    print(f"quantize: the int8 encoder is unlike the float one ({found}; {wanted}): {mend}", file=sys.stderr)
    return HOLDS_NOT


def main(argv: list[str] | None = None) -> int:
    return run(_main, parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
