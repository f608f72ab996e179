"""A process of its own that runs models, because what it calls may end or hang it.

libedgetpu aborts where a stick is pulled out or a cable is bad, and crashes where it was built for another runtime. Here are both
ends: `Worker` starts, asks and ends such a process, and `serve` is what it runs (device/edgetpu.py is its program). An Edge TPU
belongs to one process, which therefore runs all models.

Inputs and outputs lie in memory that both map and that has no name, so that none is left behind. Over a socket go only the
number of the model and of its inputs, and both again when the outputs are there. The process reads end of file there when its
parent closes or dies, and is killed by the kernel with its parent where it no longer reads. What it says on stderr tells why it
ended.
"""

import argparse
import contextlib
import ctypes
import mmap
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from device.accelerator import ROOT
from device.program import Parser, StoredError, run
from device.runtime import Model, Signature

PROGRAM = (sys.executable, "-m", "device.edgetpu")
CAPACITY = 16  # inputs that a model is given at a time
QUESTION = struct.Struct("!II")  # the number of a model, and of inputs; the answer is the same
FAREWELL_S = 2.0  # a worker that is told to end may take this long to let go of the device
BURIAL_S = 0.08  # a killed process is gone sooner, unless the machine is busy or it is stuck in the kernel
PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Lost(Exception):
    """The worker ended, hangs or answers nonsense. Says which."""


class Worker:
    """One process that runs models, from its start to its end. Only `run` and `answer` wait, and no longer than they are told.

    `models` are its files, and what each has to map to what; they are numbered in this order. It runs `program` with the arguments
    that `serve` reads. It dies with the thread that started it. Raises Lost where it cannot be started.
    """

    def __init__(self, models: Mapping[Path, Signature], program: Sequence[str] = PROGRAM):
        self._signatures = list(models.values())
        self._asked: tuple[int, int] | None = None  # the question that is not answered yet
        with contextlib.ExitStack() as afterwards:
            try:
                self._channel, theirs = Pipe()
                afterwards.callback(theirs.close)
                memory = os.memfd_create("omokage-worker")
                afterwards.callback(os.close, memory)
                self._places = _places(memory, self._signatures)
                wanted = [str(word) for path, signature in models.items() for word in (path.resolve(), signature)]
                self._process = subprocess.Popen(
                    [*program, *map(str, (memory, theirs.fileno(), os.getpid())), *wanted],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    pass_fds=(memory, theirs.fileno()),
                    start_new_session=True,  # a process group of its own: Ctrl-C is for the program, not for the worker
                    cwd=ROOT,
                )
            except OSError as error:
                raise Lost(f"its worker cannot be started: {error.strerror}") from error
        assert self._process.stderr is not None
        self._stderr = self._process.stderr
        os.set_blocking(self._stderr.fileno(), False)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def status(self) -> int | None:
        """How the process ended: its exit status, or minus the number of the signal. None: not yet, or not yet noticed."""
        return self._process.returncode

    def run(self, number: int, inputs: np.ndarray, limit: float) -> list[np.ndarray]:
        """What model `number` says of `inputs` [N, ...], of each output [N, ...]; each CAPACITY of them in `limit` seconds, or Lost."""
        parts = [[np.empty((0, *tensor.shape[1:]), tensor.dtype) for tensor in self._signatures[number].outputs]]
        for start in range(0, len(inputs), CAPACITY):
            self.ask(number, inputs[start : start + CAPACITY])
            outputs = self.answer(limit)
            if outputs is None:
                raise Lost(f"its worker did not answer within {limit:g} s")
            parts.append(outputs)
        return [np.concatenate(outputs) for outputs in zip(*parts, strict=True)]

    def ask(self, number: int, inputs: np.ndarray) -> None:
        """Give model `number` up to CAPACITY `inputs`. Raises Lost where the process has ended."""
        if self._asked:
            raise Lost("its worker was interrupted")  # and so it would answer the last question
        self._places[number][0][: len(inputs)] = inputs
        self._asked = number, len(inputs)
        try:
            self._channel.send_bytes(QUESTION.pack(*self._asked))
        except OSError as error:
            raise self._ended() from error

    def answer(self, limit: float) -> list[np.ndarray] | None:
        """What was asked, of each output [N, ...], or None where it is not there within `limit` seconds, or Lost."""
        assert self._asked is not None
        number, count = self._asked
        try:
            if not self._channel.poll(limit):
                return None
            heard = self._channel.recv_bytes()
        except (EOFError, OSError) as error:
            raise self._ended() from error
        if heard != QUESTION.pack(number, count):
            raise Lost("its worker answers what it was not asked")
        self._asked = None
        return [output[:count].copy() for output in self._places[number][1:]]

    def check(self) -> None:
        """Raises Lost where the process has ended."""
        if self._process.poll() is not None:
            raise self._ended()

    def end(self, wait: float) -> bool:
        """Kill the process, if it lives, and bury it. False: it is not gone within `wait` seconds, call again."""
        self._channel.close()
        gone = self._kill(wait)
        if gone:
            self._stderr.close()
            self._places.clear()  # lets go of the shared memory
        return gone

    def close(self) -> None:
        """Let the process end by itself, so that it lets go of the device, and kill it if it does not."""
        self._channel.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(FAREWELL_S)
        self.end(FAREWELL_S)

    def _kill(self, wait: float) -> bool:
        if self.status is None:  # not buried yet, so the number is still its own
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(wait)
        return self.status is not None

    def _ended(self) -> Lost:
        """Why the process ended: by what signal, and its last words."""
        self._kill(BURIAL_S)  # one that closed its end has ended or is about to, and its status is settled
        words = (self._stderr.read() or b"").decode(errors="replace").splitlines()
        last = next((line for line in reversed(words) if line.strip() and not line.startswith("INFO")), "")
        if self.status is not None and self.status < 0:
            return Lost(f"its worker was ended by {signal.Signals(-self.status).name}" + (f": {last}" if last else ""))
        return Lost(
            last.partition(": ")[2] or ("its worker is ending" if self.status is None else f"its worker ended with status {self.status}")
        )


def serve(open_model: Callable[[Path], Model], argv: list[str] | None = None) -> int:
    """The worker's side: run what `open_model` makes of the models' paths, until the parent closes its end."""
    parser = Parser("A worker of device/supervisor.py, which starts it.")
    for number in ("memory", "channel", "parent"):
        parser.add_argument(number, type=int)
    parser.add_argument("wanted", nargs="+", metavar="MODEL SIGNATURE")

    def answer(args: argparse.Namespace) -> int:
        _die_with(args.parent)
        os.set_blocking(2, False)  # nobody reads what is too much for the pipe
        models = [open_model(Path(path)) for path in args.wanted[::2]]
        for model, wanted in zip(models, args.wanted[1::2], strict=True):
            if str(model.signature) != wanted:
                raise StoredError(f"{model.path} maps {model.signature}, the model it was compiled from {wanted}", "compile it")
        places = _places(args.memory, [model.signature for model in models])
        with Connection(args.channel) as channel, contextlib.suppress(EOFError, ConnectionError):
            while True:
                question = channel.recv_bytes()
                number, count = QUESTION.unpack(question)
                inputs, *outputs = places[number]
                for output, made in zip(outputs, models[number].run(inputs[:count]), strict=True):
                    output[:count] = made
                channel.send_bytes(question)
        return 0

    return run(answer, parser, argv)


def _places(memory: int, signatures: Iterable[Signature]) -> list[list[np.ndarray]]:
    """What lies in the shared memory: of each model CAPACITY inputs, and of each output as many."""
    tensors = [(signature.input, *signature.outputs) for signature in signatures]
    kinds = [[np.dtype((tensor.dtype, (CAPACITY, *tensor.shape[1:]))) for tensor in each] for each in tensors]
    os.ftruncate(memory, sum(kind.itemsize for each in kinds for kind in each))
    places: list[list[np.ndarray]] = []
    shared, start = mmap.mmap(memory, 0), 0
    for each in kinds:
        places.append([])
        for kind in each:
            places[-1].append(np.ndarray(kind.shape, kind.base, shared, start))
            start += kind.itemsize
    return places


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent dies, also where it hangs in a library."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before
        os._exit(0)
