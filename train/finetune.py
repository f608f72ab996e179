"""Tune an encoder: to a teacher's embeddings, without labels, or to people, with a few.

  python train/finetune.py --objective distill --teacher dlib --crops photos.zip --init runs/first --out runs/distilled
  python train/finetune.py --objective arcface --crops people/ --init models/simsiam-fused --freeze 80% --out runs/mine
  python train/finetune.py --resume runs/distilled

People are the folders that crops lie in (people/ALICE/1.png), or the column identity of --labels.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tensorflow as tf
import tf_keras as keras

from device import align, bundle
from device.program import InputError, Parser, run
from train import data, encoders, labels, objectives, runs, sampling, teachers, watch
from train.objectives import distill
from train.views import FACE, Views, view

RANDOM = "random"
FITTING_CROPS = 8192  # that a new last layer is fitted to, by regression


@dataclass(frozen=True)
class Settings:
    """One fine-tuning. `views` are strong by default; 0 for `area`'s change, `rotation` and so on shows the crops as they are."""

    crops: tuple[str, ...]
    objective: str = "distill"
    without: str | None = None
    limit: int | None = None
    labels: str | None = None
    teacher: str | None = None
    cache: str = "build/teacher"
    consistent_teacher: bool = False
    mix: float = 0.0
    init: str = RANDOM
    freeze: str | None = None
    architecture: str = "fused"
    width: float = 1.0
    activation: str = "relu"
    dimension: int = 128
    size: int = align.SIZE
    area: float = FACE.area[0]
    rotation: float = FACE.rotation
    strength: float = FACE.strength
    erase: float = FACE.erase
    margin: float | None = None
    mining: str | None = None
    people: int = 16
    pictures: int = 4
    batch: int = 128
    epochs: int = 10
    steps: int | None = None
    rate: float = 1e-3
    warmup: float = 0.05
    weight_decay: float = 4e-3
    precision: str = "float32"
    seed: int = 0
    save_every: float = runs.SAVE_EVERY
    probe_every: int = 1
    probe_crops: str | None = None
    probe_pairs: str | None = None
    knn_crops: str | None = None
    knn_labels: str | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "rate", "size", "dimension", "width"):
            if not getattr(self, name) > 0:
                raise InputError(f"--{name} is {getattr(self, name)}", "give a number above 0")
        if not 0 <= self.mix <= 1:
            raise InputError(f"--mix is {self.mix}", "give a share from 0 to 1")
        if self.mix and not self.consistent_teacher:
            raise InputError("--mix blends faces, and only a teacher that sees the blend knows what it is", "add --consistent-teacher")

    def views(self) -> Views:
        area = (self.area, FACE.area[1])
        return replace(FACE, size=self.size, area=area, rotation=self.rotation, strength=self.strength, erase=self.erase)


class Student(keras.Model):
    """An encoder and the objectives that it is trained on, whose heads are dropped at export.

    With a `teacher`, a function from views float32 [B, H, W, 3] in -1..1 to unit embeddings float32 [B, T], the targets
    are what it says of the very views of the batch: "a consistent and patient teacher" (Beyer et al. 2021,
    arXiv:2106.05237), which also knows what a blend of two faces is (`mix`: the share of blends).
    """

    def __init__(self, encoder: keras.Model, terms: list, teacher: Callable | None = None, mix: float = 0.0, seed: int = 0):
        super().__init__(name="student")
        self.encoder, self.terms, self.teacher, self.mix, self.seed = encoder, terms, teacher, mix, seed
        self.heads = [objective for _, objective in terms]
        dimension = encoder.output_shape[-1]
        nothing = {"labels": tf.constant([0, 1]), "teacher": tf.zeros((2, dimension))}
        _, told = objectives.total(terms, tf.random.normal((2, dimension)), nothing)  # builds the heads, names the figures
        self.means = {name: keras.metrics.Mean(name) for name in ("loss", *told)}

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        return list(self.means.values())

    def call(self, views: tf.Tensor, training: bool = False) -> tf.Tensor:
        return tf.cast(self.encoder(views, training=training), tf.float32)

    def train_step(self, batch: tuple[tf.Tensor, dict[str, tf.Tensor]]) -> dict[str, tf.Tensor]:
        views, targets = batch
        if self.teacher is not None:
            views = self._mixed(views)
            seen = tf.numpy_function(self.teacher, [views], tf.float32, stateful=False)
            targets = {**targets, "teacher": tf.ensure_shape(seen, (views.shape[0], self.encoder.output_shape[-1]))}
        with tf.GradientTape() as tape:
            loss, told = objectives.total(self.terms, self(views, training=True), targets)
        variables = self.trainable_variables
        self.optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        for name, value in {"loss": loss, **told}.items():
            self.means[name].update_state(value)
        return {name: mean.result() for name, mean in self.means.items()}

    def _mixed(self, views: tf.Tensor) -> tf.Tensor:
        """A share of the views blended with their neighbour in the batch (mixup, Zhang et al. 2018, arXiv:1710.09412)."""
        if not self.mix:
            return views
        shape = (views.shape[0], 1, 1, 1)
        step = tf.stack([self.seed, tf.cast(self.optimizer.iterations, tf.int32)])  # a resumed run draws as the unbroken one
        amount, drawn = (tf.random.stateless_uniform(shape, seed) for seed in tf.unstack(tf.random.experimental.stateless_split(step, 2)))
        share = amount * tf.cast(drawn < self.mix, tf.float32)
        return (1 - share) * views + share * tf.roll(views, 1, axis=0)


def frozen(model: keras.Model, freeze: str) -> keras.Model:
    """`model` with its first layers fixed: a share of those that have weights ("80%"), or all up to a layer by name.

    BatchNorm of fixed layers runs on its moving statistics. Raises InputError for a share or layer that is none.
    """
    weighted = [layer for layer in model.layers if layer.weights]
    if freeze.endswith("%"):
        try:
            share = float(freeze[:-1]) / 100
        except ValueError:
            share = -1.0
        if not 0 <= share < 1:
            raise InputError(f"--freeze {freeze} is no share of the layers", "give 0% to 99%, or a layer's name")
        last = int(share * len(weighted))
    else:
        names = [layer.name for layer in weighted]
        if freeze not in names:
            raise InputError(f"the encoder has no layer {freeze}", f"give a share like 80%, or a layer, e.g. {', '.join(names[-5:])}")
        last = names.index(freeze) + 1
    for layer in weighted[:last]:
        layer.trainable = False
    return model


def start(settings: Settings) -> keras.Model:
    """The encoder to tune: random, or of a run, a bundle or a .keras file, for crops of `settings.size`."""
    if settings.init == RANDOM:
        shape = {name: getattr(settings, name) for name in ("size", "dimension", "width", "activation")}
        return encoders.build(settings.architecture, **shape)
    path = Path(settings.init)
    if path.suffix == ".keras":
        source = path
    elif (path / runs.CONFIG).exists():
        source = runs.Run.open(path).encoder
    else:
        source = bundle.find(settings.init).path / "encoder.keras"
    return encoders.resized(encoders.load(str(source)), settings.size)


@dataclass(frozen=True)
class Material:
    """What a run trains on: crops uint8 [N, 112, 112, 3] (one copy: they are gigabytes), labels int32 [N] or None, the
    teacher's embeddings float32 [N, T] or None."""

    images: tf.Tensor
    labels: np.ndarray | None
    teacher: np.ndarray | None

    def targets(self) -> dict[str, tf.Tensor]:
        given = {"labels": self.labels, "teacher": self.teacher}
        return {name: tf.convert_to_tensor(rows) for name, rows in given.items() if rows is not None}


def material(settings: Settings) -> Material:
    """Read crops, and what the objectives need beside them. Raises InputError for what is not there or does not fit."""
    needs = {objectives.OBJECTIVES[name].needs for _, name in objectives.terms(settings.objective)}
    without = data.read_list(Path(settings.without)) if settings.without else set()
    crops = data.read_crops([Path(p) for p in settings.crops], without)
    images, found = crops.images[: settings.limit], None
    if "labels" in needs:
        if settings.labels is None:
            labels.refuse_empty_folders(Path(p) for p in settings.crops)
        found, _ = labels.read(crops.names[: settings.limit], Path(settings.labels) if settings.labels else None)
        images, found = images[found != labels.UNKNOWN], found[found != labels.UNKNOWN]
    taught = None
    if "teacher" in needs:
        if settings.teacher is None:
            raise InputError("there is nobody to learn from", "name a --teacher: dlib, an .onnx file or a .keras file")
        taught = teachers.cached_targets(teachers.open_teacher(settings.teacher), images, Path(settings.cache))
    return Material(tf.convert_to_tensor(images), found, taught)


def batches(given: Material, settings: Settings, epoch: int) -> tf.data.Dataset:
    """(views, targets) of one epoch: people by people where labels are compared, else all crops in random order."""
    compared = any(objectives.OBJECTIVES[name].compares for _, name in objectives.terms(settings.objective))

    def drawn(number: int) -> np.ndarray:
        if compared and given.labels is not None:
            return sampling.identity_batches(given.labels, settings.people, settings.pictures, settings.seed, number)
        return sampling.random_batches(len(given.images), settings.batch, settings.seed, number)

    rows = sampling.passes(drawn, settings.steps, epoch) if settings.steps else drawn(epoch)
    targets, views = given.targets(), settings.views()

    def batch(number: tf.Tensor, index: tf.Tensor) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        index = tf.ensure_shape(index, (rows.shape[1],))
        seed = tf.stack([settings.seed, epoch * 2**20 + tf.cast(number, tf.int32)])
        seen = view(tf.gather(given.images, index), seed, views)
        return seen, {name: tf.gather(values, index) for name, values in targets.items()}

    return tf.data.Dataset.from_tensor_slices(rows).enumerate().map(batch, num_parallel_calls=2).prefetch(2)


def build(given: Material, settings: Settings) -> Student:
    """The student on its objectives, its optimiser set."""
    terms_ = _objectives(given, settings)
    with encoders.precision(settings.precision):
        encoder = start(settings)
        if given.teacher is not None:
            encoder = _facing(encoder, given, settings.init != RANDOM)
    teacher = _seeing(settings) if settings.consistent_teacher else None
    student = Student(frozen(encoder, settings.freeze) if settings.freeze else encoder, terms_, teacher, settings.mix, settings.seed)
    steps = settings.epochs * len(batches(given, settings, 0))
    rate = runs.Cosine(settings.rate, steps, int(settings.warmup * steps))
    student.compile(optimizer=keras.optimizers.AdamW(rate, weight_decay=settings.weight_decay))
    return student


def _facing(encoder: keras.Model, given: Material, trained: bool) -> keras.Model:
    """The encoder, where it is a trained one with its last layer fitted to the teacher's embeddings of some of the crops,
    standardised as `Distill` has them."""
    assert given.teacher is not None
    if encoder.output_shape[-1] != given.teacher.shape[1]:
        found = f"the student has {encoder.output_shape[-1]} numbers, the teacher {given.teacher.shape[1]}"
        raise InputError(found, "give --dimension as the teacher has it, with --init random")
    if not trained:
        return encoder
    mean, deviation = distill.statistics(given.teacher)
    some = slice(None, None, max(len(given.images) // FITTING_CROPS, 1))
    return encoders.fitted(encoder, given.images[some].numpy(), (given.teacher[some] - mean) / deviation)


def _objectives(given: Material, settings: Settings) -> list:
    known: dict = {"margin": settings.margin, "mining": settings.mining}
    if given.labels is not None:
        known["people"] = int(given.labels.max()) + 1
    if given.teacher is not None:
        mean, deviation = distill.statistics(given.teacher)
        known |= {"mean": mean, "deviation": deviation}
    return objectives.parse(settings.objective, **known)


def _seeing(settings: Settings) -> Callable[[np.ndarray], np.ndarray]:
    """The teacher as a function of views in -1..1: it wants crops of bytes."""
    teacher = teachers.open_teacher(settings.teacher or "")

    def embed(views: np.ndarray) -> np.ndarray:
        crops = np.clip(np.round((views + 1) * 127.5), 0, 255).astype(np.uint8)
        return teacher.embed(crops).astype(np.float32)

    return embed


def finetune(settings: Settings, out: Path, resume: bool = False) -> runs.Run:
    """Train to the last epoch in the run folder `out`, which is new, or with `resume` goes on from its newest checkpoint.

    Nothing is written there before everything is read and the model is built.
    """
    if not resume:
        runs.check_free(out)
    if settings.consistent_teacher and settings.size != align.SIZE:
        raise InputError("a consistent teacher sees the student's views, and wants them whole", f"give --size {align.SIZE}")
    keras.utils.set_random_seed(settings.seed)
    given = material(settings)
    probes = watch.Probes(settings, given.images, settings.views())
    student = build(given, settings)
    run_ = runs.Run.open(out) if resume else runs.Run.create(out, settings)
    print(f"{len(given.images)} crops, objective {settings.objective}", file=sys.stderr)

    def finish(figures: dict[str, float]) -> tuple[keras.Model, dict[str, float]]:
        encoder = encoders.resized(student.encoder, settings.size)  # in float32, whatever the training's precision
        for head in student.heads:
            encoder = head.calibrated(encoder) if isinstance(head, distill.Distill) else encoder
        if line := objectives.stuck(figures):
            print(line, file=sys.stderr)
        return encoder, figures | probes(int(figures["epoch"]), encoder)

    runs.train(
        run_,
        student,
        {"optimizer": student.optimizer},
        settings.epochs,
        settings.batch,
        lambda epoch: batches(given, settings, epoch),
        finish,
        save_every=settings.save_every,
    )
    return run_


def parser() -> Parser:
    result = Parser(__doc__)
    runs.add_arguments(result, Settings)
    given = result.add_argument
    given("--crops", nargs="+", default=(), help="folders or zips of crops")
    given("--without", help="text file of crops to leave out, one name a line")
    given("--limit", type=int, help="use the first N crops only")
    known = ", ".join(sorted(objectives.OBJECTIVES))
    given("--objective", default=Settings.objective, help=f"of {known}; added up like distill+0.5*triplet (default %(default)s)")
    given("--labels", help="CSV picture,identity; without it the folders of --crops are the people")
    given("--teacher", help="for distill: dlib, an .onnx file or a .keras file")
    given("--cache", default=Settings.cache, help="folder where the teacher's embeddings are kept (default %(default)s)")
    given("--consistent-teacher", action="store_true", help="the teacher sees the student's own views: slower, and better with patience")
    given("--mix", type=float, default=Settings.mix, help="share of views that blend two faces, with a consistent teacher")
    given("--init", default=Settings.init, help="run, bundle or .keras file to start from, or random (default)")
    given("--freeze", help="fix the first layers: a share like 80%%, or the name of the last fixed one")
    given("--architecture", choices=sorted(encoders.FAMILIES), default=Settings.architecture, help="of a random start")
    given("--width", type=float, default=Settings.width, help="of a random start (default %(default)s)")
    given("--activation", choices=sorted(encoders.ACTIVATIONS), default=Settings.activation, help="of a random start (default %(default)s)")
    given("--dimension", type=int, default=Settings.dimension, help="of a random start's embedding (default %(default)s)")
    given("--size", type=int, default=Settings.size, help="of a view in pixels (default %(default)s)")
    given("--area", type=float, default=Settings.area, help="least share of the crop in a view (default %(default)s)")
    given("--rotation", type=float, default=Settings.rotation, help="most degrees a view is turned (default %(default)s)")
    given("--strength", type=float, default=Settings.strength, help="of the colour jitter (default %(default)s)")
    given("--erase", type=float, default=Settings.erase, help="probability of a covered box (default %(default)s)")
    given("--margin", type=float, help="of contrastive, triplet, quadruplet or arcface (default: the paper's)")
    given("--mining", choices=objectives.MINING, help="of triplet (default: its own)")
    given("--people", type=int, default=Settings.people, help="in a batch of pairs or triplets (default %(default)s)")
    given("--pictures", type=int, default=Settings.pictures, help="of each of them (default %(default)s)")
    given("--steps", type=int, help="of an epoch (default: all crops once); with few crops an epoch is over in a moment")
    given("--rate", type=float, default=Settings.rate, help="learning rate of AdamW (default %(default)s)")
    watch.add_arguments(result)
    return result


def _main(args: argparse.Namespace) -> int:
    if args.resume is None and not args.crops:
        raise InputError("no crops are named", "add --crops with folders or zips of aligned faces")
    print(finetune(*runs.asked(args, Settings), resume=args.resume is not None).encoder)
    return 0


def main(argv: list[str] | None = None) -> int:
    return run(_main, parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
