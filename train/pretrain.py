"""Pretrain an encoder on crops without labels: SimSiam, or one of its siblings.

  python train/pretrain.py --crops photos.zip crops/ --out runs/first
  python train/pretrain.py --crops photos.zip crops/ --out runs/second --method simclr --views face
  python train/pretrain.py --resume runs/first

The run folder then holds encoder.keras, the settings and the figures of every epoch.
"""

import argparse
import math
import sys
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tensorflow as tf
import tf_keras as keras

from device.program import InputError, Parser, replacing, run
from train import data, devices, encoders, runs, watch
from train.methods import METHODS, OPTIONS, Method, Options, options
from train.views import PRESETS, WHOLE, Views, pairs, sheet

WHITENING_CROPS = 6000
PREVIEWED = 36  # crops on a preview
# What of a preset can be set alone.
OF_VIEWS = ("area", "flip", "strength", "grey", "blur", "rotation", "shear", "shift", "coarse", "erase")


@dataclass(frozen=True)
class Settings:
    """One pretraining. What the method knows (rate, projection, temperature ...) and what the views' preset says may be None: its own
    figure then takes the place of the None, so that a run's settings tell all that it was made with."""

    crops: tuple[str, ...]
    method: str = "simsiam"
    without: str | None = None
    limit: int | None = None
    init: str | None = None
    architecture: str = "fused"
    width: float = 1.0
    dimension: int = 128
    size: int = 112
    views: str = "simsiam"
    area: float | None = None
    flip: float | None = None
    strength: float | None = None
    grey: float | None = None
    blur: float | None = None
    rotation: float | None = None
    shear: float | None = None
    shift: float | None = None
    coarse: float | None = None
    erase: float | None = None
    batch: int | None = None
    accumulate: int = 1
    epochs: int = 100
    warmup: float = 0.0
    rate: float | None = None
    weight_decay: float | None = None
    momentum: float | None = None
    projection: int | None = None
    hidden: int | None = None
    temperature: float | None = None
    target_momentum: float | None = None
    queue: int | None = None
    prototypes: int | None = None
    epsilon: float | None = None
    stop_gradient: bool | None = None
    predictor: bool | None = None
    precision: str = "auto"
    strategy: str = "auto"
    seed: int = 0
    save_every: float = runs.SAVE_EVERY
    on_collapse: str = "stop"
    probe_every: int = 1
    probe_crops: str | None = None
    probe_pairs: str | None = None
    knn_crops: str | None = None
    knn_labels: str | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "accumulate", "size", "dimension", "width"):
            if not getattr(self, name) > 0:
                raise InputError(f"--{name} is {getattr(self, name)}", "give a number above 0")
        if self.batch is not None and self.batch < 2 * self.accumulate:
            raise InputError("a batch of one has no spread to normalise by", f"give --batch {2 * self.accumulate} or more")
        if self.batch is not None and self.batch % self.accumulate:
            raise InputError(f"a batch of {self.batch} has no {self.accumulate} equal parts", "choose another --accumulate")
        if self.views not in PRESETS:
            raise InputError(f"no views are called {self.views}", f"choose one of {', '.join(PRESETS)}")
        drawn = asdict(self.drawn())
        taken = asdict(self.options()) | {name: drawn[name] for name in OF_VIEWS} | {"area": drawn["area"][0]}
        for name, value in taken.items():
            object.__setattr__(self, name, value)

    def options(self) -> Options:
        """The method's options."""
        return options(self.method, {name: getattr(self, name) for name in OPTIONS})

    def drawn(self) -> Views:
        """How the views are drawn."""
        given = {name: getattr(self, name) for name in OF_VIEWS if getattr(self, name) is not None}
        area = {"area": (given["area"], 1.0)} if "area" in given else {}
        return replace(PRESETS[self.views], size=self.size, **given | area)


def build(settings: Settings, steps: int) -> Method:
    """The model to train, with its optimisers, from random weights or from the run `settings.init`."""
    model = _new(settings)
    if settings.init is not None:
        source = restored(runs.Run.open(Path(settings.init)))
        model.begin_at(source, encoders.resized(source.encoder, settings.size))
    assert settings.batch is not None
    model.ready(settings.batch, steps, int(settings.warmup * steps), settings.accumulate)
    return model


def restored(source: runs.Run) -> Method:
    """The model of a run as its newest checkpoint has it, without optimisers. Raises InputError if there is none."""
    model = _new(source.settings(Settings))
    latest = tf.train.latest_checkpoint(str(source.path / "checkpoints"))
    if latest is None:
        raise InputError(f"{source.path} holds no checkpoint", "name a run that finished an epoch")
    tf.train.Checkpoint(model=model).restore(latest).expect_partial()
    return model


def _new(settings: Settings) -> Method:
    encoder = encoders.build(settings.architecture, size=settings.size, dimension=settings.dimension, width=settings.width)
    return METHODS[settings.method](encoder, settings.options())


def _shaped(settings: Settings) -> Settings:
    """The settings with the encoder's shape, and of the same method the heads', of the run that they begin at."""
    if settings.init is None:
        return settings
    then = runs.Run.open(Path(settings.init)).settings(Settings)
    heads: dict[str, Any] = {}
    if then.method == settings.method:
        heads = {"projection": then.projection, "hidden": then.hidden, "prototypes": then.prototypes}
    return replace(settings, architecture=then.architecture, width=then.width, dimension=then.dimension, **heads)


def pretrain(settings: Settings, out: Path, resume: bool = False) -> runs.Run:
    """Train to the last epoch in the run folder `out`, which is new, or with `resume` goes on from its newest checkpoint.

    Nothing is written before the crops are read and the model is built.
    """
    if not resume:
        runs.check_free(out)
    strategy = devices.strategy(settings.strategy)  # first: it decides how TensorFlow begins
    settings = _placed(_shaped(settings), strategy)
    assert settings.batch is not None
    keras.utils.set_random_seed(settings.seed)
    images = _crops(settings)
    views = settings.drawn()
    probes = watch.Probes(settings, images, views)
    with tf.device("CPU"):
        tensor = tf.convert_to_tensor(images)
    share = devices.share(strategy, settings.batch)
    batches = partial(pairs, tensor, views, settings.batch, settings.seed, share=share)
    batches(epoch=0)  # too few crops: said before anything is written
    steps = len(images) // settings.batch
    with encoders.precision(settings.precision):
        model = devices.replicated(strategy, partial(build, settings, steps * settings.epochs))
    print(f"{devices.told(strategy, settings.precision)}, batch {settings.batch}", file=sys.stderr)
    print(f"{len(images)} crops, {steps} steps an epoch", file=sys.stderr)

    def finish(figures: dict[str, float]) -> tuple[keras.Model, dict[str, float]]:
        plain = encoders.resized(model.encoder, settings.size)  # in float32, whatever the training's precision
        encoder = encoders.whitened(plain, images[:: max(len(images) // WHITENING_CROPS, 1)])
        figures["std_healthy"] = model.healthy_std
        return encoder, figures | probes(int(figures["epoch"]), encoder, plain)

    with devices.folder(strategy, out) as own:
        run_ = runs.Run.open(own) if resume else runs.Run.create(own, settings)
        runs.train(
            run_,
            model,
            model.optimizers,
            settings.epochs,
            settings.batch,
            lambda epoch: batches(epoch=epoch),
            finish,
            save_every=settings.save_every if share == WHOLE else math.inf,  # machines that save must do so at the same step
            on_collapse=settings.on_collapse,
        )
    return runs.Run(out, run_.config)


def _placed(settings: Settings, strategy: tf.distribute.Strategy) -> Settings:
    """The settings with the precision and the batch that the device asks for where none is named."""
    if settings.accumulate > 1 and strategy.num_replicas_in_sync > 1:
        raise InputError("several replicas accumulate nothing", "leave --accumulate out")
    precision = devices.precision(settings.precision)
    if settings.batch is None:
        number = 4 if precision == "float32" else 2  # bytes
        each = devices.batch(_new(settings).encoder, number)
        settings = replace(settings, batch=min(devices.MOST, each * settings.accumulate * strategy.num_replicas_in_sync))
    return replace(settings, precision=precision)


def parser() -> Parser:
    result = Parser(__doc__)
    where = runs.add_arguments(result, Settings, devices.PRECISIONS)
    where.add_argument("--preview", type=Path, metavar="PNG", help="train nothing: draw crops with their two views, and look")
    _device_arguments(result)
    result.add_argument("--crops", nargs="+", default=(), help="folders or zips of crops")
    result.add_argument("--without", help="text file of crops to leave out, one name a line")
    result.add_argument("--limit", type=int, help="use the first N crops only")
    result.add_argument("--init", help="start from this run's weights and shape, at another size if you like")
    result.add_argument("--architecture", choices=sorted(encoders.FAMILIES), default=Settings.architecture)
    result.add_argument("--width", type=float, default=Settings.width, help="of the encoder's layers (default %(default)s)")
    result.add_argument("--dimension", type=int, default=Settings.dimension, help="of the embedding (default %(default)s)")
    result.add_argument("--size", type=int, default=Settings.size, help="of a view in pixels (default %(default)s)")
    _method_arguments(result)
    _view_arguments(result)
    on_collapse = "what to do when all embeddings become equal (default stop)"
    result.add_argument("--on-collapse", choices=("stop", "warn"), default=argparse.SUPPRESS, help=on_collapse)
    watch.add_arguments(result)
    return result


def _device_arguments(parser: Parser) -> None:
    given = parser.add_argument_group("the devices").add_argument
    given("--accumulate", type=int, default=Settings.accumulate, help="take a batch in so many parts, for its memory (default %(default)s)")
    given("--strategy", choices=devices.STRATEGIES, default=argparse.SUPPRESS, help="how several devices train together (default auto)")


def _method_arguments(parser: Parser) -> None:
    group = parser.add_argument_group("the method", "Each has its paper's figures by default, and refuses options that it does not have.")
    given = group.add_argument
    given("--method", choices=list(METHODS), default=Settings.method, help="(default %(default)s)")
    given("--rate", type=float, help="learning rate for a batch of 256")
    given("--momentum", type=float, help="of SGD")
    given("--projection", type=int, help="width of the projector's output; 0: no projector (not for simsiam)")
    given("--hidden", type=int, help="width of the hidden layer of projector and predictor (not of simsiam)")
    given("--temperature", type=float, help="of simclr, swav, moco")
    given("--target-momentum", type=float, help="share of the target that a step keeps, of byol (at first) and moco")
    given("--queue", type=int, help="how many negatives moco keeps")
    given("--prototypes", type=int, help="of swav")
    given("--epsilon", type=float, help="of swav's codes: smaller is sharper")
    off: dict[str, Any] = {"action": "store_const", "const": False}
    given("--no-stop-gradient", dest="stop_gradient", **off, help="simsiam lets the gradient through the target: it collapses")
    given("--no-predictor", dest="predictor", **off, help="simsiam compares the projections themselves: it collapses")


def _view_arguments(parser: Parser) -> None:
    group = parser.add_argument_group("the views", "What is not given is the preset's.")
    given = group.add_argument
    given("--views", choices=list(PRESETS), default=Settings.views, help="preset (default %(default)s)")
    given("--area", type=float, help="least share of the crop in a view")
    given("--flip", type=float, help="probability of a mirror image")
    given("--strength", type=float, help="of the colour jitter")
    given("--grey", type=float, help="probability of no colour")
    given("--blur", type=float, help="probability of a blur")
    given("--rotation", type=float, help="degrees to either side")
    given("--shear", type=float, help="to either side")
    given("--shift", type=float, help="share of the crop, to either side")
    given("--coarse", type=float, help="probability of a low resolution")
    given("--erase", type=float, help="probability of a box of one colour")


def preview(settings: Settings, path: Path) -> None:
    """A picture of some of the crops, evenly taken, with two views of each."""
    images = _crops(settings)
    drawn = sheet(images[:: -(-len(images) // PREVIEWED)], settings.drawn(), settings.seed)
    with replacing(path) as temporary:
        if not cv2.imwrite(str(temporary), cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR)):
            raise InputError(f"cannot write {path}", "name a file that ends in .png")


def _crops(settings: Settings) -> np.ndarray:
    """uint8 RGB [N, 112, 112, 3] to train on."""
    without = data.read_list(Path(settings.without)) if settings.without else set()
    return data.read_crops([Path(p) for p in settings.crops], without).images[: settings.limit]


def _main(args: argparse.Namespace) -> int:
    if args.resume is None and not args.crops:
        raise InputError("no crops are named", "add --crops with folders or zips of aligned faces")
    if args.preview is not None:
        preview(runs.asked(args, Settings)[0], args.preview)
        print(args.preview)
        return 0
    print(pretrain(*runs.asked(args, Settings), resume=args.resume is not None).encoder)
    return 0


def main(argv: list[str] | None = None) -> int:
    return run(_main, parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
