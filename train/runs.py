"""Run folders: what a training was told, what it measured, and where it can go on.

config.toml      the settings, as given
metrics.jsonl    one object an epoch
curves.png       the same, drawn
tensorboard/     the same, for TensorBoard
checkpoints/     everything that resuming needs
encoder.keras    the network after the last whole epoch (detector.keras: of train/detector)
log              what was said on stderr

docs/runs.md says how to read them.
"""

import argparse
import contextlib
import io
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TextIO, TypeVar

import tensorflow as tf
import tf_keras as keras
import tomlkit

from device.program import InputError, Parser, StoredError, replacing
from train import devices, watch
from train.checkpoints import Checkpoints, Keeper, Wish, writing

CONFIG = "config.toml"
METRICS = "metrics.jsonl"
ENCODER = "encoder.keras"
SAVE_EVERY = 5.0  # minutes
ANEW = ("save_every", "probe_every", "on_collapse", "strategy")  # settings that resuming may change: they do not touch what is learnt

T = TypeVar("T")


@dataclass(frozen=True)
class Run:
    path: Path
    config: dict[str, Any]

    @classmethod
    def create(cls, path: Path, config: Any) -> "Run":
        """A new run folder for `config`, a dataclass. Raises InputError if the folder is in use."""
        check_free(path)
        run = cls(Path(path), {name: value for name, value in asdict(config).items() if value is not None})  # TOML has no null
        with writing(run.path, "make room, then start again"), replacing(run.path / CONFIG) as temporary:
            temporary.write_text(tomlkit.dumps(run.config), "utf-8")
        return run

    @classmethod
    def open(cls, path: Path) -> "Run":
        path = Path(path)
        try:
            return cls(path, tomlkit.parse((path / CONFIG).read_text("utf-8")).unwrap())
        except FileNotFoundError as error:
            raise InputError(f"{path} is not a run (it holds no {CONFIG})", "name a folder that a training wrote") from error
        except (OSError, ValueError) as error:
            raise StoredError(f"{path / CONFIG} is damaged ({error})", "mend it, or start a new run") from error

    def settings(self, kind: type[T]) -> T:
        """What the run was started with, a dataclass `kind`. Raises StoredError if it is of another program."""
        try:
            return kind(**_tuples(self.config))
        except TypeError as error:
            raise StoredError(f"{self.path / CONFIG} is not of this program ({error})", "start a new run") from error

    @property
    def encoder(self) -> Path:
        return self.path / ENCODER

    def epochs(self) -> list[dict[str, Any]]:
        """The figures of each epoch. Raises StoredError where they cannot be read."""
        path = self.path / METRICS
        try:
            return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []
        except (OSError, ValueError) as error:
            raise StoredError(f"{path} is damaged ({error})", "remove its last lines") from error

    def record(self, epochs: list[dict[str, Any]]) -> None:
        with replacing(self.path / METRICS) as temporary:
            temporary.write_text("".join(json.dumps(figures) + "\n" for figures in epochs), "utf-8")

    def save(self, model: keras.Model, name: str) -> None:
        with replacing(self.path / name) as temporary:
            model.save(temporary, save_format="keras")

    @contextlib.contextmanager
    def logged(self) -> Iterator[None]:
        """Meanwhile, what is said on stderr is also written to `log`, and how it ended."""
        both = _Both(sys.stderr, self.path / "log")
        both.note(f"begun {_now()}, TensorFlow {tf.__version__}")
        try:
            with contextlib.redirect_stderr(both):
                yield
        except BaseException as error:
            both.note(f"{type(error).__name__} {error}".strip())
            raise
        finally:
            both.note(f"ended {_now()}")


class _Both(io.TextIOBase):
    """A screen and a file. A file that cannot be written to, on a full disk, keeps nothing from the screen."""

    def __init__(self, screen: TextIO, path: Path):
        self.screen, self.path = screen, path

    def write(self, text: str) -> int:
        self.screen.write(text)
        self._keep(text)
        return len(text)

    def note(self, line: str) -> None:
        """A line for the file alone."""
        self._keep(f"{line}\n")

    def _keep(self, text: str) -> None:
        with contextlib.suppress(OSError), self.path.open("a", encoding="utf-8") as file:
            file.write(text)

    def flush(self) -> None:
        self.screen.flush()

    def isatty(self) -> bool:
        return self.screen.isatty()


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def add_arguments(parser: Parser, settings: Any, precisions: Sequence[str] = ("float32", "mixed_bfloat16")) -> Any:
    """The options that every training has, with the defaults of `settings`, its dataclass; of --out and --resume one must be given,
    or what else is added to the group that is returned."""
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--out", type=Path, help="folder of a new run")
    where.add_argument("--resume", type=Path, help="run folder to go on with; its own settings apply")
    given = parser.add_argument
    given("--batch", type=int, default=settings.batch, help=f"(default {settings.batch or 'by memory'})")
    given("--epochs", type=int, default=settings.epochs, help="(default %(default)s)")
    given("--warmup", type=float, default=settings.warmup, help="share of all steps over which the rate rises (default %(default)s)")
    decay = "(default %(default)s)" if settings.weight_decay is not None else "(default the method's own)"
    given("--weight-decay", type=float, default=settings.weight_decay, help=decay)
    given("--precision", choices=precisions, default=settings.precision, help="(default %(default)s)")
    given("--seed", type=int, default=settings.seed)
    minutes = f"minutes between checkpoints within an epoch (default {SAVE_EVERY:g})"
    given("--save-every", type=float, default=argparse.SUPPRESS, help=minutes)
    return where


def asked(args: argparse.Namespace, kind: type[T]) -> tuple[T, Path]:
    """The settings, a dataclass `kind`, and the folder of the run that is to be begun or gone on with.

    Of an option whose default is SUPPRESS, nothing is in `args` unless it is given: so a resumed run's setting stands.
    """
    given = {field.name: getattr(args, field.name) for field in fields(kind) if hasattr(args, field.name)}  # type: ignore[arg-type]
    if args.resume is not None:
        then = Run.open(args.resume).settings(kind)
        anew = {name: given[name] for name in ANEW if name in given}
        return replace(then, **anew), args.resume  # type: ignore[type-var]
    return kind(**_tuples(given)), args.out


def _tuples(given: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}


def check_free(path: Path) -> None:
    """Raises InputError if `path` cannot become a run folder because something is there."""
    path = Path(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"{path} is in use", f"choose another --out, or go on with --resume {path}")


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


def train(
    run: Run,
    model: keras.Model,
    optimizers: dict[str, keras.optimizers.Optimizer],
    epochs: int,
    batch: int,
    batches: Callable[[int], tf.data.Dataset],
    finish: Callable[[dict[str, float]], tuple[keras.Model, dict[str, float]]],
    kept: str = ENCODER,
    save_every: float = SAVE_EVERY,
    on_collapse: str = "stop",
) -> None:
    """Train `model` to the last of `epochs` from the run's newest checkpoint on, be that in the middle of an epoch.

    `batches(epoch)` gives an epoch's data, the same ones each time; `finish(figures)` what an epoch leaves: the network to
    keep in the file `kept`, and all figures to keep. `figures` has `epoch` (from 1) and `images_per_second` already.
    Raises OmokageError where the loss is no number any more or the disk is full, `Collapse` (unless told to warn), and
    KeyboardInterrupt on Ctrl-C or SIGTERM: after the step under way, with a checkpoint.
    """
    checkpoints = Checkpoints(run.path / "checkpoints", model, optimizers)
    rows = [row for row in run.epochs() if row["epoch"] <= checkpoints.epoch]  # others are of an epoch whose end was not kept
    events = tf.summary.create_file_writer(str(run.path / "tensorboard"))
    with run.logged(), Wish() as wish:
        for epoch in range(checkpoints.epoch, epochs):
            dataset, first = batches(epoch), checkpoints.step
            steps, start = len(dataset), time.monotonic()
            seen = [watch.Progress(epoch, epochs, batch, first), Keeper(checkpoints, wish, steps, 60 * save_every)]
            given = devices.dealt(model, dataset.skip(first))
            place: dict[str, Any] = {"initial_epoch": epoch, "epochs": epoch + 1, "steps_per_epoch": steps - first}
            history = model.fit(given, **place, verbose=0, callbacks=seen).history
            speed = (steps - first) * batch / (time.monotonic() - start)
            told = {name: float(values[-1]) for name, values in history.items()}
            network, figures = finish({"epoch": epoch + 1, **told, "images_per_second": speed})
            rows.append(figures)
            with writing(run.path, f"make room, then go on with --resume {run.path}"):
                run.save(network, kept)
                run.record(rows)
                watch.show(rows, run.path, events)
            checkpoints.save(epoch + 1, 0)  # last: whatever broke off before is done again
            print(", ".join(f"{name} {value:.4g}" for name, value in figures.items()), file=sys.stderr)
            if collapse := watch.collapse(rows):
                if on_collapse == "stop":
                    raise collapse
                print(collapse.wrong, file=sys.stderr)
            if wish.made and epoch + 1 < epochs:
                checkpoints.stop()


def history(encoder: Path) -> list[dict[str, Any]]:
    """The runs that led to `encoder`, the first one first: their settings and an object of figures an epoch. Empty where its
    folder is no run. Paths are reduced to names: where the crops lay is nobody's business."""
    folder = Path(encoder).parent
    if not (folder / CONFIG).exists():
        return []
    run = Run.open(folder)
    stage = {"run": folder.name, "settings": _named(run.config), "epochs": run.epochs()}
    return [*history(Path(run.config.get("init", "")) / run.encoder.name), stage]


def _named(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _named(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_named(inner) for inner in value]
    return Path(value).name if isinstance(value, str) and value else value
