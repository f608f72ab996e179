"""Edge TPUs: which are plugged in, and whether libedgetpu loads.

What is plugged in is read from /sys and /dev: no library is loaded, no device is opened. The library is tried in a process of its
own, because one that was built for another runtime may end the process that loads it.
"""

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import util
from pathlib import Path

from device.program import MissingError

LIBEDGETPU = "libedgetpu.so.1"
USB_BARE, USB_READY = "1a6e:089a", "18d1:9302"  # the stick changes its id when libedgetpu has loaded the firmware into it
PCI = "0x1ac1:0x089a"
TRIAL_S = 30.0  # loading the firmware over USB 2 takes some seconds
ROOT = Path(__file__).resolve().parent.parent  # from here a child process imports this very package

_TRIAL = "from device import accelerator, runtime; accelerator.describe(); runtime.delegate()"
_PYCORAL = "import json; from pycoral.utils.edgetpu import list_edge_tpus; print(json.dumps(list_edge_tpus()))"


@dataclass(frozen=True)
class Accelerator:
    """`kind` is "usb" or "pcie", `path` its folder in /sys or its node in /dev.

    `mbits` is the speed of the USB connection in Mbit/s (5000 and more: USB 3; 480: USB 2), None on PCIe. `firmware` tells whether
    it is loaded: into a stick it is at the first use after plugging in. `node` is the file in /dev that the runtime opens, None
    where no driver made one; `allowed`: this user may read and write it.
    """

    kind: str
    path: str
    mbits: int | None = None
    firmware: bool = True
    node: str | None = None

    @property
    def allowed(self) -> bool:
        return self.node is not None and os.access(self.node, os.R_OK | os.W_OK)


@dataclass(frozen=True)
class Library:
    """libedgetpu as a process of its own found it: `path` and `version` (None: unknown), and `error`, None if it loads."""

    path: str | None = None
    version: str | None = None
    error: str | None = None


def find(system: Path = Path("/sys"), devices: Path = Path("/dev")) -> list[Accelerator]:
    """The Edge TPUs of this machine. Takes a millisecond, and fails never.

    A machine without /sys/bus is one that only pycoral's list can tell of, where that is installed. It is asked once.
    """
    found = [*_usb(system, devices), *_pcie(system, devices)]
    return found if found or (system / "bus").is_dir() else _pycoral()


def library() -> Library:
    """Load libedgetpu, and it the Edge TPU where there is one, in a process of its own. Takes up to TRIAL_S, and fails never."""
    try:
        trial = subprocess.run([sys.executable, "-c", _TRIAL], cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, timeout=TRIAL_S)
    except subprocess.TimeoutExpired:
        return Library(error=f"{LIBEDGETPU} did not load within {TRIAL_S:.0f} s")
    told = trial.stdout.splitlines()
    facts = json.loads(told[-1]) if told else {}
    if trial.returncode < 0:
        facts["error"] = f"{LIBEDGETPU} does not fit the TFLite runtime (it was ended by {signal.Signals(-trial.returncode).name})"
    elif not told:
        facts["error"] = f"{LIBEDGETPU} could not be tried ({trial.stderr.decode(errors='replace').strip().splitlines()[-1:]})"
    return Library(**facts)


def load() -> ctypes.CDLL:
    """libedgetpu, loaded into this process. Raises MissingError where it is not installed or does not load."""
    try:
        loaded = ctypes.CDLL(LIBEDGETPU)
    except OSError as error:
        absent = str(error).startswith(f"{LIBEDGETPU}: cannot open")
        wrong = f"{LIBEDGETPU} is not installed" if absent else f"{LIBEDGETPU} does not load ({error})"
        raise MissingError(wrong, "install libedgetpu1-std") from error
    if not hasattr(loaded, "tflite_plugin_create_delegate"):
        raise MissingError(f"{LIBEDGETPU} is another library than its name says", "install libedgetpu1-std")
    return loaded


def describe() -> None:
    """Print the facts of a Library as JSON: what the process of library() runs."""
    facts: dict[str, str] = {}
    try:
        loaded = load()
        with contextlib.suppress(OSError):
            maps = Path("/proc/self/maps").read_text().split()
            facts["path"] = next(word for word in maps if Path(word).name.startswith("libedgetpu"))
        loaded.edgetpu_version.restype = ctypes.c_char_p
        facts["version"] = loaded.edgetpu_version().decode()
    except MissingError as error:
        facts["error"] = error.wrong
    print(json.dumps(facts), flush=True)


def _usb(system: Path, devices: Path) -> Iterator[Accelerator]:
    for folder in sorted((system / "bus/usb/devices").glob("*")):
        found = f"{_read(folder / 'idVendor')}:{_read(folder / 'idProduct')}"
        if found in (USB_BARE, USB_READY):
            node = devices / "bus/usb" / f"{_number(folder / 'busnum'):03}" / f"{_number(folder / 'devnum'):03}"
            yield Accelerator("usb", str(folder), _number(folder / "speed"), found == USB_READY, str(node) if node.exists() else None)


def _pcie(system: Path, devices: Path) -> Iterator[Accelerator]:
    nodes = sorted(devices.glob("apex_*"))
    for node in nodes:
        yield Accelerator("pcie", str(node), node=str(node))
    if not nodes:  # a card without its driver
        for folder in sorted((system / "bus/pci/devices").glob("*")):
            if f"{_read(folder / 'vendor')}:{_read(folder / 'device')}" == PCI:
                yield Accelerator("pcie", str(folder))


@cache
def _pycoral() -> list[Accelerator]:
    if util.find_spec("pycoral") is None:
        return []
    command = [sys.executable, "-c", _PYCORAL]
    try:
        asked = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=TRIAL_S, check=True)
        listed = [(entry["type"], entry["path"]) for entry in json.loads(asked.stdout)]
    except (subprocess.SubprocessError, ValueError, TypeError, KeyError):
        return []
    return [Accelerator("pcie" if kind == "pci" else kind, path, node=path) for kind, path in listed]


def _read(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:  # not there, or pulled out just now
        return ""


def _number(file: Path) -> int:
    text = _read(file)
    return int(float(text)) if text else 0  # a speed may be 1.5
