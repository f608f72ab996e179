"""Run folders: what a training was told, what it measured, and where it can go on.

    config.json      the settings, as given
    metrics.jsonl    one object an epoch
    checkpoints/     everything that resuming needs
    encoder.keras    the encoder after the last whole epoch
"""

import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tf_keras as keras
from tqdm import tqdm

from device.program import InputError, StoredError, replacing


@dataclass(frozen=True)
class Run:
    path: Path
    config: dict[str, Any]

    @classmethod
    def create(cls, path: Path, config: Any) -> "Run":
        """A new run folder for `config`, a dataclass. Raises InputError if the folder is in use."""
        check_free(path)
        run = cls(Path(path), asdict(config))
        with replacing(run.path / "config.json") as temporary:
            temporary.write_text(json.dumps(run.config, indent=1, default=str) + "\n")
        return run

    @classmethod
    def open(cls, path: Path) -> "Run":
        path = Path(path)
        try:
            return cls(path, json.loads((path / "config.json").read_text("utf-8")))
        except FileNotFoundError as error:
            raise InputError(f"{path} is not a run (it holds no config.json)", "name a folder that a training wrote") from error
        except (OSError, ValueError) as error:
            raise StoredError(f"{path / 'config.json'} is damaged ({error})", "start a new run") from error

    @property
    def encoder(self) -> Path:
        return self.path / "encoder.keras"

    def log(self, **figures: float) -> None:
        """Append one line to metrics.jsonl."""
        with (self.path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(figures) + "\n")

    def save_encoder(self, encoder: keras.Model) -> None:
        with replacing(self.encoder) as temporary:
            encoder.save(temporary, save_format="keras")


def check_free(path: Path) -> None:
    """Raises InputError if `path` cannot become a run folder because something is there."""
    path = Path(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"{path} is in use", f"choose another --out, or go on with --resume {path}")


class Progress(keras.callbacks.Callback):
    """Images a second and time left on stderr: a bar on a terminal, elsewhere a line every `every` seconds."""

    def __init__(self, epoch: int, epochs: int, batch: int, every: float = 60.0):
        super().__init__()
        self.epoch, self.epochs, self.batch, self.every = epoch, epochs, batch, every
        self.bar: tqdm | None = None

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self.start = self.told = time.monotonic()
        label = f"epoch {self.epoch + 1}/{self.epochs}"
        if sys.stderr.isatty():
            self.bar = tqdm(total=self.params["steps"] * self.batch, unit="img", desc=label, leave=False)

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        done, now = (batch + 1) * self.batch, time.monotonic()
        figures = " ".join(f"{name} {value:.4f}" for name, value in (logs or {}).items())
        if self.bar is not None:
            self.bar.update(self.batch)
            self.bar.set_postfix_str(figures)
        elif now - self.told >= self.every:
            self.told = now
            left = (self.params["steps"] * (self.epochs - self.epoch) * self.batch - done) * (now - self.start) / done
            share = done / (self.params["steps"] * self.batch)
            speed = f"{done / (now - self.start):.0f} images/s, {left / 60:.0f} min left"
            print(f"  epoch {self.epoch + 1}/{self.epochs} {share:4.0%}, {speed}, {figures}", file=sys.stderr)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        if self.bar is not None:
            self.bar.close()
