"""The doctor, on this machine and on others: their /sys, /proc and /dev as folders, their commands as scripts that say what they said."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections import namedtuple
from datetime import datetime, timezone
from pathlib import Path

import cv2
import numpy as np
import pytest

from device import accelerator, bundle, camera, doctor, embed, worker
from device.accelerator import Accelerator, Library
from device.camera import Source
from device.gallery import Gallery, Template
from device.program import MissingError

ROOT = Path(__file__).resolve().parents[2]
STANDIN = Path(__file__).with_name("standin.py")


@pytest.fixture
def says(tmp_path, monkeypatch):
    """says(vcgencmd="...", ...): those commands print this, whatever they are asked, and the machine has no others of the doctor's."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def add(**commands: str) -> None:
        for name, text in commands.items():
            program = folder / name.replace("_", "-")
            program.write_text(f"#!/bin/sh\nprintf '%s\\n' {shlex.quote(text)}\n")
            program.chmod(0o755)

    return add


def tree(root: Path, **files: str) -> Path:
    """Files below `root`, their names with __ for / ."""
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.fixture
def used(bundle_path):
    return bundle.load(bundle_path)


def report(capsys, *argv: str) -> tuple[int, dict[str, dict]]:
    status = doctor.main([*argv, "--json"])
    return status, {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}


@pytest.mark.slow
def test_this_machine_can_recognise(capsys, validate, astronaut):
    status = doctor.main(["--backend", "cpu", "--json"])
    told = json.loads(capsys.readouterr().out)
    validate(told, "doctor")
    checks = {check["name"]: check for check in told["checks"]}
    assert {"python", "packages", "runtime", "detector", "bundle", "encoder", "edge tpu", "camera", "gallery"} <= set(checks)
    assert {"clock", "temperature", "throttling", "space"} <= set(checks)
    assert f"numpy {np.__version__}" in checks["packages"]["detail"] and f"OpenCV {cv2.__version__}" in checks["packages"]["detail"]
    assert all(checks[name]["status"] == "ok" for name in ("packages", "runtime", "bundle", "encoder"))
    assert told["ok"] == all(check["status"] != "fail" for check in told["checks"])
    assert status == (0 if told["ok"] else 1)
    assert all(check["fix"] for check in told["checks"] if check["status"] in ("warn", "fail"))


def test_each_line_carries_its_fix_and_one_fault_is_enough(capsys, monkeypatch):
    checks = [
        doctor.Check("python", "ok", "3.11"),
        doctor.Check("camera", "warn", "none", "plug it in"),
        doctor.Check("clock", "skip", "?"),
    ]
    monkeypatch.setattr(doctor, "examine", lambda *args: iter(checks))
    assert doctor.main([]) == 0
    assert capsys.readouterr().out == (
        "ok    python       3.11\nwarn  camera       none\n                   fix: plug it in\nskip  clock        ?\n"
    )
    checks.append(doctor.Check("bundle", "fail", "damaged", "restore it"))
    assert doctor.main([]) == 1
    assert capsys.readouterr().out.endswith("fail  bundle       damaged\n                   fix: restore it\n")


@pytest.mark.slow
def test_it_runs_where_numpy_and_opencv_are_broken_and_says_so():
    code = """import sys
sys.modules["numpy"] = sys.modules["cv2"] = None
from device import doctor
doctor.PACKAGES = {"json": "json"}  # the others are tried in the test above, and take a while
sys.exit(doctor.main(["--backend", "cpu", "--json"]))"""
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    checks = {check["name"]: check for check in json.loads(run.stdout)["checks"]}
    assert run.returncode == 1 and run.stderr == ""
    assert all(checks[name]["status"] == "fail" for name in ("detector", "encoder", "camera", "gallery"))
    assert checks["bundle"]["status"] == "ok" and "cv2" in checks["detector"]["detail"]


@pytest.mark.parametrize(
    "content, told",
    [
        ("raise ImportError('libGL.so.1: no such file')", "does not load (ImportError: libGL.so.1: no such file)"),
        ("import os; os.kill(os.getpid(), 4)", "ends its process by SIGILL"),
    ],
)
def test_a_package_that_does_not_load_or_ends_its_process_is_told(tmp_path, monkeypatch, content, told):
    (tmp_path / "broken_package.py").write_text(content)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(doctor, "PACKAGES", {"broken_package": "the package"})
    check = doctor.packages()
    assert check.status == "fail" and check.detail.startswith(f"the package {told}") and check.fix
    monkeypatch.setattr(doctor, "RUNTIMES", {"broken_package": "pip"})  # any distribution that has a version
    monkeypatch.setattr(doctor, "_import", lambda module: ([], "does not load"))
    assert doctor.runtime().status == "fail"


def test_no_runtime_at_all(monkeypatch):
    monkeypatch.setattr(doctor, "RUNTIMES", {"no_such_runtime": "no-such-runtime"})
    assert (doctor.runtime().status, doctor.runtime().fix) == ("fail", "pip install ai-edge-litert")
    assert doctor.library(Library("libedgetpu.so.1", "16"), None).status == "warn"


def test_the_python(monkeypatch):
    assert doctor.python().status in ("ok", "warn")  # warn: newer than any that was tried
    monkeypatch.setattr(sys, "version_info", (3, 9, 2))
    assert doctor.python().status == "fail"
    monkeypatch.setattr(sys, "version_info", (3, 99, 0))
    assert doctor.python().status == "warn"
    monkeypatch.setattr(sys, "version_info", (3, 11, 2))
    monkeypatch.setattr(sys, "maxsize", 2**31 - 1)
    assert doctor.python().status == "fail" and "32-bit" in doctor.python().detail


def test_the_board(tmp_path):
    assert doctor.board(tmp_path) is None
    assert doctor.board(tree(tmp_path, proc__device_tree__model="x")) is None
    (tmp_path / "proc/device-tree").mkdir()
    (tmp_path / "proc/device-tree/model").write_text("Raspberry Pi 5 Model B Rev 1.0\0")
    assert doctor.board(tmp_path) == "Raspberry Pi 5 Model B Rev 1.0"


def stick(root: Path, ids: str, speed: str) -> Accelerator:
    """A Coral USB Accelerator in /sys and /dev of another machine."""
    vendor, product = ids.split(":")
    usb = root / "sys/bus/usb/devices/2-1"
    usb.mkdir(parents=True)
    for name, text in {"idVendor": vendor, "idProduct": product, "speed": speed, "busnum": "2", "devnum": "3"}.items():
        (usb / name).write_text(text + "\n")
    tree(root, dev__bus__usb__002__003="")
    (found,) = accelerator.find(root / "sys", root / "dev")
    return found


@pytest.mark.parametrize(
    "ids, speed, status, told",
    [
        ("18d1:9302", "5000", "ok", "USB 3, firmware loaded"),
        ("1a6e:089a", "5000", "ok", "USB 3, firmware not loaded yet (it is, at the first use)"),
        ("18d1:9302", "480", "warn", "USB 2, firmware loaded"),
    ],
)
def test_a_stick_and_its_port(tmp_path, ids, speed, status, told):
    check = doctor.plugged_in(stick(tmp_path, ids, speed))
    assert (check.status, check.detail, bool(check.fix)) == (status, told, status != "ok")


@pytest.mark.parametrize("bad", ["warn", "fail"])
def test_a_stick_that_may_not_be_opened(tmp_path, monkeypatch, bad):
    found = stick(tmp_path, "18d1:9302", "5000")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    check = doctor.plugged_in(found, bad)
    assert check.status == bad and "may not be opened" in check.detail and "usermod -aG plugdev" in check.fix


def test_a_card_with_and_without_its_driver(tmp_path):
    pci = tmp_path / "sys/bus/pci/devices/0000:01:00.0"
    pci.mkdir(parents=True)
    (pci / "vendor").write_text("0x1ac1\n")
    (pci / "device").write_text("0x089a\n")
    (card,) = accelerator.find(tmp_path / "sys", tmp_path / "dev")
    small, large = doctor.plugged_in(card, page=4096), doctor.plugged_in(card, page=16384)
    assert small.status == large.status == "warn" and "gasket" in small.fix and "gasket" in large.fix
    assert "kernel8.img" not in small.fix and "16 KiB" in large.fix and "kernel8.img" in large.fix
    tree(tmp_path, dev__apex_0="")
    (card,) = accelerator.find(tmp_path / "sys", tmp_path / "dev")
    assert (doctor.plugged_in(card).status, doctor.plugged_in(card).detail) == ("ok", f"PCIe, {tmp_path}/dev/apex_0")


# Versions of packages as Coral and feranick/libedgetpu publish them; docs/raspberry-pi.md has the sources of what fits.
@pytest.mark.parametrize(
    "package, runtime, version, status",
    [
        ("16.0tf2.19.1-1.trixie", "ai-edge-litert", "2.3.0", "ok"),
        ("16.0tf2.19.1-1.bookworm", "ai-edge-litert", "1.4.0", "ok"),
        ("16.0tf2.17.1-1.bookworm", "ai-edge-litert", "2.3.0", "warn"),
        ("16.0", "ai-edge-litert", "2.3.0", "fail"),
        ("16.0tf2.11.1", "ai-edge-litert", "2.3.0", "fail"),
        ("16.0", "tflite-runtime", "2.5.0.post1", "ok"),
        ("16.0", "tflite-runtime", "2.11.0", "ok"),
        ("16.0", "tflite-runtime", "2.14.0", "fail"),
        ("16.0tf2.17.1-1.bookworm", "tflite-runtime", "2.14.0", "ok"),
        ("16.0tf2.17.1-1.bookworm", "tflite-runtime", "2.17.1", "ok"),
        ("16.0tf2.13.1-2", "tflite-runtime", "2.17.1", "warn"),
        ("16.0tf2.17.1-1", "tflite-runtime", "2.5.0", "warn"),
        (None, "ai-edge-litert", "2.3.0", "warn"),
    ],
)
def test_which_library_fits_which_runtime(package, runtime, version, status):
    assert doctor.fits(package, runtime, version)[0] == status


def test_the_library(says):
    assert doctor.package() is None  # no dpkg-query here
    says(dpkg_query="config-files 16.0\ninstalled 16.0tf2.19.1-1.trixie")
    assert doctor.package() == "16.0tf2.19.1-1.trixie"
    says(dpkg_query="config-files 16.0")
    assert doctor.package() is None
    trial = Library("/usr/lib/libedgetpu.so.1", "BuildLabel(COMPILER=10.2.1)")
    fine = doctor.library(trial, "16.0tf2.19.1-1.trixie")
    assert (fine.status, fine.fix) == ("ok", None) and "16.0tf2.19.1-1.trixie" in fine.detail
    assert [doctor.library(trial, "16.0", bad).status for bad in ("warn", "fail")] == ["warn", "fail"]
    assert "BuildLabel" in doctor.library(trial, None).detail and doctor.library(trial, None).status == "warn"
    crashed = doctor.library(Library(error="libedgetpu.so.1 does not fit the TFLite runtime (it ended by SIGSEGV)"), "16.0", "fail")
    assert crashed.status == "fail" and "SIGSEGV" in crashed.detail and "docs/raspberry-pi.md" in crashed.fix


def statuses(checks) -> dict[str, str]:
    return {check.name: check.status for check in checks}


def test_no_accelerator_is_a_fault_only_where_it_is_wanted(used, monkeypatch):
    assert doctor.BACKENDS == embed.BACKENDS
    monkeypatch.setattr(accelerator, "find", list)
    assert statuses(doctor.edge_tpu(used, "cpu")) == {"edge tpu": "skip"}
    assert statuses(doctor.edge_tpu(used, "auto"))["edge tpu"] == "warn"
    monkeypatch.setattr(accelerator, "library", lambda: Library(error="libedgetpu.so.1 is not installed"))
    assert statuses(doctor.edge_tpu(used, "edgetpu")) | {"self-test": "fail"} == dict.fromkeys(
        ["edge tpu", "libedgetpu", "self-test"], "fail"
    )


@pytest.fixture
def self_tested(monkeypatch):
    """self_tested(used, "abort", "open"): what the doctor says of this bundle on an Edge TPU whose worker does that."""

    def examine(used, what, when):
        monkeypatch.setattr(worker, "PROGRAM", (sys.executable, str(STANDIN), what, when))
        monkeypatch.setattr(accelerator, "find", lambda: [Accelerator("usb", "/sys/x", 5000, node=str(used.path))])
        monkeypatch.setattr(accelerator, "library", lambda: Library("libedgetpu.so.1", "16"))
        checks = {check.name: check for check in doctor.edge_tpu(used, "edgetpu")}
        assert checks["edge tpu"].status == "ok"
        return checks["self-test"]

    return examine


@pytest.mark.parametrize("what, status", [("nothing", "ok"), ("refuse", "fail"), ("segfault", "fail")])
def test_the_self_test_on_the_edge_tpu(compiled, self_tested, what, status):
    found = self_tested(compiled(), what, "open")
    assert found.status == status
    assert status != "ok" or "the Edge TPU runs encoder (self-test passed" in found.detail
    assert status == "ok" or ("does not answer" in found.detail and "omokage.service" in found.fix)


def test_the_self_test_is_of_the_detector_too_where_one_ships(compiled, self_tested, own_detector, monkeypatch):
    used = compiled(detector=own_detector)
    shutil.copytree(own_detector.path, used.path.parent / bundle.SHIPPED_DETECTOR)
    monkeypatch.setattr(bundle, "MODELS", used.path.parent)
    assert "the Edge TPU runs encoder and detector (self-test passed" in self_tested(used, "nothing", "never").detail
    assert "self-test of the detector" in self_tested(used, "garbage", "detector").detail


def test_a_damaged_bundle_fails_and_the_rest_is_still_told(copied_bundle, capsys, monkeypatch):
    monkeypatch.setattr(doctor, "packages", lambda: doctor.Check("packages", "ok", ""))
    path = copied_bundle("damaged")
    (path / bundle.ENCODER).write_bytes(b"x")
    status, checks = report(capsys, "--encoder", str(path), "--backend", "cpu")
    assert status == 1 and checks["bundle"]["status"] == "fail" and "sha256" in checks["bundle"]["detail"]
    assert "encoder" not in checks and checks["space"]["status"] in ("ok", "warn")


def enrolled(path: Path, used) -> Path:
    embedding = np.eye(1, used.dimension, dtype=np.float32)[0]
    with Gallery(path, create=True) as gallery:
        gallery.add("Ada", [Template(embedding, used.encoder, used.preprocessing, "mtcnn", 0.9, "ada.jpg")])
    return path


def test_the_gallery(used, other_encoder, tmp_path):
    path = tmp_path / "gallery.db"
    absent = doctor.gallery(path, used)
    assert (absent.status, absent.fix) == ("warn", "python device/enroll.py add NAME PHOTO")
    assert not path.exists()  # looking makes none
    with Gallery(path, create=True):
        assert doctor.gallery(path, used).status == "warn"
    enrolled(path, used)
    assert doctor.gallery(path, used).status == "ok" and "1 people, 1 templates" in doctor.gallery(path, used).detail
    foreign = doctor._checked("gallery", doctor.gallery, path, bundle.load(other_encoder))
    assert foreign.status == "fail" and "templates of encoder" in foreign.detail and foreign.fix
    path.chmod(0o644)
    assert doctor.gallery(path, used).status == "warn" and doctor.gallery(path, used).fix == f"chmod 600 {path}"
    path.write_bytes(b"no database" * 99)
    assert doctor._checked("gallery", doctor.gallery, path, used).status == "fail"


def test_an_encrypted_gallery_needs_its_key(used, tmp_path):
    path, key, other = tmp_path / "gallery.db", tmp_path / "key", tmp_path / "other"
    key.write_bytes(bytes(range(32)))
    other.write_bytes(bytes(32))
    Gallery(path, create=True, key=bytes(range(32))).close()
    for file, status, told in (
        (key, "warn", "0 people"),
        (None, "fail", "is encrypted"),
        (other, "fail", "another key"),
        (path, "fail", "is not a key"),
    ):
        check = doctor._checked("gallery", doctor.gallery, path, used, file)
        assert check.status == status and told in check.detail
    assert vars(doctor.build_parser().parse_args(["--key-file", str(key)]))["key_file"] == key


def test_the_camera(monkeypatch, tmp_path):
    picture = np.zeros((480, 640, 3), np.uint8)
    monkeypatch.setattr(camera, "open_camera", lambda number: Source(f"camera {number}", iter([("camera", picture)]), live=True))
    assert doctor.camera(None, tmp_path) == doctor.Check("camera", "ok", "camera 0 gives pictures of 640x480")
    assert doctor.camera(2, tmp_path).detail == "camera 2 gives pictures of 640x480"

    def missing(number):
        raise MissingError(f"camera {number} gives no picture", "check its plug")

    monkeypatch.setattr(camera, "open_camera", missing)
    assert doctor.camera(None, tmp_path).status == "warn"
    assert doctor.camera(0, tmp_path).status == "fail" and "omokage.service" in doctor.camera(0, tmp_path).fix
    (tmp_path / "video0").touch()
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    locked = doctor.camera(None, tmp_path)
    assert locked.status == "fail" and "video0 may not be opened" in locked.detail and "usermod -aG video" in locked.fix


def test_the_detector(monkeypatch, yunet):
    assert doctor.detector().status == "warn" and "OMOKAGE_YUNET" in doctor.detector().fix
    monkeypatch.setenv("OMOKAGE_YUNET", str(yunet))
    assert doctor.detector() == doctor.Check("detector", "ok", "yunet")
    monkeypatch.setenv("OMOKAGE_YUNET", "/none.onnx")
    assert doctor._checked("detector", doctor.detector).status == "fail"


def test_the_clock(used, says):
    now, before = datetime(2031, 1, 1, tzinfo=timezone.utc), datetime(1970, 1, 1, 0, 5, tzinfo=timezone.utc)
    assert doctor.clock(used, now).status == "skip"  # nobody tells
    says(timedatectl="yes")
    assert doctor.clock(used, now).status == "ok" and "2031-01-01T00:00:00+00:00" in doctor.clock(used, now).detail
    assert doctor.clock(used, before).status == "fail" and doctor.clock(None, before).status == "ok"
    says(timedatectl="no")
    assert doctor.clock(used, now).status == "warn" and "set-ntp" in doctor.clock(used, now).fix


@pytest.mark.parametrize("degrees, status", [("46.0", "ok"), ("80.1", "warn"), ("85.7", "fail")])
def test_the_temperature(says, tmp_path, degrees, status):
    assert doctor.temperature(tmp_path).status == "skip"
    tree(
        tmp_path,
        sys__class__thermal__thermal_zone0__temp="31000\n",
        sys__class__thermal__thermal_zone1__temp=f"{float(degrees) * 1000:.0f}\n",
    )
    assert doctor.temperature(tmp_path).status == status
    tree(tmp_path, sys__class__thermal__thermal_zone1__temp="")  # a sensor that is switched off
    assert doctor.temperature(tmp_path).detail == "31 °C"
    says(vcgencmd=f"temp={degrees}'C")  # the firmware's word counts more
    assert doctor.temperature(tmp_path).status == status


# What `vcgencmd get_throttled` says; the bits are in the Raspberry Pi documentation ("vcgencmd").
@pytest.mark.parametrize(
    "said, status, told, fix",
    [
        ("throttled=0x0", "ok", "none", ""),
        ("throttled=0x50000", "warn", "since the start: under-voltage, throttled (0x50000)", "power supply"),
        ("throttled=0x50005", "fail", "now: under-voltage, throttled (0x50005)", "power supply"),
        ("throttled=0xa0002", "fail", "now: frequency capped (0xa0002)", "cool"),
        ("throttled=0x80000", "warn", "since the start: soft temperature limit (0x80000)", "cool"),
    ],
)
def test_throttling(says, tmp_path, said, status, told, fix):
    says(vcgencmd=said)
    check = doctor.throttling(tmp_path)
    assert check.status == status and told in check.detail and fix in (check.fix or "")


def test_throttling_without_vcgencmd(says, tmp_path):
    assert doctor.throttling(tmp_path).status == "skip" and "no Raspberry Pi" in doctor.throttling(tmp_path).detail
    says(vcgencmd="Can't open device file: /dev/vcio")
    tree(tmp_path, sys__class__hwmon__hwmon0__name="nvme\n", sys__class__hwmon__hwmon1__name="rpi_volt\n")
    alarm = tmp_path / "sys/class/hwmon/hwmon1/in0_lcrit_alarm"
    for said, status in (("0\n", "ok"), ("1\n", "fail")):
        alarm.write_text(said)
        assert doctor.throttling(tmp_path).status == status


@pytest.mark.parametrize("free, status", [(10, "fail"), (100, "warn"), (9000, "ok")])
def test_free_space_where_the_gallery_is_or_will_be(tmp_path, monkeypatch, free, status):
    asked = []
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: asked.append(folder) or usage(0, 0, free << 20))
    assert doctor.space(tmp_path / "not" / "yet" / "gallery.db").status == status
    assert asked == [tmp_path]
