"""Silence for libraries that write to stderr on their own: libjpeg, libpng, the TFLite runtime."""

import contextlib
import os
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Nothing that this process writes to stderr within the block comes out. For short calls into such a library."""
    try:
        kept = os.dup(2)
    except OSError:  # the program was started without a stderr
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
