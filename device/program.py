"""What every program of Omokage shares: its errors, its exit statuses, its way of writing files.

This module imports the standard library only, so that a program that merely reads a file starts at once.
"""

import argparse
import contextlib
import json
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

HOLDS_NOT = 1  # the work is done, and what was checked does not hold
FAULT = 70  # of Omokage's own: sysexits.h calls it EX_SOFTWARE
INTERRUPTED = 130


class OmokageError(Exception):
    """Something that the user can mend. Shown as one line: `program: what is wrong: how to mend it`."""

    status = 2

    def __init__(self, wrong: str, mend: str):
        super().__init__(f"{wrong}: {mend}")
        self.wrong = wrong
        self.mend = mend


class InputError(OmokageError):
    """The call or its input is wrong: usage, no face, an unreadable picture, a name that exists."""

    status = 2


class MissingError(OmokageError):
    """Something is not on this machine: compiler, camera, accelerator, runtime, package."""

    status = 3


class StoredError(OmokageError):
    """Stored things do not fit or are damaged: gallery of another encoder, checksum of a bundle, newer schema."""

    status = 4


class Parser(argparse.ArgumentParser):
    """An argument parser that keeps the layout of the docstring and reports misuse as one line, in its verbs too."""

    def __init__(self, description: str | None = None, **settings: Any):
        super().__init__(description=description, formatter_class=argparse.RawDescriptionHelpFormatter, **settings)
        # Suppressed: a verb's own default must not undo what was given before the verb.
        self.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show the traceback of an error")

    def error(self, message: str) -> NoReturn:
        self.exit(InputError.status, f"{_program(self)}: {message}: see {self.prog} --help\n")


def _program(parser: argparse.ArgumentParser) -> str:
    return Path(parser.prog.split()[0]).stem


def run(main: Callable[[argparse.Namespace], int], parser: argparse.ArgumentParser, argv: list[str] | None = None) -> int:
    """Parse `argv`, call `main` and turn its errors into one line on stderr and an exit status of docs/design.md."""
    args = parser.parse_args(argv)
    program = _program(parser)
    with contextlib.suppress(AttributeError):  # a name that the terminal cannot show is no reason to stop
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        status = main(args)
        sys.stdout.flush()
        return status
    except OmokageError as error:
        if getattr(args, "debug", False):
            traceback.print_exc()
        _complain(args, f"{program}: {' '.join(str(error).split())}")
        return error.status
    except KeyboardInterrupt:
        _complain(args, f"{program}: interrupted")
        return INTERRUPTED
    except BrokenPipeError:  # `recognize.py | head`: the reader has gone, there is nobody left to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if getattr(args, "debug", False):
            traceback.print_exc()
        reason = " ".join(f"{type(error).__name__} {error}".split())
        _complain(args, f"{program}: a fault of Omokage itself ({reason}): report it with what --debug shows")
        return FAULT


def _complain(args: argparse.Namespace, line: str) -> None:
    """On stderr, in the form that --log asks for where a program has that."""
    print(json.dumps({"level": "error", "message": line}) if getattr(args, "log", None) == "json" else line, file=sys.stderr)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, with its suffix, renamed onto it if the block succeeds and removed otherwise."""
    path = Path(path)
    if path.is_dir():
        raise InputError(f"cannot write {path} (it is a folder)", "name a file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    except OSError as error:
        raise InputError(f"cannot write {path} ({error.strerror})", "choose a folder that exists and may be written to") from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
