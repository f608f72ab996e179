"""The Edge TPU's worker without an Edge TPU: device/edgetpu.py, but for the models that the CPU runs, and for what it does wrong.

  python standin.py WHAT WHEN MEMORY CHANNEL PARENT MODEL SIGNATURE...

WHAT it does is a key of DEEDS, WHEN is "open" (a model), "test" (at the self-test), "detector" (when a model of several outputs is
asked), "white" (when any sees a white picture) or "never". Its answers are a little turned, which tells them from the CPU's own.
"""

import ctypes
import os
import sys
import time
from pathlib import Path

import numpy as np

from device.program import MissingError
from device.runtime import Model
from device.worker import serve


def abort(_outputs=None):
    print("F driver.cc:42] USB transfer error 2", file=sys.stderr, flush=True)
    os.abort()


def segfault(_outputs=None):
    ctypes.string_at(0)


def hang(_outputs=None):
    time.sleep(1e6)


def leave(_outputs=None):
    os._exit(0)


def refuse(_outputs=None):
    raise MissingError("no Edge TPU answers", "plug it in again")


def garbage(outputs):
    return [np.random.default_rng(0).integers(0, 256, output.shape, np.uint8) for output in outputs]


def babble(outputs):
    os.write(int(sys.argv[4]), b"\0\0\0\1?")  # a message of one byte, as multiprocessing has them
    return outputs


def nothing(outputs=None):
    return outputs


DEEDS = {deed.__name__: deed for deed in (abort, segfault, hang, leave, refuse, garbage, babble, nothing)}


class Turned(Model):
    """Answers a step beside the model of the CPU."""

    def run(self, inputs):
        return [output ^ 1 for output in super().run(inputs)]


class Standin(Turned):
    def __init__(self, path: Path, what: str, when: str):
        super().__init__(path)
        self._deed, self._when = DEEDS[what], when
        if when == "open":
            self._deed()

    def run(self, inputs):
        outputs = super().run(inputs)
        now = {"test": True, "detector": len(outputs) > 1, "white": inputs.min() == 255}
        return self._deed(outputs) if now.get(self._when, False) else outputs


if __name__ == "__main__":
    what, when, *rest = sys.argv[1:]
    sys.exit(serve(lambda path: Standin(path, what, when), rest))
