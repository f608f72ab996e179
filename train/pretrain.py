"""Pretrain an encoder on crops without labels (SimSiam).

  python train/pretrain.py --crops photos.zip crops/ --out runs/first
  python train/pretrain.py --resume runs/first

The run folder then holds encoder.keras, the settings and the figures of every epoch.
"""

import argparse
import math
import sys
import time
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import tensorflow as tf
import tf_keras as keras

from device.program import InputError, OmokageError, Parser, StoredError, run
from train import data, encoders, probes, runs
from train.methods.simsiam import SimSiam
from train.views import Views, pairs

WHITENING_CROPS = 6000
PROBE_CROPS = 2000  # how many training crops the effective rank is taken over


@dataclass(frozen=True)
class Settings:
    """One pretraining. The rates are the paper's (arXiv:2011.10566, section 4): SGD, 0.05 x batch / 256, cosine, momentum 0.9."""

    crops: tuple[str, ...]
    without: str | None = None
    limit: int | None = None
    init: str | None = None
    architecture: str = "fused"
    dimension: int = 128
    projection: int = 512
    size: int = 112
    area: float = Views.area[0]
    strength: float = Views.strength
    batch: int = 256
    epochs: int = 100
    rate: float = 0.05
    warmup: float = 0.0
    weight_decay: float = 1e-4
    momentum: float = 0.9
    precision: str = "float32"
    seed: int = 0
    probe_crops: str | None = None
    probe_pairs: str | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "rate", "size", "projection", "dimension"):
            if not getattr(self, name) > 0:
                raise InputError(f"--{name} is {getattr(self, name)}", "give a number above 0")
        if self.batch < 2:
            raise InputError("a batch of one has no spread to normalise by", "give --batch 2 or more")


class Cosine(keras.optimizers.schedules.LearningRateSchedule):
    """From `rate` to 0 over `steps` along half a cosine, after a linear rise over `warmup` steps."""

    def __init__(self, rate: float, steps: int, warmup: int = 0):
        self.rate, self.steps, self.warmup = rate, steps, warmup

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        step = tf.cast(step, tf.float32)
        rising = step / max(self.warmup, 1)
        falling = 0.5 * (1 + tf.cos(math.pi * tf.clip_by_value((step - self.warmup) / max(self.steps - self.warmup, 1), 0.0, 1.0)))
        return self.rate * tf.where(step < self.warmup, rising, falling)

    def get_config(self) -> dict:
        return {"rate": self.rate, "steps": self.steps, "warmup": self.warmup}


def build(settings: Settings, steps: int) -> SimSiam:
    """The model to train, with its optimisers, from random weights or from the run `settings.init`."""
    model = _resized(restored(runs.Run.open(Path(settings.init))), settings) if settings.init else _new(settings)
    rate = settings.rate * settings.batch / 256
    model.compile(
        optimizer=keras.optimizers.SGD(Cosine(rate, steps, int(settings.warmup * steps)), momentum=settings.momentum),
        predictor_optimizer=keras.optimizers.SGD(rate, momentum=settings.momentum),
    )
    return model


def restored(source: runs.Run) -> SimSiam:
    """The model of a run as its newest checkpoint has it, without optimisers. Raises InputError if there is none."""
    model = _new(settings_of(source))
    latest = tf.train.latest_checkpoint(str(source.path / "checkpoints"))
    if latest is None:
        raise InputError(f"{source.path} holds no checkpoint", "name a run that finished an epoch")
    tf.train.Checkpoint(model=model).restore(latest).expect_partial()
    return model


def _new(settings: Settings) -> SimSiam:
    encoder = encoders.build(settings.architecture, size=settings.size, dimension=settings.dimension)
    return SimSiam(encoder, settings.projection, settings.weight_decay)


def _resized(model: SimSiam, settings: Settings) -> SimSiam:
    """The same model, its encoder for the size of `settings`."""
    resized = SimSiam(encoders.resized(model.encoder, settings.size), model.projector.output_shape[-1], settings.weight_decay)
    resized.projector.set_weights(model.projector.get_weights())
    resized.predictor.set_weights(model.predictor.get_weights())
    return resized


def settings_of(source: runs.Run) -> Settings:
    """The settings that a run was started with. Raises StoredError if they are not of this program."""
    try:
        return Settings(**{**source.config, "crops": tuple(source.config["crops"])})
    except (TypeError, KeyError) as error:
        raise StoredError(f"{source.path / 'config.json'} is not of this program ({error})", "start a new run") from error


def pretrain(settings: Settings, out: Path, resume: bool = False) -> runs.Run:
    """Train to the last epoch in the run folder `out`, which is new, or with `resume` goes on from its newest checkpoint.

    Nothing is written before the crops are read and the model is built.
    """
    if not resume:
        runs.check_free(out)
    if settings.init is not None:  # a model keeps its shape
        then = settings_of(runs.Run.open(Path(settings.init)))
        settings = replace(settings, architecture=then.architecture, dimension=then.dimension, projection=then.projection)
    keras.utils.set_random_seed(settings.seed)
    without = data.read_list(Path(settings.without)) if settings.without else set()
    crops = data.read_crops([Path(p) for p in settings.crops], without)
    images = crops.images[: settings.limit]
    probe = None
    if settings.probe_crops and settings.probe_pairs:
        probe = probes.VerificationProbe.read(Path(settings.probe_crops), Path(settings.probe_pairs))
    views = Views(size=settings.size, area=(settings.area, 1.0), strength=settings.strength)
    tensor = tf.convert_to_tensor(images)
    pairs(tensor, views, settings.batch, settings.seed, epoch=0)  # too few crops: said before anything is written
    steps = len(images) // settings.batch
    with encoders.precision(settings.precision):
        model = build(settings, steps * settings.epochs)
    run_ = runs.Run.open(out) if resume else runs.Run.create(out, settings)
    done = tf.Variable(0, dtype=tf.int64)
    checkpoint = tf.train.Checkpoint(model=model, optimizer=model.optimizer, predictor_optimizer=model.predictor_optimizer, epoch=done)
    manager = tf.train.CheckpointManager(checkpoint, str(run_.path / "checkpoints"), max_to_keep=1)
    if manager.latest_checkpoint:
        checkpoint.restore(manager.latest_checkpoint)
    print(f"{len(images)} crops, {steps} steps an epoch, epochs {int(done) + 1} to {settings.epochs}", file=sys.stderr)
    for epoch in range(int(done), settings.epochs):
        figures = _epoch(model, pairs(tensor, views, settings.batch, settings.seed, epoch), settings, epoch)
        encoder = encoders.resized(model.encoder, settings.size)  # in float32, whatever the training's precision
        encoder = encoders.whitened(encoder, images[:: max(len(images) // WHITENING_CROPS, 1)])
        figures |= _probed(encoder, images, probe)
        done.assign(epoch + 1)
        manager.save()
        run_.save_encoder(encoder)
        run_.log(epoch=epoch + 1, **figures)
        print(_line(epoch, settings.epochs, figures), file=sys.stderr)
    return run_


def _epoch(model: SimSiam, dataset: tf.data.Dataset, settings: Settings, epoch: int) -> dict[str, float]:
    """Train one epoch; returns its figures. Raises OmokageError where the loss is no number any more."""
    start = time.monotonic()
    progress = runs.Progress(epoch, settings.epochs, settings.batch)
    history = model.fit(dataset, initial_epoch=epoch, epochs=epoch + 1, verbose=0, callbacks=[progress]).history
    figures = {name: values[-1] for name, values in history.items()}
    if not math.isfinite(figures["loss"]):
        raise OmokageError(f"the loss is {figures['loss']} in epoch {epoch + 1}", "lower --rate; the run keeps the epoch before")
    speed = len(dataset) * settings.batch / (time.monotonic() - start)
    return figures | {"std_healthy": 1 / math.sqrt(settings.projection), "images_per_second": speed}


def _probed(encoder: keras.Model, images: np.ndarray, probe: probes.VerificationProbe | None) -> dict[str, float]:
    figures = {"effective_rank": probes.effective_rank(encoders.embed(encoder, images[:PROBE_CROPS]))}
    if probe is not None:
        figures |= probe(lambda crops: encoders.embed(encoder, crops))
    return figures


def _line(epoch: int, epochs: int, figures: dict[str, float]) -> str:
    parts = [
        f"epoch {epoch + 1}/{epochs}",
        f"loss {figures['loss']:.4f}",
        f"std {figures['std']:.4f} (healthy {figures['std_healthy']:.4f}, collapsed 0)",
        f"rank {figures['effective_rank']:.1f}",
        f"{figures['images_per_second']:.0f} images/s",
    ]
    if "accuracy" in figures:
        parts.append(f"probe {figures['accuracy']:.2%}, auc {figures['auc']:.4f}")
    if figures["std"] < figures["std_healthy"] / 4:
        parts.append("COLLAPSING: all embeddings become equal; lower --rate")
    return ", ".join(parts)


def parser() -> Parser:
    result = Parser(__doc__)
    where = result.add_mutually_exclusive_group(required=True)
    where.add_argument("--out", type=Path, help="folder of a new run")
    where.add_argument("--resume", type=Path, help="run folder to go on with; its own settings apply")
    result.add_argument("--crops", nargs="+", default=(), help="folders or zips of crops")
    result.add_argument("--without", help="text file of crops to leave out, one name a line")
    result.add_argument("--limit", type=int, help="use the first N crops only")
    result.add_argument("--init", help="start from this run's weights and shape, at another size if you like")
    result.add_argument("--architecture", choices=sorted(encoders.FAMILIES), default=Settings.architecture)
    result.add_argument("--dimension", type=int, default=Settings.dimension, help="of the embedding (default %(default)s)")
    result.add_argument("--projection", type=int, default=Settings.projection, help="width of the projector (default %(default)s)")
    result.add_argument("--size", type=int, default=Settings.size, help="of a view in pixels (default %(default)s)")
    result.add_argument("--area", type=float, default=Settings.area, help="least share of the crop in a view (default %(default)s)")
    result.add_argument("--strength", type=float, default=Settings.strength, help="of the colour jitter (default %(default)s)")
    result.add_argument("--batch", type=int, default=Settings.batch, help="(default %(default)s)")
    result.add_argument("--epochs", type=int, default=Settings.epochs, help="(default %(default)s)")
    result.add_argument("--rate", type=float, default=Settings.rate, help="learning rate for a batch of 256 (default %(default)s)")
    result.add_argument("--warmup", type=float, default=Settings.warmup, help="share of all steps over which the rate rises")
    result.add_argument("--weight-decay", type=float, default=Settings.weight_decay, help="(default %(default)s)")
    result.add_argument("--momentum", type=float, default=Settings.momentum, help="(default %(default)s)")
    result.add_argument("--precision", choices=("float32", "mixed_bfloat16"), default=Settings.precision)
    result.add_argument("--seed", type=int, default=Settings.seed)
    result.add_argument("--probe-crops", help="LFW crops, for a verification probe after each epoch")
    result.add_argument("--probe-pairs", help="its pairsDevTest.txt")
    return result


def _main(args: argparse.Namespace) -> int:
    if args.resume is not None:
        settings, out = settings_of(runs.Run.open(args.resume)), args.resume
    else:
        if not args.crops:
            raise InputError("no crops are named", "add --crops with folders or zips of aligned faces")
        given = {field.name: getattr(args, field.name) for field in fields(Settings)}
        settings, out = Settings(**{**given, "crops": tuple(args.crops)}), args.out
    print(pretrain(settings, out, resume=args.resume is not None).encoder)
    return 0


def main(argv: list[str] | None = None) -> int:
    return run(_main, parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
