"""Kill the Edge TPU's worker over and over, while frames go on: who answers, how long the longest frame takes, what is left behind.

  python benchmarks/worker_deaths.py --deaths 1000

The worker runs the CPU's model in place of an Edge TPU, and is started again without a pause; all else is as on the device. Every
other signal is sent between two frames, the rest at a random moment of one. Exit status 1: a frame was not answered by the CPU's
model, took more than 200 ms (plus the time limit of a hang), or something was left behind. Frames without a death are timed too:
they show what else the machine was busy with.
"""

import argparse
import os
import random
import signal
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path

import numpy as np

from device import bundle
from device.align import SIZE
from device.embed import Encoder
from device.program import HOLDS_NOT, Parser, run
from device.supervisor import Patience, Supervisor
from device.worker import Worker

SIGNALS = [signal.SIGKILL, signal.SIGABRT, signal.SIGSEGV, signal.SIGSTOP, signal.SIGTERM]
PROGRAM = (sys.executable, "-c", "from device.runtime import Model; from device.worker import serve; raise SystemExit(serve(Model))")
PATIENCE = Patience(retry=0.0, longest=0.0)
GAP_MS = 200.0
REST_S = 0.02  # between two frames; a camera's are further apart
FACES = 2
WARM = 20  # deaths before memory is compared


class Loop:
    """Frames embedded one after the other by a supervised encoder, each timed and compared with what the CPU says."""

    def __init__(self) -> None:
        path = bundle.find(None).path / bundle.ENCODER
        self.workers: list[Worker] = []
        self.notices: list[str] = []
        self.frames = self.wrong = 0
        self._crops = np.random.default_rng(0).integers(0, 256, (FACES, SIZE, SIZE, 3), np.uint8)
        self._expected = Encoder(path).embed(self._crops)
        self.encoder = Encoder(path)
        model = self.encoder.model

        def start() -> Worker:
            self.workers = [Worker({path: model.signature}, PROGRAM)]
            return self.workers[0]

        Supervisor([model], start, lambda kind, text: self.notices.append(kind), patience=PATIENCE)

    def frame(self) -> float:
        """Embed one frame; the milliseconds that it took."""
        began = time.perf_counter()
        rows = self.encoder.embed(self._crops)
        taken = 1000 * (time.perf_counter() - began)
        self.frames += 1
        self.wrong += not np.allclose(rows, self._expected, atol=1e-5)
        return taken

    def until(self, backend: str) -> float:
        """Frames until `backend` answers; the longest of them in milliseconds."""
        longest = self.frame()
        while self.encoder.backend != backend:
            time.sleep(REST_S)
            longest = max(longest, self.frame())
        return longest

    def kill(self, number: signal.Signals, within: bool) -> float:
        """Send the worker a signal, `within` a frame or before one; the longest frame until the CPU answers, in milliseconds."""
        sender = threading.Timer(random.uniform(0, 0.004) if within else 0.0, os.kill, (self.workers[0].pid, number))
        sender.start()
        if not within:
            sender.join()
        longest = self.until("cpu")
        sender.join()
        return longest


def left_behind() -> dict[str, int]:
    """What a process may leak: children that ended and were not buried, shared memory, open files, memory in KB."""
    states = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = entry.read_text().rpartition(")")[2].split()[:2]
        except OSError:  # it has just ended
            continue
        states += [state] if int(parent) == os.getpid() else []
    return {
        "zombies": states.count("Z"),
        "children": len(states),
        "blocks of shared memory": Path("/proc/self/maps").read_text().count("memfd:omokage"),
        "open files": len(list(Path("/proc/self/fd").iterdir())),
        "KB of memory": int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") // 1024,
    }


def _main(args: argparse.Namespace) -> int:
    random.seed(0)
    loop = Loop()
    gaps: dict[str, list[float]] = defaultdict(list)
    zombies, before = 0, {}
    for death in range(args.deaths):
        gaps["while the next starts"].append(loop.until("edgetpu"))
        gaps["nothing: it serves"].append(loop.frame())
        zombies += left_behind()["zombies"]
        if death == min(WARM, args.deaths - 1):
            before = left_behind()
        number = SIGNALS[death % len(SIGNALS)]
        gaps[number.name].append(loop.kill(number, within=death // len(SIGNALS) % 2 == 1))
        if sys.stderr.isatty() or death % 100 == 99:
            print(f"\r{death + 1} of {args.deaths}", end="" if sys.stderr.isatty() else "\n", file=sys.stderr)
    gaps["while the next starts"].append(loop.until("edgetpu"))
    after = left_behind()
    loop.encoder.close()
    limits = {number.name: GAP_MS + (1000 * PATIENCE.answer if number is signal.SIGSTOP else 0.0) for number in SIGNALS}
    print("| worker ended by | times | longest frame, ms | median of them | allowed |\n|---|---|---|---|---|")
    for name, values in gaps.items():
        print(f"| {name} | {len(values)} | {max(values):.0f} | {np.median(values):.0f} | {limits.get(name, GAP_MS):.0f} |")
    counted = loop.encoder.deaths == args.deaths == loop.notices.count("backend-cpu")
    print(f"\n{loop.frames} frames, {loop.wrong} answered wrongly; {loop.encoder.deaths} deaths counted, each told once: {counted}")
    print(f"{zombies} zombies seen when the next worker served; left at the end: {left_behind()['children']} children")
    print("\n".join(f"{what}: {before[what]} after {min(WARM, args.deaths - 1)} deaths, {after[what]} at the end" for what in before))
    slow = any(max(values) > limits.get(name, GAP_MS) for name, values in gaps.items())
    leaks = zombies or any(after[what] > before[what] for what in ("zombies", "children", "blocks of shared memory", "open files"))
    return HOLDS_NOT if slow or leaks or loop.wrong or not counted or left_behind()["children"] else 0


def main(argv: list[str] | None = None) -> int:
    parser = Parser(__doc__)
    parser.add_argument("--deaths", type=int, default=1000, help="how many (default: %(default)s, a quarter of an hour)")
    return run(_main, parser, argv)


if __name__ == "__main__":
    sys.exit(main())
