"""Crops into embeddings: the one module that knows the TFLite runtime and (de)quantises."""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from device import accelerator, worker
from device.align import SIZE, VERSION
from device.bundle import ENCODER, ENCODER_EDGETPU, Bundle, Quantisation
from device.program import InputError, MissingError, StoredError
from device.quiet import quiet
from device.worker import Lost, Worker

BACKENDS = ("auto", "cpu", "edgetpu")
ALIKE = 0.9  # the likeness to the CPU's embeddings (`alike`) that the self-test asks for
MEND = "see python device/doctor.py, or use --backend cpu"
Notify = Callable[[str, str], None]


class Encoder:
    """A full-int8 encoder on one backend.

    Its model has one input uint8 [1, 112, 112, 3], the bytes of an RGB crop, and one output uint8 [1, D]. `dimension` is D;
    `input` and `output` say what the stored bytes mean.
    Raises InputError (not such a model) or MissingError (no runtime, no accelerator).
    """

    def __init__(self, model: Path, backend: str = "cpu", threads: int = 2):
        self.backend = backend
        self._interpreter = interpreter(Path(model), backend, threads)
        inputs, outputs = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        found = f"{_shapes(inputs)} to {_shapes(outputs)}"
        if found != f"uint8 [1, {SIZE}, {SIZE}, 3] to uint8 [1, {outputs[0]['shape'][-1]}]":
            wanted = f"uint8 [1, {SIZE}, {SIZE}, 3] to uint8 [1, D]"
            raise InputError(f"{model} maps {found}, an encoder maps {wanted}", "name an encoder made by convert/quantize.py")
        self.dimension = int(outputs[0]["shape"][-1])
        self.input, self.output = (Quantisation(*entry["quantization"]) for entry in (inputs[0], outputs[0]))
        self._feed, self._fetch = inputs[0]["index"], outputs[0]["index"]

    def __enter__(self) -> "Encoder":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of all but memory."""

    def embed(self, crops: np.ndarray) -> np.ndarray:
        """The embeddings of RGB `crops` uint8 [N, 112, 112, 3]: float32 unit rows [N, D]."""
        _check(crops)
        stored = np.empty((len(crops), self.dimension), np.uint8)
        for crop, row in zip(crops, stored, strict=True):
            self._interpreter.set_tensor(self._feed, crop[None])
            self._interpreter.invoke()
            row[:] = self._interpreter.get_tensor(self._fetch)[0]
        real = np.float32(self.output.scale) * (stored.astype(np.float32) - self.output.zero_point)  # [N, D]
        return real / np.maximum(np.linalg.norm(real, axis=1, keepdims=True), np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class Patience:
    """What a SupervisedEncoder waits for, in seconds."""

    answer: float = 1.0  # for worker.CAPACITY embeddings, several times what they take over USB 2; longer, and the worker hangs
    start: float = 30.0  # for a new worker's self-test: a Raspberry Pi imports slowly, and a stick gets its firmware first
    retry: float = 1.0  # before the next worker is started; twice as long after each further loss,
    longest: float = 60.0  # up to this,
    steady: float = 60.0  # and again the shortest after a worker that served this long


class SupervisedEncoder(Encoder):
    """An encoder that has the Edge TPU answer while it can. Otherwise the CPU does, also for the crops that it was lost over.

    A worker process (device/worker.py) uses the Edge TPU. What happens to it happens in `embed`, which therefore wants to be called
    on every frame, if only with no crops: one that has ended, hangs or answers nonsense is replaced, after pauses that grow; the CPU
    answers until the new one has passed a self-test. `backend` is what answers now, `deaths` how many workers were lost.
    `notify(kind, text)` is told of every switch, "backend-edgetpu" or "backend-cpu", and of a first start that failed.

    `start` makes a worker, or None where there is no Edge TPU now. With `required` the CPU never answers: MissingError is raised.
    All calls belong into one thread, and the worker ends with it.
    """

    def __init__(
        self,
        model: Path,
        start: Callable[[], Worker | None],
        notify: Notify | None = None,
        required: bool = False,
        patience: Patience | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        super().__init__(model)
        self.deaths = 0
        self._start, self._notify, self._required, self._clock = start, notify, required, clock
        self._patience = patience or Patience()
        self._worker: Worker | None = None
        self._dying: Worker | None = None  # one that was killed and is not gone yet
        self._since = 0.0  # when the worker was started, or began to serve
        self._next, self._pause = clock(), self._patience.retry  # when to start a worker, and how long to wait after its loss
        if required:
            self._supervise(self._patience.start)

    def embed(self, crops: np.ndarray) -> np.ndarray:
        _check(crops)
        self._supervise()
        if self._worker and self.backend == "edgetpu":
            try:
                return self._worker.embed(crops, self._patience.answer)
            except Lost as lost:
                self._lose(lost)
        if self._required:
            raise MissingError("the Edge TPU does not answer any more", MEND)
        return super().embed(crops)

    def close(self) -> None:
        for process in (self._worker, self._dying):
            if process:
                process.close()
        self._worker = self._dying = None
        self._next, self.backend = float("inf"), "cpu"

    def _supervise(self, wait: float = 0.0) -> None:
        """Notice a worker that has ended, start one when its time has come, and have it serve once it has passed its self-test."""
        try:
            if self._worker is None:
                self._begin()
            elif self.backend == "edgetpu":
                self._worker.check()
            if self._worker and self.backend == "cpu":
                self._examine(self._worker, wait)
        except Lost as lost:
            self._lose(lost)

    def _begin(self) -> None:
        if self._dying and self._dying.end(0.0):
            self._dying = None
        if self._dying is None and self._clock() >= self._next:
            self._worker, self._since = self._start(), self._clock()
            if self._worker:
                self._worker.ask(specimens())
            else:
                self._wait_longer()

    def _examine(self, process: Worker, wait: float) -> None:
        rows = process.answer(wait)
        if rows is not None:
            likeness = alike(rows, self._expected)
            if likeness < ALIKE:
                raise Lost(f"its worker failed the self-test: cosine {likeness:.2f} to the CPU, at least {ALIKE} is right")
            self.backend, self._since = "edgetpu", self._clock()
            self._tell("backend-edgetpu", f"the Edge TPU answers (self-test passed: cosine {likeness:.3f} to the CPU)")
        elif wait or self._clock() - self._since >= self._patience.start:
            raise Lost(f"its worker was not ready within {self._patience.start:g} s")

    @cached_property
    def _expected(self) -> np.ndarray:
        return super().embed(specimens())

    def _lose(self, lost: Lost) -> None:
        served, self.backend = self.backend == "edgetpu", "cpu"
        self.deaths += 1
        if self._worker and not self._worker.end(worker.BURIAL_S):
            self._dying = self._worker
        self._worker = None
        if self._required:
            self.close()
            raise MissingError(f"the Edge TPU does not answer ({lost})", MEND) from lost
        if served and self._clock() - self._since >= self._patience.steady:
            self._pause = self._patience.retry
        if served or self.deaths == 1:
            self._tell(
                "backend-cpu", f"the Edge TPU does not answer ({lost}), the CPU does; loss {self.deaths}, tried again in {self._pause:g} s"
            )
        self._wait_longer()

    def _wait_longer(self) -> None:
        self._next = self._clock() + self._pause
        self._pause = min(2 * self._pause, self._patience.longest)

    def _tell(self, kind: str, text: str) -> None:
        if self._notify:
            self._notify(kind, text)


def alike(rows: np.ndarray, expected: np.ndarray) -> float:
    """The least cosine of `rows` [N, D] and what is `expected` of the same crops, once the mean of the latter is removed from both.

    With it a constant answer would look right for encoders whose embeddings have most of their length in common. Other kernels,
    which round otherwise, reach 0.97 and more; an output that is always the same 0 (tests/device/test_embed.py).
    """
    common = expected.mean(axis=0)
    left, right = rows - common, expected - common
    lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return float(((left * right).sum(axis=1) / np.maximum(lengths, 1e-9)).min())


def specimens() -> np.ndarray:
    """The crops of the self-test, uint8 [4, 112, 112, 3]: coloured clouds, unlike each other. No faces."""
    clouds = np.random.default_rng(14).integers(0, 256, (4, 8, 8, 3), np.uint8)
    return np.stack([cv2.resize(cloud, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC) for cloud in clouds])


def open_encoder(bundle: Bundle, backend: str = "auto", notify: Notify | None = None) -> Encoder:
    """The encoder of `bundle`; close it after use. `notify` is told which backend answers whenever that changes.

    "auto" is a SupervisedEncoder where the bundle holds a model compiled for the Edge TPU: it starts on the CPU, and uses an Edge TPU
    whenever one is plugged in and works. "edgetpu" waits for it, and raises MissingError if it is not to be had or lost, then from
    `embed`. Raises StoredError where the bundle wants other crops.
    """
    if bundle.preprocessing != VERSION:
        wanted = f"{bundle.path} wants crops of preprocessing {bundle.preprocessing}"
        raise StoredError(f"{wanted}, this program makes {VERSION}", "update Omokage, or name another bundle with --encoder")
    if backend not in BACKENDS:
        raise InputError(f"there is no backend {backend}", f"choose one of {', '.join(BACKENDS)}")
    required, compiled = backend == "edgetpu", bundle.path / ENCODER_EDGETPU

    def start() -> Worker | None:
        return Worker(compiled, bundle.dimension, worker.PROGRAM) if required or accelerator.find() else None

    if backend != "cpu" and ENCODER_EDGETPU in bundle.manifest["files"]:
        return SupervisedEncoder(bundle.path / ENCODER, start, notify, required)
    if required:
        raise MissingError(f"{bundle.path} holds no {ENCODER_EDGETPU}", "compile it with convert/compile.py, or use --backend cpu")
    return Encoder(bundle.path / ENCODER)


def delegate() -> Any:
    """The runtime's delegate for the Edge TPU. Only for a process that may end in it.

    Raises MissingError: no library, or no Edge TPU answers.
    """
    runtime = _runtime()
    accelerator.load()  # first, because load_delegate prints a traceback where it is not there
    try:
        return runtime.load_delegate(accelerator.LIBEDGETPU)
    except ValueError as error:
        raise MissingError("no Edge TPU answers", "plug it in again") from error


def interpreter(model: Path, backend: str, threads: int) -> Any:
    """An interpreter ready to run, its delegate loaded."""
    runtime = _runtime()
    try:
        content = model.read_bytes()
    except OSError as error:
        raise InputError(f"{model} cannot be read ({error.strerror})", "check the name") from error
    if content[4:8] != b"TFL3":  # the runtime may crash on what is no model
        raise InputError(f"{model} is not a TFLite model", "name an encoder made by convert/quantize.py")
    delegates = [delegate()] if backend == "edgetpu" else None
    try:
        with quiet() if backend == "cpu" else contextlib.nullcontext():  # what the Edge TPU's worker says is for its parent
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


def _check(crops: np.ndarray) -> None:
    if crops.dtype != np.uint8 or crops.shape[1:] != (SIZE, SIZE, 3):
        raise ValueError(f"crops are uint8 [N, {SIZE}, {SIZE}, 3], not {crops.dtype} {list(crops.shape)}")


def _shapes(details: list[dict[str, Any]]) -> str:
    return ", ".join(f"{np.dtype(entry['dtype']).name} {entry['shape'].tolist()}" for entry in details)
