"""A process of its own that embeds crops, because what it calls may end or hang it.

libedgetpu aborts where a stick is pulled out or a cable is bad, and crashes where it was built for another runtime. Here are both
ends: `Worker` starts, asks and ends such a process, and `serve` is what it runs (device/edgetpu.py is its program).

Crops and embeddings lie in memory that both map and that has no name, so that none is left behind. Over a socket go only the
number of crops to embed and, when they are, a word back. The process reads end of file there when its parent closes or
dies, and is killed by the kernel with its parent where it no longer reads. What it says on stderr tells why it ended.
"""

import argparse
import contextlib
import ctypes
import mmap
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from device.accelerator import ROOT
from device.align import SIZE
from device.program import Parser, StoredError, run

if TYPE_CHECKING:
    from device.embed import Encoder

PROGRAM = (sys.executable, "-m", "device.edgetpu")
CAPACITY = 16  # crops that are embedded at a time
FAREWELL_S = 2.0  # a worker that is told to end may take this long to let go of the device
BURIAL_S = 0.08  # a killed process is gone sooner, unless the machine is busy or it is stuck in the kernel
PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Lost(Exception):
    """The worker ended, hangs or answers nonsense. Says which."""


class Worker:
    """One process that embeds crops, from its start to its end. Only `embed` and `answer` wait, and no longer than they are told.

    It runs `program` with the arguments that `serve` reads. It dies with the thread that started it.
    Raises Lost where it cannot be started.
    """

    def __init__(self, model: Path, dimension: int, program: Sequence[str] = PROGRAM):
        self._asked = 0  # crops whose embeddings did not come yet
        with contextlib.ExitStack() as afterwards:
            try:
                self._channel, theirs = Pipe()
                afterwards.callback(theirs.close)
                memory = os.memfd_create("omokage-crops")
                afterwards.callback(os.close, memory)
                os.ftruncate(memory, CAPACITY * (SIZE * SIZE * 3 + 4 * dimension))
                self._crops, self._rows = _views(memory, dimension)
                self._process = subprocess.Popen(
                    [*program, str(model.resolve()), *map(str, (dimension, memory, theirs.fileno(), os.getpid()))],
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

    def embed(self, crops: np.ndarray, limit: float) -> np.ndarray:
        """The embeddings of `crops` uint8 [N, 112, 112, 3], float32 [N, D]; each CAPACITY of them in `limit` seconds, or Lost."""
        parts = [np.empty((0, self._rows.shape[1]), np.float32)]
        for start in range(0, len(crops), CAPACITY):
            self.ask(crops[start : start + CAPACITY])
            rows = self.answer(limit)
            if rows is None:
                raise Lost(f"its worker did not answer within {limit:g} s")
            parts.append(rows)
        return np.concatenate(parts)

    def ask(self, crops: np.ndarray) -> None:
        """Have up to CAPACITY `crops` embedded. Raises Lost where the process has ended."""
        if self._asked:
            raise Lost("its worker was interrupted")  # and so it would answer the last question
        self._crops[: len(crops)] = crops
        self._asked = len(crops)
        try:
            self._channel.send(len(crops))
        except OSError as error:
            raise self._ended() from error

    def answer(self, limit: float) -> np.ndarray | None:
        """The embeddings of what was asked, float32 [N, D], or None where they are not there within `limit` seconds, or Lost."""
        try:
            if not self._channel.poll(limit):
                return None
            self._channel.recv_bytes()
        except (EOFError, OSError) as error:
            raise self._ended() from error
        rows, self._asked = self._rows[: self._asked].copy(), 0
        if not np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-3):  # NaN is not close either
            raise Lost("its worker answered with what are no embeddings")
        return rows

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
            self._crops, self._rows = self._crops[:0].copy(), self._rows[:0].copy()  # lets go of the shared memory
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


def serve(open_model: Callable[[Path], "Encoder"], argv: list[str] | None = None) -> int:
    """The worker's side: embed with what `open_model` makes of the model's path, until the parent closes its end."""
    parser = Parser("A worker of device/embed.py, which starts it.")
    parser.add_argument("model", type=Path)
    for number in ("dimension", "memory", "channel", "parent"):
        parser.add_argument(number, type=int)

    def answer(args: argparse.Namespace) -> int:
        _die_with(args.parent)
        os.set_blocking(2, False)  # nobody reads what is too much for the pipe
        encoder = open_model(args.model)
        if encoder.dimension != args.dimension:
            raise StoredError(
                f"{args.model} has {encoder.dimension} dimensions, the encoder it was compiled from {args.dimension}", "compile it"
            )
        crops, rows = _views(args.memory, args.dimension)
        with Connection(args.channel) as channel, contextlib.suppress(EOFError, ConnectionError):
            while True:
                count = channel.recv()
                rows[:count] = encoder.embed(crops[:count])
                channel.send_bytes(b"done")
        return 0

    return run(answer, parser, argv)


def _views(memory: int, dimension: int) -> tuple[np.ndarray, np.ndarray]:
    """What lies in the shared memory: crops uint8 [CAPACITY, 112, 112, 3] and embeddings float32 [CAPACITY, D]."""
    shared = mmap.mmap(memory, 0)
    crops = np.frombuffer(shared, np.uint8, CAPACITY * SIZE * SIZE * 3).reshape(CAPACITY, SIZE, SIZE, 3)
    return crops, np.frombuffer(shared, np.float32, CAPACITY * dimension, crops.nbytes).reshape(CAPACITY, dimension)


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent dies, also where it hangs in a library."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before
        os._exit(0)
