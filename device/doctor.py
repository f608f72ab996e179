"""Whether everything that the recogniser needs is here and well, and how to mend what is not.

  python device/doctor.py
  python device/doctor.py --camera 0 --backend edgetpu
  python device/doctor.py --json

Each line is ok, warn (it works, but not as well as it could), fail, or skip (nothing to look at on this machine), with its fix
below. Run it as the user that the recogniser runs as. The status is 1 if a line says fail.
"""

import argparse
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib import metadata, util
from pathlib import Path

# Nothing of device/ is imported here that imports more than the standard library: where a package is missing or broken, the
# doctor has to say so.
from device import accelerator, bundle, vault
from device.accelerator import Accelerator, Library
from device.bundle import ENCODER, ENCODER_EDGETPU, Bundle
from device.program import HOLDS_NOT, MissingError, OmokageError, Parser, run

OK, WARN, FAIL, SKIP = "ok", "warn", "fail", "skip"
BACKENDS = ("auto", "cpu", "edgetpu")  # as device.embed has them, which imports numpy

PYTHON = (3, 10), (3, 13)  # the oldest and the newest that Omokage was tried on
PACKAGES = {"numpy": "numpy", "cv2": "OpenCV", "scipy.optimize": "scipy", "sklearn.svm": "scikit-learn"}
RUNTIMES = {"ai_edge_litert": "ai-edge-litert", "tflite_runtime": "tflite-runtime"}  # in the order in which device.embed takes them
_VERSIONS = """import importlib, json, sys
for module in sys.argv[1:]:
    importlib.import_module(module)
print(json.dumps([getattr(sys.modules[module.split(".")[0]], "__version__", "") for module in sys.argv[1:]]))"""
TRIAL_S = 60.0  # a Raspberry Pi imports scikit-learn from its SD card in less
SAID_S = 5.0

USB3 = 5000  # Mbit/s
# TensorFlow versions: Coral's own packages are built against CORAL; something changed after ABI_UNTIL that makes older builds crash
# in newer runtimes; builds from LITERT_FROM on are known to work with ai-edge-litert. The sources are in docs/raspberry-pi.md.
CORAL, ABI_UNTIL, LITERT_FROM = (2, 5), (2, 11), (2, 19)
HOT, TOO_HOT = 80.0, 85.0  # degrees Celsius from which a Raspberry Pi slows its cores down step by step, and all of them
THROTTLED = {0: "under-voltage", 1: "frequency capped", 2: "throttled", 3: "soft temperature limit"}  # + 16: since the start
FULL, LOW = 64, 512  # MiB
COOL = "cool it (a fan or a heat sink), or give it less to do"
POWER = "use a power supply of 5 V and 5 A (Pi 5) or 3 A (Pi 4), and a powered hub for what draws much"
ROOM = "delete what is not needed, or use a larger card"
BUSY = "if omokage.service runs (sudo systemctl stop omokage), it holds"
GUIDE = "docs/raspberry-pi.md"


@dataclass(frozen=True)
class Check:
    """One line of the report: `status` is OK, WARN, FAIL or SKIP; `fix` says how to mend what is not ok."""

    name: str
    status: str
    detail: str
    fix: str | None = None


def build_parser() -> Parser:
    parser = Parser(__doc__)
    parser.add_argument("--camera", type=int, metavar="N", help="the camera that must be there (default: the first, if there is one)")
    parser.add_argument("--gallery", type=Path, metavar="FILE", help="who is known (default $OMOKAGE_GALLERY, else in ~/.local/share)")
    parser.add_argument("--encoder", metavar="BUNDLE", help="a bundle of models/ or its folder (default: the newest shipped one)")
    parser.add_argument("--backend", choices=BACKENDS, default="auto", help="edgetpu: it must be there; cpu: it does not matter")
    vault.add_arguments(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    return parser


def doctor(args: argparse.Namespace) -> int:
    checks = []
    for check in examine(args.camera, args.gallery, args.encoder, args.backend, args.key_file):
        checks.append(check)
        if not args.json:
            print(f"{check.status:<5} {check.name:<12} {check.detail}", flush=True)
            if check.fix:
                print(f"{'':<18} fix: {check.fix}")
    fine = all(check.status != FAIL for check in checks)
    if args.json:
        print(json.dumps({"ok": fine, "checks": [asdict(check) for check in checks]}, ensure_ascii=False, indent=1))
    return 0 if fine else HOLDS_NOT


def examine(
    camera_number: int | None = None,
    gallery_path: Path | None = None,
    encoder: str | None = None,
    backend: str = "auto",
    key_file: Path | None = None,
    look_at_camera: bool = True,
) -> Iterator[Check]:
    """Everything, one check after the other as they are done. Takes some seconds; raises nothing."""
    yield python()
    yield packages()
    yield runtime()
    yield _checked("detector", detector)
    used: Bundle | None = None
    try:
        used = bundle.find(encoder)
        yield Check("bundle", OK, f"{used.name}, encoder {used.encoder}, {len(used.manifest['files'])} files as they were made")
        yield _checked("encoder", cpu, used)
    except OmokageError as error:
        yield Check("bundle", FAIL, error.wrong, error.mend)
    yield from edge_tpu(used, backend)
    if look_at_camera:
        yield _checked("camera", camera, camera_number)
    yield _checked("gallery", gallery, gallery_path, used, key_file)
    yield clock(used)
    yield temperature()
    yield throttling()
    yield _checked("space", space, gallery_path)


def _checked(name: str, part: Callable[..., Check], *args: object) -> Check:
    """What `part` finds, its errors as a check that fails."""
    try:
        return part(*args)
    except OmokageError as error:
        return Check(name, FAIL, error.wrong, error.mend)
    except (ImportError, OSError) as error:
        return Check(name, FAIL, f"cannot be tried ({error})", "mend the lines above first")


def python() -> Check:
    oldest, newest = PYTHON
    here = sys.version_info[:2]
    bits = "64-bit" if sys.maxsize > 2**32 else "32-bit"
    detail = f"{platform.python_version()}, {bits}, {platform.machine()}, {board() or platform.system()}"
    if here < oldest or bits == "32-bit":
        return Check("python", FAIL, detail, f"install a 64-bit system with Python {oldest[0]}.{oldest[1]} or newer ({GUIDE})")
    if here > newest:
        return Check("python", WARN, detail, f"Omokage was tried up to Python {newest[0]}.{newest[1]}; if something fails, use that")
    return Check("python", OK, detail)


def board(root: Path = Path("/")) -> str | None:
    """What the Raspberry Pi calls itself, "Raspberry Pi 5 Model B Rev 1.0"; None on another machine."""
    model = _read(root / "proc/device-tree/model").rstrip("\0")
    return model if model.startswith("Raspberry Pi") else None


def packages() -> Check:
    """The packages, imported in a process of its own, because one that was built for another processor ends its process."""
    versions, error = _import(*PACKAGES)
    if error is None:
        return Check("packages", OK, ", ".join(f"{name} {version}" for name, version in zip(PACKAGES.values(), versions, strict=True)))
    broken = [f"{name} {reason}" for module, name in PACKAGES.items() if (reason := _import(module)[1])]
    return Check("packages", FAIL, "; ".join(broken) or error, "pip install -r device/requirements.txt")


def runtime() -> Check:
    """The TFLite runtime that device.embed takes."""
    module = installed_runtime()
    if module is None:
        return Check("runtime", FAIL, "no TFLite runtime is installed", "pip install ai-edge-litert")
    error = _import(f"{module}.interpreter")[1]
    name = f"{RUNTIMES[module]} {metadata.version(RUNTIMES[module])}"
    if error:
        return Check("runtime", FAIL, f"{name} {error}", f"pip install --force-reinstall {RUNTIMES[module]}")
    return Check("runtime", OK, name)


def installed_runtime() -> str | None:
    """The module of the TFLite runtime, None where none is installed."""
    return next((module for module in RUNTIMES if util.find_spec(module)), None)


def detector() -> Check:
    from device.detect import open_detector

    found = open_detector()
    if found.name == "mtcnn":
        fix = "name YuNet's ONNX file in $OMOKAGE_YUNET: it is about three times faster (README.md)"
        return Check("detector", WARN, "MTCNN, because no YuNet model is named", fix)
    return Check("detector", OK, found.name)


def cpu(used: Bundle) -> Check:
    """The bundle's encoder on the CPU, which is what answers wherever the Edge TPU does not."""
    from device.embed import Encoder
    from device.supervisor import specimens

    with Encoder(used.path / ENCODER) as encoder:
        crops = specimens(encoder.model.signature.input)
        encoder.embed(crops)
        start = time.perf_counter()
        encoder.embed(crops)
        milliseconds = 1000 * (time.perf_counter() - start) / len(crops)
    return Check("encoder", OK, f"{milliseconds:.1f} ms a face on the CPU")


def edge_tpu(used: Bundle | None, backend: str) -> Iterator[Check]:
    """The accelerator, its library, and a self-test there. What is amiss is a fault with --backend edgetpu, else the CPU stands in."""
    if backend == "cpu":
        yield Check("edge tpu", SKIP, "not wanted (--backend cpu)")
        return
    bad = FAIL if backend == "edgetpu" else WARN
    devices = accelerator.find()
    if not devices:
        fix = f"plug it into a USB 3 port (blue), try another cable and a powered hub; for PCIe see {GUIDE}"
        yield Check("edge tpu", bad, "none is plugged in", fix)
    for device in devices:
        yield plugged_in(device, bad)
    if devices or backend == "edgetpu":
        yield library(accelerator.library(), package(), bad)
    if used and ENCODER_EDGETPU not in used.manifest["files"]:
        fix = f"on an x86-64 computer: python convert/compile.py {used.path}"
        yield Check("self-test", bad, f"{used.name} holds no model for the Edge TPU", fix)
    elif used and devices:
        yield _checked("self-test", self_test, used, bad)


def plugged_in(device: Accelerator, bad: str = WARN, page: int = os.sysconf("SC_PAGE_SIZE")) -> Check:
    """One accelerator: its connection, its firmware, this user's rights. `page` is the size of the kernel's pages in bytes."""
    if device.kind == "pcie":
        detail = f"PCIe, {device.node or 'no driver'}"
        if device.node is None:
            pages = f"this kernel has pages of {page // 1024} KiB and the driver wants 4 KiB (kernel=kernel8.img in config.txt); "
            return Check("edge tpu", bad, detail, (pages if page > 4096 else "") + f"install the gasket driver ({GUIDE})")
    else:
        speed = "speed unknown" if not device.mbits else "USB 3" if device.mbits >= USB3 else "USB 2"
        firmware = "firmware loaded" if device.firmware else "firmware not loaded yet (it is, at the first use)"
        detail = f"{speed}, {firmware}"
    if not device.allowed:
        fix = f"sudo usermod -aG plugdev {_user()}, log in again; the udev rule is installed by device/install.sh"
        return Check("edge tpu", bad, f"{detail}, but {device.node or 'its device'} may not be opened by {_user()}", fix)
    if device.mbits and device.mbits < USB3:
        return Check("edge tpu", WARN, detail, "use a USB 3 port (blue) and the cable that came with it: USB 2 carries a tenth")
    return Check("edge tpu", OK, detail)


def library(found: Library, version: str | None, bad: str = WARN) -> Check:
    """libedgetpu as its trial `found` it, from the Debian package of this `version`: does it load, does it fit the runtime?"""
    if found.error:
        return Check("libedgetpu", bad, found.error, f"install the libedgetpu1-std that fits the runtime ({GUIDE})")
    detail = f"libedgetpu {version or found.version or found.path}"
    module = installed_runtime()
    if module is None:
        return Check("libedgetpu", bad, f"{detail}, and no runtime to fit", "install the runtime first")
    name = RUNTIMES[module]
    status, why = fits(version, name, metadata.version(name))
    fix = None if status == OK else f"install the libedgetpu1-std that fits the runtime ({GUIDE})"
    return Check("libedgetpu", bad if status == FAIL else status, f"{detail}: {why} {name} {metadata.version(name)}", fix)


def package() -> str | None:
    """The version of the Debian package that libedgetpu is from; None where it is from none."""
    told = _said("dpkg-query", "--show", "--showformat", "${db:Status-Status} ${Version}\n", "libedgetpu1-*") or ""
    return next((line.split()[1] for line in told.splitlines() if line.startswith("installed ")), None)


def fits(library_version: str | None, name: str, version: str) -> tuple[str, str]:
    """Does a libedgetpu package fit the runtime of this `name` and `version`? OK, WARN (nobody knows) or FAIL (it crashes), and why.

    What counts is which TensorFlow libedgetpu was built against. The sources are in docs/raspberry-pi.md.
    """
    if library_version is None:
        return WARN, "not from a package, so nobody knows whether it fits"
    built = re.search(r"tf(\d+\.\d+)", library_version, re.IGNORECASE)
    against, ours = _numbers(built[1]) if built else CORAL, _numbers(version)
    told = f"built against TensorFlow {against[0]}.{against[1]}, which"
    if name == "ai-edge-litert":
        known, crashes = against >= LITERT_FROM, against <= ABI_UNTIL
    else:
        known = ours <= ABI_UNTIL if against <= ABI_UNTIL else ABI_UNTIL <= ours <= against
        crashes = against <= ABI_UNTIL < ours
    return (OK, f"{told} fits") if known else (FAIL, f"{told} crashes in") if crashes else (WARN, f"{told} nobody has reported to fit")


def self_test(used: Bundle, bad: str) -> Check:
    """The bundle's compiled encoder on the Edge TPU, and our detector if it was compiled with it, against what the CPU says."""
    from device.detect import open_detector
    from device.embed import open_encoder

    shipped, told = bundle.MODELS / bundle.SHIPPED_DETECTOR, [""]
    beside = open_detector("omokage").model if shipped.is_dir() else None
    try:
        with open_encoder(used, "edgetpu", lambda _, text: told.append(text), beside):
            return Check("self-test", OK, told[-1])
    except MissingError as error:
        return Check("self-test", bad, error.wrong, f"mend the lines above; {BUSY} the Edge TPU")


def camera(number: int | None, devices: Path = Path("/dev")) -> Check:
    """Does camera `number` give a picture? None is the first one, which need not be there."""
    from device.camera import open_camera

    locked = [str(node) for node in sorted(devices.glob("video*")) if not os.access(node, os.R_OK | os.W_OK)]
    if locked:
        fix = f"sudo usermod -aG video {_user()}, and log in again"
        return Check("camera", FAIL, f"{', '.join(locked)} may not be opened by {_user()}", fix)
    try:
        with open_camera(number or 0) as source:
            height, width = next(iter(source)).image.shape[:2]
    except MissingError as error:
        fix = f"{error.mend}; {BUSY} the camera"
        return Check("camera", WARN if number is None else FAIL, error.wrong, fix)
    return Check("camera", OK, f"camera {number or 0} gives pictures of {width}x{height}")


def gallery(path: Path | None, used: Bundle | None, key_file: Path | None = None) -> Check:
    """Does the gallery open (with the key in this file), do its templates fit the bundle, is it for its owner's eyes alone?"""
    from device.gallery import Gallery, default_path

    path = path or default_path()
    add = "python device/enroll.py add NAME PHOTO"
    if not path.exists():
        return Check("gallery", WARN, f"{path} is not there yet, so everyone is unknown", add)
    with Gallery(path, key=vault.find_key(key_file)) as opened:
        people = opened.people()
        if used:
            opened.templates(used)
    detail = f"{path}: {len(people)} people, {sum(person.templates for person in people)} templates"
    if path.stat().st_mode & 0o077:
        return Check("gallery", WARN, f"{detail}; others may read it", f"chmod 600 {path}")
    return Check("gallery", OK, detail) if people else Check("gallery", WARN, f"{detail}, so everyone is unknown", add)


def clock(used: Bundle | None, now: datetime | None = None) -> Check:
    """Is the time, which every event carries, later than that of the bundle, and synchronised?"""
    now = now or datetime.now(timezone.utc)
    detail = now.isoformat(timespec="seconds")
    fix = "connect it to the network and run: sudo timedatectl set-ntp true"
    if used and now < datetime.fromisoformat(used.manifest["made"]["time"].replace("Z", "+00:00")):
        return Check("clock", FAIL, f"{detail}, which is before the bundle was made", fix)
    synchronised = _said("timedatectl", "show", "--property", "NTPSynchronized", "--value")
    if synchronised is None:
        return Check("clock", SKIP, f"{detail}, and nobody here tells whether it is synchronised")
    if synchronised != "yes":
        return Check("clock", WARN, f"{detail}, not synchronised: the times of events may be wrong", fix)
    return Check("clock", OK, f"{detail}, synchronised")


def temperature(root: Path = Path("/")) -> Check:
    """Of the processor, as the Raspberry Pi's firmware or the kernel tells it."""
    told = re.search(r"temp=([\d.]+)", _said("vcgencmd", "measure_temp") or "")
    zones = [_read(zone) for zone in (root / "sys/class/thermal").glob("thermal_zone*/temp")]
    degrees = [float(told[1])] if told else [int(zone) / 1000 for zone in zones if zone.lstrip("-").isdigit()]
    if not degrees:
        return Check("temperature", SKIP, "this machine does not tell it")
    detail = f"{max(degrees):.0f} °C"
    status = FAIL if max(degrees) >= TOO_HOT else WARN if max(degrees) >= HOT else OK
    return Check("temperature", status, detail, None if status == OK else COOL)


def throttling(root: Path = Path("/")) -> Check:
    """Whether a Raspberry Pi has slowed itself down, or been fed too little, now or since it was started."""
    told = re.search(r"throttled=(0x[0-9a-fA-F]+)", _said("vcgencmd", "get_throttled") or "")
    if not told:
        return _low_voltage(root)
    bits = int(told[1], 16)
    now = [what for bit, what in THROTTLED.items() if bits >> bit & 1]
    before = [what for bit, what in THROTTLED.items() if bits >> (bit + 16) & 1]
    fix = POWER if bits & 0x10001 else COOL
    if now:
        return Check("throttling", FAIL, f"now: {', '.join(now)} ({told[1]})", fix)
    if before:
        return Check("throttling", WARN, f"since the start: {', '.join(before)} ({told[1]})", fix)
    return Check("throttling", OK, "none since the start")


def _low_voltage(root: Path) -> Check:
    """What the kernel saw, where vcgencmd is not there or not allowed (in a container)."""
    for monitor in (root / "sys/class/hwmon").glob("hwmon*"):
        if _read(monitor / "name") == "rpi_volt":
            low = _read(monitor / "in0_lcrit_alarm") == "1"
            return Check("throttling", FAIL, "under-voltage", POWER) if low else Check("throttling", OK, "no under-voltage")
    return Check("throttling", SKIP, "no Raspberry Pi" if board(root) is None else "vcgencmd does not tell: is it installed?")


def space(path: Path | None) -> Check:
    """Free space where the gallery is, or will be."""
    from device.gallery import default_path

    folder = (path or default_path()).absolute().parent
    folder = next(parent for parent in (folder, *folder.parents) if parent.is_dir())
    free = shutil.disk_usage(folder).free >> 20
    status = FAIL if free < FULL else WARN if free < LOW else OK
    return Check("space", status, f"{free} MiB free in {folder}", None if status == OK else ROOM)


def _import(*modules: str) -> tuple[list[str], str | None]:
    """The versions of packages, and what goes wrong when they are imported, None if nothing does."""
    try:
        trial = subprocess.run(
            [sys.executable, "-c", _VERSIONS, *modules], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TRIAL_S
        )
    except subprocess.TimeoutExpired:
        return [], f"does not load within {TRIAL_S:.0f} s"
    if trial.returncode < 0:
        return [], f"ends its process by {signal.Signals(-trial.returncode).name}: it was built for another processor"
    if trial.returncode:
        return [], f"does not load ({trial.stderr.strip().splitlines()[-1]})"
    return json.loads(trial.stdout.splitlines()[-1]), None


def _said(*command: str) -> str | None:
    """What a command prints, None where it is not there, fails or takes too long."""
    try:
        return subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, timeout=SAID_S, check=True
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _read(file: Path) -> str:
    try:
        return file.read_text(errors="replace").strip()
    except OSError:
        return ""


def _numbers(version: str) -> tuple[int, int]:
    """Major and minor: (2, 14) of "2.14.0"."""
    major, minor = re.findall(r"\d+", version)[:2]
    return int(major), int(minor)


def _user() -> str:
    import getpass

    return getpass.getuser()


def main(argv: list[str] | None = None) -> int:
    return run(doctor, build_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
