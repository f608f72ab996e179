"""Teachers: models whose embeddings a student learns to give without any labels.

A teacher is dlib's face model (`dlib`), any ONNX file (its chip and normalisation in a TOML file of the same name beside
it, see `Chip`), or a Keras encoder of ours.
"""

import hashlib
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tomlkit

from device import bundle
from device.align import SIZE
from device.program import InputError, MissingError, replacing

DLIB = "dlib"
BATCH = 64
SAVED_EVERY = 16  # batches


@dataclass(frozen=True)
class Chip:
    """How a teacher wants its faces: x' = scale (x - origin) + target, in pixels, x of our 112x112 crop.

    `mean` and `deviation` (RGB) normalise its pixels; `colour` is the order of its channels.
    """

    size: int = SIZE
    scale: float = 1.0
    origin: tuple[float, float] = (0.0, 0.0)
    target: tuple[float, float] = (0.0, 0.0)
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    deviation: tuple[float, float, float] = (1.0, 1.0, 1.0)
    colour: str = "RGB"

    @classmethod
    def read(cls, path: Path) -> "Chip":
        """From a TOML file with the names above. Raises InputError if it holds anything else."""
        try:
            given = tomlkit.parse(path.read_text("utf-8")).unwrap()
            lists: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
            chip = cls(**lists)
            chip.check()
        except (OSError, TypeError, ValueError) as error:
            names = ", ".join(field.name for field in fields(cls))
            raise InputError(f"{path} does not describe a teacher's chip ({error})", f"give {names}") from error
        return chip

    def check(self) -> None:
        """Raises ValueError for settings that no picture can have."""
        for name, length in (("origin", 2), ("target", 2), ("mean", 3), ("deviation", 3)):
            if len(getattr(self, name)) != length or not all(isinstance(v, (int, float)) for v in getattr(self, name)):
                raise ValueError(f"{name} is no list of {length} numbers")
        if not (isinstance(self.size, int) and 16 <= self.size <= 1024 and self.scale > 0 and all(self.deviation)):
            raise ValueError("size, scale or deviation is out of range")
        if self.colour not in ("RGB", "BGR"):
            raise ValueError("colour is neither RGB nor BGR")

    def cut(self, crops: np.ndarray) -> np.ndarray:
        """float32 [N, size, size, 3] of crops uint8 RGB [N, 112, 112, 3]: cubic, border replicated."""
        shift = np.array(self.target) - self.scale * np.array(self.origin)
        matrix = np.array([[self.scale, 0, shift[0]], [0, self.scale, shift[1]]])
        whole = self.size == SIZE and self.scale == 1 and not shift.any()
        size = (self.size, self.size)
        chips = crops if whole else [cv2.warpAffine(c, matrix, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE) for c in crops]
        pixels = (np.asarray(chips, np.float32) - np.array(self.mean, np.float32)) / np.array(self.deviation, np.float32)
        return pixels if self.colour == "RGB" else np.ascontiguousarray(pixels[..., ::-1])


# dlib's chip has the face larger and higher up; plain resizing of our crop to 150x150 costs it 13 points on LFW.
DLIB_CHIP = Chip(size=150, scale=1.503, origin=(55.9, 51.6), target=(74.05, 46.6))


@dataclass(frozen=True)
class Teacher:
    """`embed`: crops uint8 RGB [N, 112, 112, 3] to unit embeddings float32 [N, D]; `identity` changes with the model."""

    name: str
    identity: str
    embed: Callable[[np.ndarray], np.ndarray]

    def targets(self, crops: np.ndarray) -> np.ndarray:
        """Unit float32 [N, D]: the mean of what the teacher says of each crop and of its mirror image."""
        both = self.embed(crops) + self.embed(np.ascontiguousarray(crops[:, :, ::-1]))
        return both / np.linalg.norm(both, axis=1, keepdims=True)


def open_teacher(name: str) -> Teacher:
    """`dlib`, the path of an ONNX file, or that of a .keras encoder."""
    path = Path(name)
    if name == DLIB:
        from train import dlib  # onnx, which only this teacher needs

        return _onnx_teacher(name, dlib.model().SerializeToString(), DLIB_CHIP)
    if not path.is_file():
        raise InputError(f"{name} does not exist", "name dlib, an .onnx file or a .keras file")
    if path.suffix == ".keras":
        from train import encoders  # TensorFlow takes seconds to import

        model = encoders.load(name)
        return Teacher(path.stem, bundle.sha256(path)[:16], lambda crops: encoders.embed(model, crops))
    sidecar = path.with_suffix(".toml")
    return _onnx_teacher(path.stem, path.read_bytes(), Chip.read(sidecar) if sidecar.exists() else Chip())


def _onnx_teacher(name: str, model: bytes, chip: Chip) -> Teacher:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingError("onnxruntime is not installed", "pip install -e .[teacher]") from error
    try:
        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises half a dozen classes of its own
        raise InputError(f"{name} is not an ONNX model that onnxruntime reads", "name another file") from error
    first, channels_first = session.get_inputs()[0], _channels_first(session, name, chip)

    def embed(crops: np.ndarray) -> np.ndarray:
        rows = []
        for start in range(0, len(crops), BATCH):
            chips = chip.cut(crops[start : start + BATCH])
            chips = chips.transpose(0, 3, 1, 2) if channels_first else chips
            rows.append(session.run(None, {first.name: np.ascontiguousarray(chips)})[0])
        found = np.concatenate(rows)
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    identity = hashlib.sha256(model + repr(chip).encode()).hexdigest()[:16]
    return Teacher(name, identity, embed)


def _channels_first(session, name: str, chip: Chip) -> bool:
    """Whether the model wants [N, 3, H, W]. Raises InputError if it does not take chips of this size or gives no embeddings."""
    wanted, given = session.get_inputs(), session.get_outputs()
    shape = wanted[0].shape
    known = [n for n in shape[1:] if isinstance(n, int)]
    fits = len(wanted) == 1 and len(shape) == 4 and wanted[0].type == "tensor(float)" and not isinstance(shape[0], int)
    if not fits or 3 not in (shape[1], shape[3]) or any(n not in (3, chip.size) for n in known) or len(given[0].shape) != 2:
        found = f"{[w.shape for w in wanted]} to {[g.shape for g in given]}"
        wrong = f"the teacher {name} maps {found}, not batches of {chip.size}x{chip.size} pictures to rows"
        raise InputError(wrong, f"say the size of its chip in {name}.toml beside it, or export it with a free batch size")
    return shape[1] == 3


def cached_targets(teacher: Teacher, crops: np.ndarray, folder: Path) -> np.ndarray:
    """`teacher.targets(crops)`, computed once: a file in `folder` keeps them, and goes on where it broke off."""
    digest = hashlib.sha256(teacher.identity.encode())
    digest.update(np.ascontiguousarray(crops).data)
    path = Path(folder) / f"targets-{digest.hexdigest()[:16]}.npy"
    done = np.load(path) if path.exists() else np.empty((0, 0), np.float32)
    if len(done) == len(crops):
        return done
    parts = [done] if len(done) else []
    step = BATCH * SAVED_EVERY
    for start in range(len(done), len(crops), step):
        parts.append(teacher.targets(crops[start : start + step]).astype(np.float32))
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.save(file, np.concatenate(parts))
        print(f"teacher {teacher.name}: {sum(map(len, parts))} of {len(crops)} crops", file=sys.stderr)
    return np.concatenate(parts)
