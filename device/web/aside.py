"""Work that takes much memory, or looks at what strangers sent, in a process of its own that ends thereafter.

The page stays small that way, and a picture that makes a decoder fail, hang or grow harms nobody.
"""

import os
import pickle
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from device.program import OmokageError, StoredError

SECONDS = 120  # that it may take
MEMORY = 4 * 2**30  # bytes of addresses: what a runtime reserves without using counts too
ROOT = Path(__file__).parents[2]
T = TypeVar("T")


def call(function: Callable[..., T], *args: Any) -> T:
    """`function(*args)`, in a process of its own; both are pickled. An OmokageError is raised here again."""
    process = subprocess.Popen([sys.executable, "-m", __name__], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        answer, _ = process.communicate(pickle.dumps((function, args)), timeout=SECONDS)
    except subprocess.TimeoutExpired as error:
        raise StoredError(f"that took more than {SECONDS} seconds", "try it with less at once") from error
    finally:
        process.kill()
        process.wait()
    if not answer:
        raise StoredError("the work broke off", "try it with less at once, or with other pictures; the log tells more")
    done, failed = pickle.loads(answer)
    if failed:
        kind, wrong, mend = failed
        raise kind(wrong, mend)
    return done


def _main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(5)  # neither the recogniser nor the pages are to wait for it
    function, args = pickle.load(sys.stdin.buffer)
    done = failed = None
    try:
        done = function(*args)
    except OmokageError as error:
        failed = type(error), error.wrong, error.mend
    sys.stdout.buffer.write(pickle.dumps((done, failed)))


if __name__ == "__main__":
    _main()
