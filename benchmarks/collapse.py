"""Why SimSiam does not collapse: the same training without stop-gradient, without predictor, and with an average in its place.

  python benchmarks/collapse.py --data ../shared/data --out build/collapse

The same crops, order, views, seed and the paper's rate (arXiv:2011.10566) for every training. The closer all outputs are to each
other, the smaller the gradient that draws them on, and the more numbers an output has, the longer its way; so that it ends within
minutes, the encoder is a quarter wide, the crops have 32 pixels and the projections 64 numbers instead of 2048.

The first three are the paper's figure 2 and table 1, with the projector as its text has it: the authors' code takes scale and shift
from the last BatchNorm, and a constant output is then out of reach (train/methods/simsiam.py), which the fourth shows. The last is
the paper's check of section 5: no predictor, and as target the moving average of each picture's projections over the epochs. Then
the trained predictor is asked directly how close h(z) comes to the average of z over many views of the same picture.

A quarter of an hour on two cores; what is measured is not measured again. Writes collapse.json, collapse.md and collapse.png to
--out. Exit status 1 if SimSiam collapses, or if it does not without stop-gradient.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras
from matplotlib.figure import Figure
from small_scale import Results, crops, machine, table, tell

from device.demo import shared_data
from device.program import HOLDS_NOT, Parser, replacing, run
from train import encoders, probes, sampling
from train.data import read_crops, read_list
from train.methods.simsiam import Options, SimSiam, negative_cosine, projector
from train.views import PRESETS, Views, view

BATCH = 256
SIZE, WIDTH, PROJECTION = 32, 0.25, 64
EVERY = 50  # steps from one measurement to the next
KEPT = 0.8  # of the moving average at an update, section 5
VIEWS = 32  # of a picture, for the average that the predictor is compared with
HEALTHY, COLLAPSED = 0.5, 0.1  # of 1/sqrt(d)


BOTH, NO_STOP, NO_PREDICTOR, AUTHORS, AVERAGE = (
    "SimSiam",
    "without stop-gradient",
    "without predictor",
    "without stop-gradient, the authors' BatchNorm",
    "moving average instead of the predictor",
)
COLOURS = {BOTH: "black", NO_STOP: "tab:red", NO_PREDICTOR: "tab:orange", AUTHORS: "tab:pink", AVERAGE: "tab:blue"}


class OfText(SimSiam):
    """With scale and shift after the last BatchNorm, as the paper's text has it."""

    def make_projector(self, inputs: int) -> keras.Model:
        return projector(inputs, self.options.projection, affine=True)


class Averaged(OfText):
    """Section 5: no predictor; the target of a picture is the moving average `eta` of its unit projections."""

    def __init__(self, encoder: keras.Model, pictures: int):
        super().__init__(encoder, Options(projection=PROJECTION, predictor=False))
        self.eta = tf.Variable(tf.zeros((pictures, self.options.projection)), trainable=False)

    def compare(self, index: tf.Tensor, view1: tf.Tensor, view2: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        z1, z2 = self(view1, training=True), self(view2, training=True)  # [N, D]
        now = tf.stop_gradient(tf.math.l2_normalize(z2, axis=1))
        eta = tf.gather(self.eta, index)
        kept = tf.where(tf.reduce_any(eta != 0, axis=1, keepdims=True), KEPT, 0.0)  # at first a view is all there is
        eta = kept * eta + (1 - kept) * now
        self.eta.scatter_update(tf.IndexedSlices(eta, index))
        return negative_cosine(z1, eta), z1, z2


def made(name: str, encoder: keras.Model, pictures: int) -> SimSiam:
    """The model of a training, for so many pictures."""
    if name == AVERAGE:
        return Averaged(encoder, pictures)
    kind = SimSiam if name == AUTHORS else OfText
    stopped, predicted = name not in (NO_STOP, AUTHORS), name != NO_PREDICTOR
    return kind(encoder, Options(projection=PROJECTION, stop_gradient=stopped, predictor=predicted))


def trained(name: str, images: tf.Tensor, views: Views, steps: int, probe: probes.VerificationProbe) -> dict[str, Any]:
    """The curves of one training: std and its share of 1/sqrt(d), loss, LFW's development pairs, every EVERY steps; for SimSiam
    itself what its predictor does at the end."""
    keras.utils.set_random_seed(0)
    with encoders.precision("mixed_bfloat16"):
        model = made(name, encoders.build("fused", size=SIZE, width=WIDTH), len(images))
    model.ready(BATCH, steps)
    step = _step(model, images, views)
    found: dict[str, Any] = {"healthy": model.healthy_std, "curve": []}
    for number, index in enumerate(_order(len(images), steps)):
        if number % EVERY == 0 or number == steps - 1:
            model.reset_metrics()
        told = {key: float(value) for key, value in step(tf.constant(index), tf.constant([0, 2 * number])).items()}
        if number % EVERY == 0 or number == steps - 1:
            plain = encoders.resized(model.encoder, SIZE)  # in float32
            judged = probe(lambda some, plain=plain: encoders.embed(plain, some))
            rank = probes.effective_rank(encoders.embed(plain, images[:1000].numpy()))
            found["curve"].append({"step": number + 1, **told, "effective_rank": rank, **judged})
            print(f"{name}: {found['curve'][-1]}", file=sys.stderr)
    if name == BOTH:
        found["predictor"] = predictor_against_average(model, images, views)
    return found


def _order(pictures: int, steps: int) -> np.ndarray:
    """Rows [steps, BATCH]: all pictures once an epoch, in an order of its own."""
    epochs = -(-steps // (pictures // BATCH))
    return np.concatenate([sampling.random_batches(pictures, BATCH, 0, epoch) for epoch in range(epochs)])[:steps]


def _step(model: SimSiam, images: tf.Tensor, views: Views) -> Callable[[tf.Tensor, tf.Tensor], dict[str, tf.Tensor]]:
    @tf.function
    def step(index: tf.Tensor, seed: tf.Tensor) -> dict[str, tf.Tensor]:
        rows = tf.ensure_shape(tf.gather(images, index), (BATCH, *images.shape[1:]))
        two = view(rows, seed, views), view(rows, seed + tf.constant([0, 1]), views)
        return model.train_step((index, *two) if isinstance(model, Averaged) else two)

    return step


def predictor_against_average(model: SimSiam, images: tf.Tensor, views: Views) -> dict[str, float]:
    """Mean cosines with the average of z over VIEWS views of the same picture, of which the one that is compared is none.

    Section 5: the best h would give that average. `predictor` h(z), `projection` z itself, `moving average` of as many views as
    make up one that keeps KEPT of itself, and of two different pictures' averages `others`, as a floor.
    """
    rows = images[:BATCH]

    def projected(number: int) -> tf.Tensor:
        return tf.math.l2_normalize(model(view(rows, tf.constant([1, number]), views), training=True), axis=1)

    average = tf.add_n([projected(number) for number in range(VIEWS)])
    z = projected(VIEWS)
    moving = projected(VIEWS + 1)
    for number in range(VIEWS + 2, 2 * VIEWS):
        moving = KEPT * moving + (1 - KEPT) * projected(number)
    compared = {"predictor": model.predictor(z, training=True), "projection": z, "moving average": moving, "others": tf.roll(average, 1, 0)}
    return {name: -float(negative_cosine(tf.cast(rows, tf.float32), average)) for name, rows in compared.items()}


def markdown(results: Results, pictures: int, steps: int) -> str:
    rows = []
    for name, found in results.rows.items():
        last, least = found["curve"][-1], min(point["std"] for point in found["curve"])
        shares = [f"{value / found['healthy']:.1%}" for value in (last["std"], least)]
        figures = [f"{last['loss']:.3f}", f"{last['effective_rank']:.1f}", f"{last['accuracy']:.1%}", f"{last['auc']:.3f}"]
        rows.append((name, *shares, *figures))
    columns = ("training", "std at the end, of 1/sqrt(d)", "least", "loss", "effective rank", "LFW dev", "AUC")
    told = f"{pictures} crops of {SIZE} pixels, projections of {PROJECTION}, {steps} steps of {BATCH}, rate 0.05, seed 0."
    asked = [(name, f"{cosine:.3f}") for name, cosine in results.rows[BOTH]["predictor"].items()]
    compared = table((f"compared with the average over {VIEWS} views", "mean cosine"), asked)
    return f"{machine()}. {told}\n\n{table(columns, rows)}\n{compared}"


def drawn(results: Results, path: Path) -> None:
    figure = Figure(figsize=(10, 4), layout="constrained")
    std, probe = (figure.add_subplot(1, 2, place, xlabel="step") for place in (1, 2))
    std.set_title("std of unit projections, of 1/sqrt(d)")
    std.set_ylim(0, 1.05)
    std.axhline(HEALTHY, color="grey", linestyle=":")
    std.axhline(COLLAPSED, color="grey", linestyle=":")
    probe.set_title("LFW's development pairs, area under the ROC")
    for name, found in results.rows.items():
        at = [point["step"] for point in found["curve"]]
        std.plot(at, [point["std"] / found["healthy"] for point in found["curve"]], label=name, color=COLOURS[name])
        probe.plot(at, [point["auc"] for point in found["curve"]], color=COLOURS[name])
    figure.legend(loc="outside lower center", ncols=3)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def _main(args: argparse.Namespace) -> int:
    args.out.mkdir(parents=True, exist_ok=True)
    given = read_crops(map(Path, crops(args.data, ("celeba10k.zip",))), read_list(args.data / "crops" / "cohort.txt"))
    some = slice(None, None, max(len(given) // args.pictures, 1))
    images = tf.constant(given.images[some][: args.pictures])
    probe = probes.VerificationProbe.read(args.data / "lfw" / "crops.zip", args.data / "lfw" / "pairsDevTest.txt")
    views = Views(**{**vars(PRESETS["simsiam"]), "size": SIZE})
    results = Results(args.out / "collapse.json")
    for name in COLOURS:
        results.measure(name, lambda name=name: trained(name, images, views, args.steps, probe))
    drawn(results, args.out / "collapse.png")
    tell(markdown(results, len(images), args.steps), args.out / "collapse.md")
    least, collapsed = (min(p["std"] for p in results.rows[name]["curve"]) / results.rows[name]["healthy"] for name in (BOTH, NO_STOP))
    return 0 if least > HEALTHY and collapsed < COLLAPSED else HOLDS_NOT


def main(argv: list[str] | None = None) -> int:
    parser = Parser(__doc__)
    parser.add_argument("--data", type=Path, default=shared_data(), help="the shared data (default $OMOKAGE_DATA)")
    parser.add_argument("--out", type=Path, default=Path("build/collapse"), help="(default %(default)s)")
    parser.add_argument("--pictures", type=int, default=2048, help="how many crops (default %(default)s)")
    parser.add_argument("--steps", type=int, default=1500, help="of each training (default %(default)s)")
    return run(_main, parser, argv)


if __name__ == "__main__":
    sys.exit(main())
