"""Bundles: a folder `models/NAME/` with an encoder or a detector, the facts needed to use it, and how it was made.

`manifest.json` follows tests/contracts/manifest.schema.json, a detector's tests/contracts/detector.schema.json. A bundle is written
once and verified at every load.
"""

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from device.program import InputError, StoredError, replacing

MODELS = Path(__file__).resolve().parent.parent / "models"
ENCODER = "encoder.tflite"
ENCODER_EDGETPU = "encoder_edgetpu.tflite"
DETECTOR = "detector.tflite"
DETECTOR_WIDTH = 320  # pixels of the picture that it looks at; other models are called after theirs, detector_160x128.tflite
SHIPPED_DETECTOR = "omokage-detector"  # in models/
SCHEMA = 1
FAR = 0.001  # the false-accept rate whose threshold is used where the user names none


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@dataclass(frozen=True)
class Quantisation:
    """real = scale * (stored - zero_point)"""

    scale: float
    zero_point: int


@dataclass(frozen=True)
class Verified:
    """What all bundles have. `manifest` is the parsed manifest.json."""

    path: Path
    manifest: dict[str, Any]

    @property
    def name(self) -> str:
        return self.manifest["name"]


class Bundle(Verified):
    """A verified bundle of an encoder."""

    @property
    def encoder(self) -> str:
        """The encoder id: first 16 hex digits of the sha256 of encoder.tflite. Templates remember it."""
        return self.manifest["encoder"]

    @property
    def dimension(self) -> int:
        return self.manifest["dimension"]

    @property
    def preprocessing(self) -> int:
        return self.manifest["preprocessing"]["version"]

    @cached_property
    def output(self) -> Quantisation:
        return Quantisation(self.manifest["output"]["scale"], self.manifest["output"]["zero_point"])

    @property
    def compiled_from(self) -> dict[str, str]:
        """By the sha256 of a model the file in this bundle that convert/compile.py made of it."""
        compiled = self.manifest.get("edgetpu", {}).get("models", {})
        return {facts["source"]: name for name, facts in compiled.items() if "source" in facts and name in self.manifest["files"]}

    def compiled(self, model: Path) -> Path | None:
        """The file in this bundle that `model` was compiled to for the Edge TPU, None where there is none."""
        name = self.compiled_from.get(sha256(model))
        return None if name is None else self.path / name

    def threshold(self, far: float = FAR) -> float:
        """The cosine above which a share `far` of stranger pairs lies. Raises InputError for a rate nobody measured."""
        for entry in self.manifest["thresholds"]:
            if entry["far"] == far:
                return entry["threshold"]
        rates = ", ".join(str(entry["far"]) for entry in self.manifest["thresholds"])
        raise InputError(f"{self.path} holds no threshold for the false-accept rate {far}", f"choose one of {rates}")


class DetectorBundle(Verified):
    """A verified bundle of a face detector."""

    @property
    def model(self) -> Path:
        return self.path / DETECTOR

    def sized(self, width: int) -> Path:
        """The model for pictures of `width` pixels. Raises InputError where there is none."""
        models = {int(found[1]): name for name in self.manifest["files"] if (found := re.fullmatch(r"detector_(\d+)x\d+\.tflite", name))}
        models[DETECTOR_WIDTH] = DETECTOR
        if width not in models:
            raise InputError(f"{self.path} has no model for {width} pixels", f"choose one of {', '.join(map(str, sorted(models)))}")
        return self.path / models[width]

    @property
    def score(self) -> float:
        """From which a detection counts, in 0..1: chosen on photos that were kept back from training."""
        return float(self.manifest["score"])


def load(path: Path) -> Bundle:
    """Read and verify the bundle in the folder `path`. Raises InputError (no bundle) or StoredError (damaged)."""

    def facts(manifest: dict[str, Any]) -> list[Any]:
        found = Bundle(Path(path), manifest)
        rates = [(float(entry["far"]), float(entry["threshold"])) for entry in manifest["thresholds"]]
        told = [found.name, found.encoder, found.dimension, found.preprocessing, found.output, manifest["files"][ENCODER], rates]
        return [*told, isinstance(found.compiled_from, dict)]

    found = Bundle(Path(path), _verified(Path(path), facts))
    if found.manifest["files"][ENCODER]["sha256"][:16] != found.encoder:
        manifest_path = found.path / "manifest.json"
        raise StoredError(f"{manifest_path} names another encoder than its encoder.tflite", "restore the bundle from the repository")
    return found


def load_detector(path: Path) -> DetectorBundle:
    """Read and verify the detector's bundle in the folder `path`. Raises InputError (no bundle) or StoredError (damaged)."""

    def facts(manifest: dict[str, Any]) -> list[Any]:
        found = DetectorBundle(Path(path), manifest)
        return [found.name, found.score, manifest["files"][DETECTOR]]

    return DetectorBundle(Path(path), _verified(Path(path), facts))


def _verified(path: Path, facts: Callable[[dict[str, Any]], list[Any]]) -> dict[str, Any]:
    """The manifest in the folder `path`, every file of it as it says; `facts` takes from it what has to be there."""
    manifest_path = path / "manifest.json"
    if not manifest_path.is_file():
        raise InputError(f"{path} is not a bundle (it holds no manifest.json)", f"name a folder like those in {MODELS.name}/")
    try:
        manifest = json.loads(manifest_path.read_text("utf-8"))
        if manifest["schema"] > SCHEMA:
            raise StoredError(f"{manifest_path} has schema {manifest['schema']}, this program reads up to {SCHEMA}", "update Omokage")
        files = {name: entry["sha256"] for name, entry in manifest["files"].items()}
        if not all((*facts(manifest), manifest["made"]["time"])):
            raise ValueError("a value is empty")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoredError(f"{manifest_path} is damaged ({error})", "restore the bundle from the repository") from error
    for name, digest in files.items():
        if Path(name).name != name:
            raise StoredError(f"{manifest_path} names a file outside the bundle ({name})", "do not use this bundle")
        if not (path / name).is_file():
            raise StoredError(f"{path / name} is missing", "restore the bundle from the repository")
        if sha256(path / name) != digest:
            raise StoredError(f"{path / name} is damaged (its sha256 is not the manifest's)", "restore the bundle from the repository")
    return manifest


def write(path: Path, files: Iterable[Path], facts: dict[str, Any]) -> Bundle:
    """Make the bundle `path` of `files` and `facts` (the manifest but for schema, encoder and files), and load it.

    The folder appears whole or not at all. Raises InputError if it exists: a bundle is never changed in place.
    """
    _write(path, files, lambda entries: {"encoder": entries[ENCODER]["sha256"][:16], **facts}, load)
    return load(path)


def add(path: Path, file: Path) -> Bundle:
    """Add `file` to the bundle `path`; nothing that is in it changes. Raises InputError where a file of that name is in it already."""
    found = load(path)
    if file.name in found.manifest["files"]:
        raise InputError(
            f"{path} holds a {file.name}, and a bundle is never changed in place", "make another bundle, or name another --out"
        )
    entry = {"sha256": sha256(file), "bytes": file.stat().st_size}
    with replacing(found.path / file.name) as temporary:
        shutil.copyfile(file, temporary)
    manifest = found.manifest | {"files": found.manifest["files"] | {file.name: entry}}
    with replacing(found.path / "manifest.json") as temporary:
        temporary.write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", "utf-8")
    return load(path)


def write_detector(path: Path, files: Iterable[Path], facts: dict[str, Any]) -> DetectorBundle:
    """The same for a detector's bundle; `facts` are the manifest but for schema and files."""
    _write(path, files, lambda entries: facts, load_detector)
    return load_detector(path)


def _write(path: Path, files: Iterable[Path], facts: Callable[[dict[str, dict]], dict[str, Any]], check: Callable[[Path], object]) -> None:
    path = Path(path)
    if path.exists():
        raise InputError(f"{path} exists, and a bundle is never changed in place", "choose another name, or remove it first")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as folder:
        whole = Path(folder) / path.name
        whole.mkdir()
        entries: dict[str, dict[str, Any]] = {}
        for file in files:
            copy = Path(shutil.copyfile(file, whole / Path(file).name))
            entries[copy.name] = {"sha256": sha256(copy), "bytes": copy.stat().st_size}
        manifest = {"schema": SCHEMA, **facts(entries), "files": entries}
        (whole / "manifest.json").write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", "utf-8")
        check(whole)
        whole.rename(path)


def find(name: str | None) -> Bundle:
    """The bundle called `name` in models/, or in the folder `name`; without a name the newest one in models/."""
    if name is not None:
        shipped = MODELS / name
        return load(shipped if Path(name).name == name and shipped.is_dir() and not Path(name).is_dir() else Path(name))
    bundles = [load(path.parent) for path in sorted(MODELS.glob("*/manifest.json")) if path.parent.name != SHIPPED_DETECTOR]
    if not bundles:
        raise StoredError(f"{MODELS} holds no bundle", "restore it from the repository, or name one with --encoder FOLDER")
    return max(bundles, key=lambda bundle: bundle.manifest["made"]["time"])
