"""Runs edgetpu_compiler in a folder: the one on PATH, or the one in a Docker image (convert/Dockerfile)."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from convert.compiler_log import CompileError
from device.program import MissingError

COMPILER = "edgetpu_compiler"
OWN_LIMIT = 180  # seconds after which version 16 stops by itself, unless --timeout_sec says otherwise; older ones know no limit
IMAGE = "omokage-edgetpu-compiler"
PLATFORM = ("--platform", "linux/amd64")
BUILDING = 1800  # seconds
INSIDE = "/work"  # folder in the container

ELSEWHERE = "elsewhere use --docker, or --ci to let GitHub compile (docs/edgetpu.md)"
UNBUILT = "see docs/edgetpu.md for other ways to the compiler"
Runner = Callable[[Sequence[str], Path, int], tuple[int, str]]


def run_local(arguments: Sequence[str], folder: Path, seconds: int) -> tuple[int, str]:
    """Run the compiler on PATH in `folder`, for `seconds` at most: (exit status, everything it printed).

    Raises MissingError where there is none or it cannot run here, CompileError when it is out of time.
    """
    compiler = shutil.which(COMPILER)
    if compiler is None:
        raise MissingError(f"{COMPILER} is not on PATH", f"on x86-64 Debian or Ubuntu run convert/install_compiler.sh, {ELSEWHERE}")
    return _run([compiler, *arguments], seconds, folder)


def run_docker(arguments: Sequence[str], folder: Path, seconds: int) -> tuple[int, str]:
    """The same in a container of the image IMAGE, which is built once. Files are copied in and out: a mount works neither
    with a remote daemon nor with folders that Docker Desktop does not share. Nothing in the container reaches the network."""
    _image()
    created = _docker("create", *PLATFORM, "--network", "none", "--workdir", INSIDE, "--entrypoint", COMPILER, IMAGE, *arguments)
    container = created.split()[-1]
    try:
        _docker("cp", f"{folder}/.", f"{container}:{INSIDE}")
        result = _run([_program(), "start", "--attach", container], seconds)
        _docker("cp", f"{container}:{INSIDE}/.", str(folder))
        return result
    finally:
        _docker("rm", "--force", container)


def _image() -> None:
    """See that Docker runs and that the image is there. Any image of that name with the compiler on its PATH will do."""
    machine = _docker("version", "--format", "{{.Server.Arch}}").strip()
    if machine != "amd64":
        print(f"compile: Docker runs on {machine}, where the compiler is emulated: slower; if it crashes, use --ci", file=sys.stderr)
    if _run([_program(), "image", "inspect", IMAGE], BUILDING)[0]:
        print(f"compile: building the image {IMAGE}, once: it fetches the compiler from Google's apt repository", file=sys.stderr)
        _docker("build", *PLATFORM, "--tag", IMAGE, str(Path(__file__).parent), seconds=BUILDING)


def _docker(verb: str, *arguments: str, seconds: int = OWN_LIMIT) -> str:
    """What `docker verb` prints. Raises MissingError where it fails: its last line says why."""
    status, printed = _run([_program(), verb, *arguments], seconds)
    if status == 0:
        return printed
    if verb == "build":
        print(printed, file=sys.stderr)
    last = (printed.strip().splitlines() or ["no reason given"])[-1].rstrip(".")
    raise MissingError(
        f"docker {verb} failed ({last})", UNBUILT if verb == "build" else "start Docker (Docker Desktop, or the docker service)"
    )


def _program() -> str:
    docker = shutil.which("docker")
    if docker is None:
        raise MissingError("docker is not on PATH", "install Docker Desktop (Mac, Windows) or docker.io (Linux), or use --ci")
    return docker


def _run(command: Sequence[str], seconds: int, folder: Path | None = None) -> tuple[int, str]:
    """(exit status, everything printed). The compiler is a script around a program: they end together, whatever happens."""
    try:
        process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        )
    except OSError as error:
        raise MissingError(f"{command[0]} cannot run here ({error.strerror})", f"it runs on x86-64 Linux only, {ELSEWHERE}") from error
    with process:
        try:
            printed, _ = process.communicate(timeout=seconds)
        except BaseException as error:  # out of time, or interrupted
            _kill(process)
            if isinstance(error, subprocess.TimeoutExpired):
                wrong = f"{Path(command[0]).name} did not end within {seconds} s"
                raise CompileError(wrong, "raise --timeout, or make the model smaller") from error
            raise
    return process.returncode, printed.decode("utf-8", "replace")


def _kill(process: subprocess.Popen) -> None:
    if os.name == "posix":
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
