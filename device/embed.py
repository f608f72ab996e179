"""Crops into embeddings: the one module that knows the TFLite runtime and (de)quantises."""

import ctypes
from pathlib import Path
from typing import Any

import numpy as np

from device.align import SIZE, VERSION
from device.bundle import ENCODER, ENCODER_EDGETPU, Bundle, Quantisation
from device.program import InputError, MissingError, StoredError
from device.quiet import quiet

BACKENDS = ("auto", "cpu", "edgetpu")
LIBEDGETPU = "libedgetpu.so.1"


class Encoder:
    """A full-int8 encoder on one backend.

    Its model has one input uint8 [1, 112, 112, 3], the bytes of an RGB crop, and one output uint8 [1, D]. `dimension` is D;
    `input` and `output` say what the stored bytes mean.
    Raises InputError (not such a model) or MissingError (no runtime, no accelerator).
    """

    def __init__(self, model: Path, backend: str = "cpu", threads: int = 2):
        self.backend = backend
        self._interpreter = _interpreter(Path(model), backend, threads)
        inputs, outputs = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        found = f"{_shapes(inputs)} to {_shapes(outputs)}"
        if found != f"uint8 [1, {SIZE}, {SIZE}, 3] to uint8 [1, {outputs[0]['shape'][-1]}]":
            wanted = f"uint8 [1, {SIZE}, {SIZE}, 3] to uint8 [1, D]"
            raise InputError(f"{model} maps {found}, an encoder maps {wanted}", "name an encoder made by convert/quantize.py")
        self.dimension = int(outputs[0]["shape"][-1])
        self.input, self.output = (Quantisation(*entry["quantization"]) for entry in (inputs[0], outputs[0]))
        self._feed, self._fetch = inputs[0]["index"], outputs[0]["index"]

    def embed(self, crops: np.ndarray) -> np.ndarray:
        """The embeddings of RGB `crops` uint8 [N, 112, 112, 3]: float32 unit rows [N, D]."""
        if crops.dtype != np.uint8 or crops.shape[1:] != (SIZE, SIZE, 3):
            raise ValueError(f"crops are uint8 [N, {SIZE}, {SIZE}, 3], not {crops.dtype} {list(crops.shape)}")
        stored = np.empty((len(crops), self.dimension), np.uint8)
        for crop, row in zip(crops, stored, strict=True):
            self._interpreter.set_tensor(self._feed, crop[None])
            self._interpreter.invoke()
            row[:] = self._interpreter.get_tensor(self._fetch)[0]
        real = np.float32(self.output.scale) * (stored.astype(np.float32) - self.output.zero_point)  # [N, D]
        return real / np.maximum(np.linalg.norm(real, axis=1, keepdims=True), np.finfo(np.float32).tiny)


def open_encoder(bundle: Bundle, backend: str = "auto") -> Encoder:
    """The encoder of `bundle`. "auto" is the Edge TPU where the bundle holds a compiled model and the accelerator answers.

    Raises MissingError where "edgetpu" is asked for and not to be had, StoredError where the bundle wants other crops.
    """
    if bundle.preprocessing != VERSION:
        wanted = f"{bundle.path} wants crops of preprocessing {bundle.preprocessing}"
        raise StoredError(f"{wanted}, this program makes {VERSION}", "update Omokage, or name another bundle with --encoder")
    if backend not in BACKENDS:
        raise InputError(f"there is no backend {backend}", f"choose one of {', '.join(BACKENDS)}")
    compiled = bundle.path / ENCODER_EDGETPU
    if backend != "cpu" and ENCODER_EDGETPU in bundle.manifest["files"]:
        try:
            return Encoder(compiled, "edgetpu")
        except MissingError:
            if backend == "edgetpu":
                raise
    elif backend == "edgetpu":
        raise MissingError(f"{bundle.path} holds no {ENCODER_EDGETPU}", "compile it with convert/compile.py, or use --backend cpu")
    return Encoder(bundle.path / ENCODER, "cpu")


def _interpreter(model: Path, backend: str, threads: int) -> Any:
    """An interpreter ready to run, its delegate loaded."""
    runtime = _runtime()
    try:
        content = model.read_bytes()
    except OSError as error:
        raise InputError(f"{model} cannot be read ({error.strerror})", "check the name") from error
    if content[4:8] != b"TFL3":  # the runtime may crash on what is no model
        raise InputError(f"{model} is not a TFLite model", "name an encoder made by convert/quantize.py")
    delegates = [_edgetpu(runtime)] if backend == "edgetpu" else None
    try:
        with quiet():
            interpreter = runtime.Interpreter(model_content=content, experimental_delegates=delegates, num_threads=threads)
            interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        reason = str(error).split("\n")[0].rstrip(".")
        raise InputError(f"{model} does not run on the {backend} ({reason})", "name an encoder made by convert/quantize.py") from error
    return interpreter


def _runtime() -> Any:
    try:
        import ai_edge_litert.interpreter as runtime
    except ImportError:
        try:
            import tflite_runtime.interpreter as runtime
        except ImportError:
            raise MissingError("no TFLite runtime is installed", "pip install ai-edge-litert") from None
    return runtime


def _edgetpu(runtime: Any) -> Any:
    try:
        ctypes.CDLL(LIBEDGETPU)  # first, because load_delegate prints a traceback where it is not there
        return runtime.load_delegate(LIBEDGETPU)
    except OSError as error:
        raise MissingError(f"{LIBEDGETPU} is not installed", "install libedgetpu1-std, or use --backend cpu") from error
    except ValueError as error:
        raise MissingError("no Edge TPU answers", "plug it in again, or use --backend cpu") from error


def _shapes(details: list[dict[str, Any]]) -> str:
    return ", ".join(f"{np.dtype(entry['dtype']).name} {entry['shape'].tolist()}" for entry in details)
