"""TFLite models: the one module that knows the runtime. What runs a model, the CPU or an Edge TPU, its users need not know."""

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from device import accelerator
from device.bundle import Quantisation
from device.program import InputError, MissingError
from device.quiet import quiet

if TYPE_CHECKING:
    from device.supervisor import Supervisor

ANOTHER = "name a model that convert/ made"


@dataclass(frozen=True)
class Tensor:
    """The input or an output of a model: `dtype` is numpy's name, `shape` has the batch of one first."""

    dtype: str
    shape: tuple[int, ...]
    quantisation: Quantisation

    def __str__(self) -> str:
        return f"{self.dtype} {list(self.shape)}"

    def real(self, stored: np.ndarray) -> np.ndarray:
        """What the bytes mean, float32."""
        return np.float32(self.quantisation.scale) * (stored.astype(np.float32) - self.quantisation.zero_point)


@dataclass(frozen=True)
class Signature:
    """What a model maps to what; so told, "uint8 [1, 112, 112, 3] to uint8 [1, 128]"."""

    input: Tensor
    outputs: tuple[Tensor, ...]

    def __str__(self) -> str:
        return f"{self.input} to {', '.join(map(str, self.outputs))}"


class Model:
    """The model of the file `path`, of one input, on the "cpu" or, in a process that may end in it, on the "edgetpu".

    `supervisor`, where there is one, has it run elsewhere: device/supervisor.py.
    Raises InputError (no such model) or MissingError (no runtime, no accelerator).
    """

    def __init__(self, path: Path, backend: str = "cpu", threads: int = 2):
        self.path, self._backend = Path(path), backend
        self.supervisor: Supervisor | None = None
        self._interpreter = _interpreter(self.path, backend, threads)
        inputs, outputs = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        if len(inputs) != 1:
            raise InputError(f"{path} has {len(inputs)} inputs", ANOTHER)
        self.signature = Signature(_tensor(inputs[0]), tuple(map(_tensor, outputs)))
        self._feed, self._fetch = inputs[0]["index"], [entry["index"] for entry in outputs]

    @property
    def backend(self) -> str:
        """What answers now."""
        return self.supervisor.backend if self.supervisor else self._backend

    def run(self, inputs: np.ndarray) -> list[np.ndarray]:
        """Of each output what it says of `inputs` [N, ...], [N, ...], whatever runs the model."""
        return self.supervisor.run(self, inputs) if self.supervisor else self.run_here(inputs)

    def run_here(self, inputs: np.ndarray) -> list[np.ndarray]:
        """The same, without a supervisor."""
        outputs = [np.empty((len(inputs), *tensor.shape[1:]), tensor.dtype) for tensor in self.signature.outputs]
        for i, one in enumerate(inputs):
            self._interpreter.set_tensor(self._feed, one[None])
            self._interpreter.invoke()
            for output, index in zip(outputs, self._fetch, strict=True):
                output[i] = self._interpreter.get_tensor(index)[0]
        return outputs


def delegate() -> Any:
    """The runtime's delegate for the Edge TPU. Only for a process that may end in it; several of one process share the device.

    Raises MissingError: no library, or no Edge TPU answers.
    """
    runtime = _runtime()
    accelerator.load()  # first, because load_delegate prints a traceback where it is not there
    try:
        return runtime.load_delegate(accelerator.LIBEDGETPU)
    except ValueError as error:
        raise MissingError("no Edge TPU answers", "plug it in again") from error


def _interpreter(model: Path, backend: str, threads: int) -> Any:
    """An interpreter ready to run, its delegate loaded."""
    runtime = _runtime()
    try:
        content = model.read_bytes()
    except OSError as error:
        raise InputError(f"{model} cannot be read ({error.strerror})", "check the name") from error
    if content[4:8] != b"TFL3":  # the runtime may crash on what is no model
        raise InputError(f"{model} is not a TFLite model", ANOTHER)
    delegates = [delegate()] if backend == "edgetpu" else None
    try:
        with quiet() if backend == "cpu" else contextlib.nullcontext():  # what the Edge TPU's worker says is for its parent
            interpreter = runtime.Interpreter(model_content=content, experimental_delegates=delegates, num_threads=threads)
            interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        reason = str(error).split("\n")[0].rstrip(".")
        raise InputError(f"{model} does not run on the {backend} ({reason})", ANOTHER) from error
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


def _tensor(details: dict[str, Any]) -> Tensor:
    return Tensor(np.dtype(details["dtype"]).name, tuple(map(int, details["shape"])), Quantisation(*details["quantization"]))
