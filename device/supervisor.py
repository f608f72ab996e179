"""Models on an Edge TPU that may be lost: a worker process runs them there, the CPU wherever it cannot."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from device import worker
from device.program import MissingError
from device.runtime import Model, Tensor
from device.worker import Lost, Worker

ALIKE = 0.9  # the likeness to the CPU's answer (`alike`) that the self-test asks for
TELLING = 2.0  # steps that an output of a specimen differs by from those of the others; where it is less, rounding hides it
CLOUD = 14  # pixels, the grain of a specimen
MEND = "see python device/doctor.py, or use --backend cpu"
Notify = Callable[[str, str], None]


@dataclass(frozen=True)
class Patience:
    """What a Supervisor waits for, in seconds."""

    answer: float = 1.0  # for worker.CAPACITY inputs, several times what they take over USB 2; longer, and the worker hangs
    start: float = 30.0  # for a new worker's self-test: a Raspberry Pi imports slowly, and a stick gets its firmware first
    retry: float = 1.0  # before the next worker is started; twice as long after each further loss,
    longest: float = 60.0  # up to this,
    steady: float = 60.0  # and again the shortest after a worker that served this long


class Supervisor:
    """Has the Edge TPU run `models` while it can. Otherwise the CPU does, also what it was lost over.

    A worker process (device/worker.py), one for all models, uses the Edge TPU. What happens to it happens in `run`, which
    therefore wants to be called on every frame, if only with no inputs: one that has ended, hangs or answers nonsense is
    replaced, after pauses that grow; the CPU answers until the new one has passed a self-test of every model. `backend` is what
    answers now, `deaths` how many workers were lost. `notify(kind, text)` is told of every switch, "backend-edgetpu" or
    "backend-cpu", and of a first start that failed.

    `start` makes a worker, or None where there is no Edge TPU now. With `required` the CPU never answers: MissingError is raised.
    All calls belong into one thread, and the worker ends with it.
    """

    def __init__(
        self,
        models: Sequence[Model],
        start: Callable[[], Worker | None],
        notify: Notify | None = None,
        required: bool = False,
        patience: Patience | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.backend, self.deaths = "cpu", 0
        self._models, self._start, self._notify, self._required, self._clock = models, start, notify, required, clock
        self._patience = patience or Patience()
        self._worker: Worker | None = None
        self._dying: Worker | None = None  # one that was killed and is not gone yet
        self._passed: list[float] = []  # the likeness of the models that the worker's self-test is through with
        self._since = 0.0  # when the worker was started, or began to serve
        self._next, self._pause = clock(), self._patience.retry  # when to start a worker, and how long to wait after its loss
        if required:
            self._supervise(self._patience.start)
        for model in models:
            model.supervisor = self

    def run(self, model: Model, inputs: np.ndarray) -> list[np.ndarray]:
        """What `model`, one of those that are supervised, says of `inputs`: Model.run."""
        self._supervise()
        if self._worker and self.backend == "edgetpu":
            try:
                return self._worker.run(self._models.index(model), inputs, self._patience.answer)
            except Lost as lost:
                self._lose(lost)
        if self._required:
            raise MissingError("the Edge TPU does not answer any more", MEND)
        return model.run_here(inputs)

    def close(self) -> None:
        """End the worker. From now on the CPU answers."""
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
            self._worker, self._since, self._passed = self._start(), self._clock(), []
            if self._worker:
                self._question(self._worker)
            else:
                self._wait_longer()

    def _question(self, process: Worker) -> None:
        """Ask about the next model."""
        number = len(self._passed)
        process.ask(number, specimens(self._models[number].signature.input))

    def _examine(self, process: Worker, wait: float) -> None:
        """The self-test: one model after the other."""
        while (outputs := process.answer(wait)) is not None:
            number = len(self._passed)
            likeness = alike(outputs, self._expected[number])
            if likeness < ALIKE:
                name = self._models[number].path.stem
                raise Lost(f"its worker failed the self-test of the {name}: cosine {likeness:.2f} to the CPU, at least {ALIKE} is right")
            self._passed.append(likeness)
            if len(self._passed) == len(self._models):
                self.backend, self._since = "edgetpu", self._clock()
                names = " and ".join(model.path.stem for model in self._models)
                self._tell("backend-edgetpu", f"the Edge TPU runs {names} (self-test passed: cosine {min(self._passed):.3f} to the CPU)")
                return
            self._question(process)
        if wait or self._clock() - self._since >= self._patience.start:
            raise Lost(f"its worker was not ready within {self._patience.start:g} s")

    @cached_property
    def _expected(self) -> list[list[np.ndarray]]:
        return [model.run_here(specimens(model.signature.input)) for model in self._models]

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


def alike(outputs: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> float:
    """How like `outputs`, each uint8 [N, ...], are to what is `expected` of the same inputs: -1 to 1, the least of all outputs and
    inputs.

    It is a cosine, once the mean of what is expected is removed from both: with it a constant answer would look right, because most
    of what a model says it says of every input. Other kernels, which round otherwise, reach 0.97 and more; an output that is always
    the same 0 (tests/device/test_supervisor.py). An output that hardly differs from the mean, as a detector's heat may where there is
    no face, is left out: rounding is all there would be to compare.
    """
    cosines: list[float] = []
    for found, wanted in zip(outputs, expected, strict=True):
        left, right = (stored.reshape(len(stored), -1).astype(np.float32) for stored in (found, wanted))
        common = right.mean(axis=0)
        left, right = left - common, right - common
        lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
        telling = (right**2).mean(axis=1) >= TELLING**2
        cosines += ((left * right).sum(axis=1) / np.maximum(lengths, 1e-9))[telling].tolist()
    return min(cosines, default=0.0)


def specimens(wanted: Tensor) -> np.ndarray:
    """The pictures of the self-test for an input [1, H, W, 3], uint8 [4, H, W, 3]: coloured clouds, unlike each other. No faces."""
    height, width = wanted.shape[1:3]
    clouds = np.random.default_rng(14).integers(0, 256, (4, height // CLOUD, width // CLOUD, 3), np.uint8)
    return np.stack([cv2.resize(cloud, (width, height), interpolation=cv2.INTER_CUBIC) for cloud in clouds])
