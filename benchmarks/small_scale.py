"""What the benchmarks of trainings share: an encoder small enough for many of them, its SimSiam start, and its judges.

64x64 crops and the fused family at half width: 15 MMAC, 0.38 M parameters. Compute is counted in views, a forward and
a backward pass of one picture: a SimSiam step on a batch of 128 is 256 of them, a step of fine-tuning 128.
"""

import json
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import tf_keras as keras

from device.demo import shared_data
from device.program import InputError, Parser, replacing
from train import encoders, evaluate, finetune, identification, labels, pretrain, probes, runs
from train.data import pictures, read_crops, read_list, read_pairs

BATCH = 128
SHAPE: dict[str, Any] = {"size": 64, "width": 0.5, "batch": BATCH, "precision": "mixed_bfloat16"}
UNLABELLED = ("utkface.zip", "aaf.zip", "celeba10k.zip")
LABELLED = ("celeba_id.zip", "celeba10k.zip")
IDENTITIES = "celeba_identity.csv"
KEPT_AS = "without.txt"  # in the results' folder


def common(description: str | None, out: str) -> Parser:
    """The options of every script."""
    parser = Parser(description)
    parser.add_argument("--data", type=Path, default=shared_data(), help="the shared data (default $OMOKAGE_DATA)")
    parser.add_argument("--out", type=Path, default=Path(out), help="(default %(default)s)")
    parser.add_argument("--limit", type=int, help="take the first N crops, to try a script")
    return parser


def arguments(description: str | None, out: str, steps: int) -> Parser:
    """Those of the scripts that tune a SimSiam start."""
    parser = common(description, out)
    parser.add_argument("--steps", type=int, default=steps, help="of each tuning (default %(default)s)")
    parser.add_argument("--start", type=Path, default=Path("build/simsiam-small"), help="run of the SimSiam start (default %(default)s)")
    parser.add_argument("--pretraining", type=int, default=3, help="its epochs (default %(default)s)")
    return parser


def tell(text: str, path: Path) -> None:
    """Print a result and keep it in a file."""
    with replacing(path) as temporary:
        temporary.write_text(text)
    print(text)


def crops(data: Path, names: tuple[str, ...]) -> tuple[str, ...]:
    """The paths of the shared data's zips of crops. Raises InputError if they are not there."""
    if not (data / "crops").is_dir():
        raise InputError(f"{data} is not the shared data", "name its folder with --data")
    return tuple(str(data / "crops" / name) for name in names)


def left_out(data: Path, out: Path) -> str:
    """A list of the crops that nothing here trains on: the cohort, and the pictures of celeba10k that celeba_id has too."""
    cohort = sorted(read_list(data / "crops" / "cohort.txt"))
    table = labels.read_table(data / "crops" / IDENTITIES)
    twice = {PurePosixPath(name).name for name in table if name.startswith("celeba_id/")}
    double = sorted(name for name in table if name.startswith("celeba10k/") and PurePosixPath(name).name in twice)
    with replacing(out / KEPT_AS) as temporary:
        temporary.write_text("\n".join([*cohort, *double]) + "\n")
    return str(out / KEPT_AS)


@dataclass(frozen=True)
class Start:
    """A SimSiam encoder of this size on the unlabelled crops, in a run folder."""

    data: Path
    folder: Path
    epochs: int
    limit: int | None = None

    @property
    def settings(self) -> pretrain.Settings:
        sources, without = crops(self.data, UNLABELLED), str(self.data / "crops" / "cohort.txt")
        rates: dict[str, Any] = {"epochs": self.epochs, "rate": 0.5, "warmup": 0.05, "projection": 512}
        return pretrain.Settings(crops=sources, without=without, limit=self.limit, area=0.25, **rates, **SHAPE)

    def trained(self) -> Path:
        """Its encoder; an interrupted training goes on."""
        return pretrained(self.settings, self.folder)

    def images(self) -> np.ndarray:
        """The crops that it trains on, uint8 [N, 112, 112, 3]."""
        return read_crops(map(Path, self.settings.crops), read_list(Path(str(self.settings.without)))).images[: self.limit]

    def untrained(self) -> keras.Model:
        """The same network as chance made it, whitened as SimSiam's is."""
        return untrained(self.images())

    def views(self) -> int:
        """How many views its training passed forward and backward."""
        return 2 * BATCH * self.epochs * (len(self.images()) // BATCH)


@dataclass(frozen=True)
class Budget:
    """Trainings without labels that all see as many `pictures`, of the same crops in the same order, but for the last part of an
    epoch: only whole ones are trained."""

    data: Path
    pictures: int
    limit: int | None = None

    def settings(self, **given: Any) -> pretrain.Settings:
        """Such a training, with what is `given` of pretrain's settings."""
        sources, without = crops(self.data, UNLABELLED), self.data / "crops" / "cohort.txt"
        there = len(crop_names(sources, without)[: self.limit])
        shape: dict[str, Any] = {"on_collapse": "warn", **SHAPE, **given}
        epochs = max(round(self.pictures / (there // shape["batch"] * shape["batch"])), 1)
        return pretrain.Settings(crops=sources, without=str(without), limit=self.limit, epochs=epochs, **shape)


@lru_cache
def crop_names(sources: tuple[str, ...], without: Path) -> list[str]:
    """What read_crops would read."""
    left = read_list(without)
    return [name for source in sources for name, _ in pictures(Path(source)) if name not in left]


def untrained(images: np.ndarray) -> keras.Model:
    """The encoder as chance made it, whitened on `images` as a pretrained one is."""
    keras.utils.set_random_seed(0)
    model = encoders.build("fused", size=SHAPE["size"], width=SHAPE["width"])
    return encoders.whitened(model, images[:: max(len(images) // pretrain.WHITENING_CROPS, 1)])


def pretrained(settings: pretrain.Settings, folder: Path) -> Path:
    """The encoder after `settings`, in a run folder; an interrupted training goes on."""
    return _trained(pretrain.pretrain, settings, folder)


def speed(folder: Path) -> float:
    """Pictures a second of the training in the run `folder`: the median of its epochs."""
    return float(np.median([row["images_per_second"] for row in runs.Run.open(folder).epochs()]))


def tuned(settings: finetune.Settings, steps: int, folder: Path, shape: Mapping[str, Any] = SHAPE) -> Path:
    """The encoder after `steps` steps on `settings`, in a run folder; an interrupted training goes on."""
    epochs = max(round(steps / 250), 1)  # a checkpoint every few minutes
    settings = replace(settings, epochs=epochs, steps=steps // epochs, **shape)
    return _trained(finetune.finetune, settings, folder)


def _trained(train: Callable[..., runs.Run], settings: Any, folder: Path) -> Path:
    """The encoder of the run `folder`, begun, gone on with, or finished. Raises InputError if it has other settings."""
    if not (folder / runs.CONFIG).exists():
        return train(settings, folder).encoder
    run, now = runs.Run.open(folder), json.loads(json.dumps(asdict(settings), default=str))
    if differ := sorted(name for name, value in run.config.items() if now.get(name) != value):
        raise InputError(f"{folder} was made with other settings ({', '.join(differ)})", "choose other folders with --out and --start")
    log = folder / "metrics.jsonl"
    finished = log.exists() and len(log.read_text().splitlines()) >= settings.epochs
    return run.encoder if finished else train(settings, folder, resume=True).encoder


class Judge:
    """LFW for an encoder: the 6,000 pairs, the development pairs, and identification of known people from `shots` pictures."""

    def __init__(self, data: Path, shots: int = 1):
        folder = data / "lfw"
        self.crops = read_crops([folder / "crops.zip"])
        self.test, self.development = (
            probes.VerificationProbe(self.crops, read_pairs(folder / name)) for name in ("pairs.txt", "pairsDevTest.txt")
        )
        self.protocol = identification.Protocol(shots=(shots,), classifiers=("knn",))

    def __call__(self, model: keras.Model) -> dict[str, Any]:
        rows = encoders.embed(model, self.crops.images)

        def embed(_: np.ndarray) -> np.ndarray:  # all three ask for the same crops
            return rows

        verified = evaluate.verify(embed, self.test).result
        (identified,) = identification.identify(model.name, embed, self.crops, None, self.protocol)
        return {
            "accuracy": verified.accuracy,
            "std": verified.std,
            "auc": verified.auc,
            "tar": {str(far): tar for far, tar in verified.tar.items()},
            "development": self.development(embed),
            "identification": identified.as_json(),
        }


class Results:
    """Figures by name, kept in a JSON file after each: what is there is not measured again."""

    def __init__(self, path: Path):
        self.path = path
        self.rows: dict[str, Any] = json.loads(path.read_text())["rows"] if path.exists() else {}

    def measure(self, name: str, how: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        if name not in self.rows:
            print(f"--- {name}", file=sys.stderr)
            self.rows[name] = how()
            with replacing(self.path) as temporary:
                temporary.write_text(json.dumps({"machine": machine(), "rows": self.rows}, indent=1) + "\n")
        return self.rows[name]


def machine() -> str:
    now = datetime.now(timezone.utc).strftime("%Y-%m-%d")
    return f"{os.cpu_count()} cores {platform.machine()}, Python {platform.python_version()}, {now}"


def table(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """A Markdown table."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (columns, ("---",) * len(columns), *rows)) + "\n"
