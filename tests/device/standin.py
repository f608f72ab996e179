"""The Edge TPU's worker without an Edge TPU: device/edgetpu.py, but for the model that the CPU runs, and for what it does wrong.

  python standin.py WHAT WHEN MODEL DIMENSION MEMORY CHANNEL PARENT

WHAT it does is a key of DEEDS, WHEN is "open" (the model), "test" (at the self-test), "white" (when it sees a white crop) or "never".
Its embeddings are a little turned, which tells them from the CPU's own.
"""

import ctypes
import os
import sys
import time
from pathlib import Path

import numpy as np

from device.embed import Encoder
from device.program import MissingError
from device.worker import serve


def abort(_rows=None):
    print("F driver.cc:42] USB transfer error 2", file=sys.stderr, flush=True)
    os.abort()


def segfault(_rows=None):
    ctypes.string_at(0)


def hang(_rows=None):
    time.sleep(1e6)


def leave(_rows=None):
    os._exit(0)


def refuse(_rows=None):
    raise MissingError("no Edge TPU answers", "plug it in again")


def garbage(rows):
    noise = np.random.default_rng(0).normal(size=rows.shape)
    return noise / np.linalg.norm(noise, axis=1, keepdims=True)


def nan(rows):
    return np.full_like(rows, np.nan)


def nothing(rows=None):
    return rows


DEEDS = {deed.__name__: deed for deed in (abort, segfault, hang, leave, refuse, garbage, nan, nothing)}


class Standin(Encoder):
    def __init__(self, model: Path, what: str, when: str):
        super().__init__(model)
        self._deed, self._when = DEEDS[what], when
        if when == "open":
            self._deed()

    def embed(self, crops):
        turned = super().embed(crops) + 0.01 / np.sqrt(self.dimension)
        rows = turned / np.linalg.norm(turned, axis=1, keepdims=True)
        return self._deed(rows) if self._when == "test" or (self._when == "white" and crops.min() == 255) else rows


if __name__ == "__main__":
    what, when, *rest = sys.argv[1:]
    sys.exit(serve(lambda model: Standin(model, what, when), rest))
