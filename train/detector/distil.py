"""Train the face detector: it learns YuNet's faces and landmarks in photos that nobody labelled.

  python train/detector/distil.py --photos wild.zip --empty noface.zip --without noface_test.txt --teacher yunet.onnx --out runs/detector
  python train/detector/distil.py --resume runs/detector

The run folder then holds detector.keras, the settings and the figures of every epoch, measured on a tenth of the photos that
is kept back for it. The teacher's answers are kept in --cache.
"""

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import tensorflow as tf
import tf_keras as keras

from device import faces
from device.program import InputError, Parser, run
from train import data, encoders, runs
from train.detector import losses, network, photos, scenes
from train.detector.agreement import agreement
from train.detector.scenes import Sources
from train.detector.teacher import Faces, Teacher

KEPT = "detector.keras"
SEEN = 3  # epochs that see a scene, each time varied
SCORE = 0.5  # from which a detection counts in the figures of an epoch


Scenes = tuple[np.ndarray, np.ndarray, np.ndarray]  # pictures, rows, kinds, as scenes.batch gives them


@dataclass(frozen=True)
class Settings:
    """One training. Scenes are `height` x `width`; an epoch has `scenes` of them, each seen once."""

    photos: tuple[str, ...]
    teacher: str
    empty: tuple[str, ...] = ()
    crops: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    init: str | None = None
    crops_every: int = 8
    cache: str = "runs/teacher"
    height: int = 240
    width: int = 320
    scenes: int = 4096
    batch: int = 16
    epochs: int = 100
    rate: float = 2e-3
    warmup: float = 0.02
    weight_decay: float = 1e-4
    precision: str = "float32"
    seed: int = 0
    save_every: float = runs.SAVE_EVERY

    def __post_init__(self) -> None:
        for name in ("scenes", "batch", "epochs", "rate", "crops_every"):
            if not getattr(self, name) > 0:
                raise InputError(f"--{name.replace('_', '-')} is {getattr(self, name)}", "give a number above 0")
        if self.scenes < self.batch:
            raise InputError(f"{self.scenes} scenes do not fill a batch of {self.batch}", "lower --batch, or give more --scenes")


class Detector(keras.Model):
    """A network and its loss; a batch is pictures uint8 [B, H, W, 3], rows float32 [B, M, 15] and kinds int32 [B, M]."""

    def __init__(self, net: keras.Model):
        super().__init__(name="detector")
        self.net = net
        self.means = {name: keras.metrics.Mean(name) for name in ("loss", "heat", "box", "landmarks")}

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        return list(self.means.values())

    def train_step(self, batch: tuple[tf.Tensor, tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
        pictures, rows, kinds = batch
        with tf.GradientTape() as tape:
            loss, told = losses.total(self.net(encoders.scale(pictures), training=True), rows, kinds)
        variables = self.net.trainable_variables
        self.optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        for name, value in {"loss": loss, **told}.items():
            self.means[name].update_state(value)
        return {name: mean.result() for name, mean in self.means.items()}


@dataclass(frozen=True)
class Material:
    """What a run learns from, and what is kept back to judge it by: photos with faces, photos without people."""

    sources: Sources
    judged: Sequence[photos.Photo]
    empty: Sequence[photos.Photo]


def material(settings: Settings) -> Material:
    """Read the photos, and have the teacher look at them. Raises InputError for what is not there or cannot be read."""
    without: set[str] = set().union(*(data.read_list(Path(path)) for path in settings.without))
    teacher, cache = Teacher(Path(settings.teacher)), Path(settings.cache)
    shown = photos.read(map(Path, settings.photos), without)
    with_faces, judged = photos.kept_back(photos.taught(shown, teacher, cache))
    nobody, judged_empty = photos.kept_back(photos.empty(photos.read(map(Path, settings.empty), without)))
    crops = photos.taught(photos.read(map(Path, settings.crops), without, settings.crops_every), teacher, cache)
    sources = Sources(with_faces, nobody + photos.empty(photos.packaged()), [crop for crop in crops if crop.faces.sure.any()])
    return Material(sources, judged, judged_empty)


class Composer:
    """Scenes of an epoch, made in a thread while the epoch before is learnt: a part is new, the others are varied again.

    A thread, and no function within tf.data, which waits for the interpreter that waits for it. All epochs share their variables,
    because a dataset keeps what it captures for ever.
    """

    def __init__(self, sources: Sources, settings: Settings):
        self._sources, self._settings = sources, settings
        self._pool = ThreadPoolExecutor(1)
        self._ahead: dict[int, Future] = {}
        self._parts: dict[int, Scenes] = {}
        self._shown: tuple[tf.Variable, ...] = ()

    def batches(self, epoch: int) -> tf.data.Dataset:
        """Deterministic in `epoch`; of one dataset at a time."""
        made = (self._ahead.pop(epoch, None) or self._begin(epoch)).result()
        if epoch + 1 < self._settings.epochs:
            self._ahead[epoch + 1] = self._begin(epoch + 1)
        if self._shown:
            for variable, array in zip(self._shown, made, strict=True):
                variable.assign(array)
        else:
            self._shown = tuple(tf.Variable(array, trainable=False) for array in made)
        rows = tf.data.Dataset.range(self._settings.scenes).batch(self._settings.batch, drop_remainder=True)
        return rows.map(lambda index: tuple(tf.gather(variable, index) for variable in self._shown)).prefetch(2)

    def _begin(self, epoch: int) -> Future:
        return self._pool.submit(self._made, epoch)

    def _made(self, epoch: int) -> Scenes:
        given, numbers = self._settings, range(epoch, epoch + SEEN)
        counts = np.diff(np.linspace(0, given.scenes, SEEN + 1).astype(int))
        self._parts = {
            number: self._parts.get(number)
            or scenes.batch(self._sources, (given.seed, number), counts[number % SEEN], given.height, given.width)
            for number in numbers
        }
        pictures, rows, kinds = (np.concatenate(arrays) for arrays in zip(*self._parts.values(), strict=True))
        return scenes.varied(pictures, rows, kinds, (given.seed, epoch, 1))


def judge(net: keras.Model, given: Material, score: float = SCORE) -> dict[str, float]:
    """Recall and landmark error (a share of the distance between the eyes) on photos kept back, and false detections a photo."""
    height, width = net.input_shape[1:3]
    judged = [framed(photo, height, width) for photo in given.judged]
    found = detect(net, [picture for picture, _ in judged], score)
    agreed = agreement(zip(found, (seen for _, seen in judged), strict=True))
    nobody = detect(net, [framed(photo, height, width)[0] for photo in given.empty], score)
    return {
        "recall": agreed.recall,
        "landmark_error": agreed.landmarks,
        "false": agreed.false / max(agreed.photos, 1),
        "false_empty": sum(map(len, nobody)) / max(len(nobody), 1),
    }


def framed(photo: photos.Photo, height: int, width: int) -> tuple[np.ndarray, Faces]:
    """The photo as the device shows it to the network, uint8 RGB [height, width, 3], and its faces there; small ones are doubts."""
    picture, scale = faces.framed(photo.image, height, width)
    rows = scenes.moved(photo.faces.rows, np.diag([scale, scale, 1.0])[:2])
    large = np.sqrt(rows[:, 2] * rows[:, 3]) >= scenes.SMALLEST
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), Faces(rows, photo.faces.sure & large)


def detect(net: keras.Model, pictures: Sequence[np.ndarray], score: float, batch: int = 16) -> list[np.ndarray]:
    """The rows [N, 15] of each picture uint8 RGB of the network's size."""
    return [rows for start in range(0, len(pictures), batch) for rows in _decoded(net, np.stack(pictures[start : start + batch]), score)]


def _decoded(net: keras.Model, pictures: np.ndarray, score: float) -> list[np.ndarray]:
    told = network.maps(net, pictures)
    return [faces.decode({stride: (heat[n], far[n]) for stride, (heat, far) in told.items()}, score) for n in range(len(pictures))]


def build(settings: Settings) -> Detector:
    """The detector from random weights, or those of the run `settings.init`, its optimiser set."""
    with encoders.precision(settings.precision):
        model = Detector(network.build(settings.height, settings.width))
    if settings.init is not None:
        model.net.set_weights(network.load(str(runs.Run.open(Path(settings.init)).path / KEPT)).get_weights())
    steps = settings.epochs * (settings.scenes // settings.batch)
    rate = runs.Cosine(settings.rate, steps, int(settings.warmup * steps))
    model.compile(optimizer=keras.optimizers.AdamW(rate, weight_decay=settings.weight_decay, global_clipnorm=10.0))
    return model


def distil(settings: Settings, out: Path, resume: bool = False) -> runs.Run:
    """Train to the last epoch in the run folder `out`, which is new, or with `resume` goes on from its newest checkpoint.

    Nothing is written there before the photos are read and the model is built.
    """
    if not resume:
        runs.check_free(out)
    cv2.setNumThreads(1)  # the network wants the cores
    keras.utils.set_random_seed(settings.seed)
    given, model = material(settings), build(settings)
    run_ = runs.Run.open(out) if resume else runs.Run.create(out, settings)
    counts = f"{len(given.sources.photos)} photos with faces, {len(given.sources.empty)} without, {len(given.sources.crops)} crops"
    print(f"{counts}; {len(given.judged) + len(given.empty)} kept back", file=sys.stderr)

    def finish(figures: dict[str, float]) -> tuple[keras.Model, dict[str, float]]:
        net = network.sized(model.net, settings.height, settings.width)
        return net, figures | judge(net, given)

    composer = Composer(given.sources, settings)
    optimizers = {"optimizer": model.optimizer}
    runs.train(run_, model, optimizers, settings.epochs, settings.batch, composer.batches, finish, KEPT, settings.save_every)
    return run_


def parser() -> Parser:
    result = Parser(__doc__)
    runs.add_arguments(result, Settings)
    given = result.add_argument
    given("--photos", nargs="+", default=(), help="folders or zips of photos with faces of all sizes")
    given("--teacher", help="YuNet's ONNX file")
    given("--empty", nargs="+", default=(), help="folders or zips of photos without people")
    given("--crops", nargs="+", default=(), help="folders or zips of close crops of faces")
    given("--without", nargs="+", default=(), help="text files of photos and crops to leave out, one name a line")
    given("--init", help="run to start from; default: random weights")
    given("--crops-every", type=int, default=Settings.crops_every, help="take every N-th crop (default %(default)s)")
    given("--cache", default=Settings.cache, help="folder where the teacher's answers are kept (default %(default)s)")
    given("--height", type=int, default=Settings.height, help="of a scene in pixels (default %(default)s)")
    given("--width", type=int, default=Settings.width, help="of a scene in pixels (default %(default)s)")
    given("--scenes", type=int, default=Settings.scenes, help="of an epoch (default %(default)s)")
    given("--rate", type=float, default=Settings.rate, help="learning rate of AdamW (default %(default)s)")
    return result


def _main(args: argparse.Namespace) -> int:
    if args.resume is None and not (args.photos and args.teacher):
        raise InputError("there are no photos, or nobody to learn from", "name them with --photos and --teacher")
    print(distil(*runs.asked(args, Settings), resume=args.resume is not None).path / KEPT)
    return 0


def main(argv: list[str] | None = None) -> int:
    return run(_main, parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
