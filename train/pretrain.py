"""Pretrain an encoder on crops without labels (SimSiam).

  python train/pretrain.py --crops photos.zip crops/ --out runs/first
  python train/pretrain.py --resume runs/first

The run folder then holds encoder.keras, the settings and the figures of every epoch.
"""

import argparse
import math
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import tensorflow as tf
import tf_keras as keras

from device.program import InputError, Parser, run
from train import data, encoders, probes, runs
from train.methods.simsiam import SimSiam
from train.views import Views, pairs

WHITENING_CROPS = 6000


@dataclass(frozen=True)
class Settings:
    """One pretraining. The rates are the paper's (arXiv:2011.10566, section 4): SGD, 0.05 x batch / 256, cosine, momentum 0.9."""

    crops: tuple[str, ...]
    without: str | None = None
    limit: int | None = None
    init: str | None = None
    architecture: str = "fused"
    width: float = 1.0
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
        for name in ("epochs", "batch", "rate", "size", "projection", "dimension", "width"):
            if not getattr(self, name) > 0:
                raise InputError(f"--{name} is {getattr(self, name)}", "give a number above 0")
        if self.batch < 2:
            raise InputError("a batch of one has no spread to normalise by", "give --batch 2 or more")


def build(settings: Settings, steps: int) -> SimSiam:
    """The model to train, with its optimisers, from random weights or from the run `settings.init`."""
    model = _resized(restored(runs.Run.open(Path(settings.init))), settings) if settings.init else _new(settings)
    rate = settings.rate * settings.batch / 256
    model.compile(
        optimizer=keras.optimizers.SGD(runs.Cosine(rate, steps, int(settings.warmup * steps)), momentum=settings.momentum),
        predictor_optimizer=keras.optimizers.SGD(rate, momentum=settings.momentum),
    )
    return model


def restored(source: runs.Run) -> SimSiam:
    """The model of a run as its newest checkpoint has it, without optimisers. Raises InputError if there is none."""
    model = _new(source.settings(Settings))
    latest = tf.train.latest_checkpoint(str(source.path / "checkpoints"))
    if latest is None:
        raise InputError(f"{source.path} holds no checkpoint", "name a run that finished an epoch")
    tf.train.Checkpoint(model=model).restore(latest).expect_partial()
    return model


def _new(settings: Settings) -> SimSiam:
    encoder = encoders.build(settings.architecture, size=settings.size, dimension=settings.dimension, width=settings.width)
    return SimSiam(encoder, settings.projection, settings.weight_decay)


def _resized(model: SimSiam, settings: Settings) -> SimSiam:
    """The same model, its encoder for the size of `settings`."""
    resized = SimSiam(encoders.resized(model.encoder, settings.size), model.projector.output_shape[-1], settings.weight_decay)
    resized.projector.set_weights(model.projector.get_weights())
    resized.predictor.set_weights(model.predictor.get_weights())
    return resized


def pretrain(settings: Settings, out: Path, resume: bool = False) -> runs.Run:
    """Train to the last epoch in the run folder `out`, which is new, or with `resume` goes on from its newest checkpoint.

    Nothing is written before the crops are read and the model is built.
    """
    if not resume:
        runs.check_free(out)
    if settings.init is not None:  # a model keeps its shape
        then = runs.Run.open(Path(settings.init)).settings(Settings)
        settings = replace(settings, architecture=then.architecture, width=then.width, dimension=then.dimension, projection=then.projection)
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
    print(f"{len(images)} crops, {steps} steps an epoch", file=sys.stderr)

    def finish(figures: dict[str, float]) -> tuple[keras.Model, dict[str, float]]:
        encoder = encoders.resized(model.encoder, settings.size)  # in float32, whatever the training's precision
        encoder = encoders.whitened(encoder, images[:: max(len(images) // WHITENING_CROPS, 1)])
        figures["std_healthy"] = 1 / math.sqrt(settings.projection)
        if figures["std"] < figures["std_healthy"] / 4:
            print("COLLAPSING: all embeddings become equal; lower --rate", file=sys.stderr)
        return encoder, figures | runs.probed(encoder, images, probe)

    optimizers = {"optimizer": model.optimizer, "predictor_optimizer": model.predictor_optimizer}
    runs.train(
        run_,
        model,
        optimizers,
        settings.epochs,
        settings.batch,
        lambda epoch: pairs(tensor, views, settings.batch, settings.seed, epoch),
        finish,
    )
    return run_


def parser() -> Parser:
    result = Parser(__doc__)
    runs.add_arguments(result, Settings)
    result.add_argument("--crops", nargs="+", default=(), help="folders or zips of crops")
    result.add_argument("--without", help="text file of crops to leave out, one name a line")
    result.add_argument("--limit", type=int, help="use the first N crops only")
    result.add_argument("--init", help="start from this run's weights and shape, at another size if you like")
    result.add_argument("--architecture", choices=sorted(encoders.FAMILIES), default=Settings.architecture)
    result.add_argument("--width", type=float, default=Settings.width, help="of the encoder's layers (default %(default)s)")
    result.add_argument("--dimension", type=int, default=Settings.dimension, help="of the embedding (default %(default)s)")
    result.add_argument("--projection", type=int, default=Settings.projection, help="width of the projector (default %(default)s)")
    result.add_argument("--size", type=int, default=Settings.size, help="of a view in pixels (default %(default)s)")
    result.add_argument("--area", type=float, default=Settings.area, help="least share of the crop in a view (default %(default)s)")
    result.add_argument("--strength", type=float, default=Settings.strength, help="of the colour jitter (default %(default)s)")
    result.add_argument("--rate", type=float, default=Settings.rate, help="learning rate for a batch of 256 (default %(default)s)")
    result.add_argument("--momentum", type=float, default=Settings.momentum, help="(default %(default)s)")
    result.add_argument("--probe-crops", help="LFW crops, for a verification probe after each epoch")
    result.add_argument("--probe-pairs", help="its pairsDevTest.txt")
    return result


def _main(args: argparse.Namespace) -> int:
    if args.resume is None and not args.crops:
        raise InputError("no crops are named", "add --crops with folders or zips of aligned faces")
    print(pretrain(*runs.asked(args, Settings), resume=args.resume is not None).encoder)
    return 0


def main(argv: list[str] | None = None) -> int:
    return run(_main, parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
