"""What /sys and /dev show of Edge TPUs, and what a library is that calls itself libedgetpu."""

import ctypes
import json
import shutil
import subprocess
from functools import partial

import libedgetpu
import pytest

from device import accelerator
from device.accelerator import Accelerator, Library, find, library
from device.program import MissingError


def write(folder, **files):
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(f"{text}\n")


@pytest.fixture
def machine(tmp_path):
    """A /sys and a /dev with a hub, a keyboard's interface and a graphics card."""
    system, devices = tmp_path / "sys", tmp_path / "dev"
    write(system / "bus/usb/devices/usb2", idVendor="1d6b", idProduct="0003", speed="5000", busnum="2", devnum="1")
    write(system / "bus/usb/devices/1-1:1.0", bInterfaceClass="03")
    write(system / "bus/pci/devices/0000:00:02.0", vendor="0x8086", device="0x3e92")
    devices.mkdir()
    return system, devices


def test_a_machine_without_one(machine, tmp_path):
    assert find(*machine) == find(tmp_path / "none", tmp_path / "none") == []


@pytest.mark.parametrize(
    ("vendor", "product", "speed", "mbits", "firmware"), [("1a6e", "089a", "480", 480, False), ("18d1", "9302", "5000", 5000, True)]
)
def test_a_stick(machine, vendor, product, speed, mbits, firmware):
    system, devices = machine
    folder = system / "bus/usb/devices/2-1"
    write(folder, idVendor=vendor, idProduct=product, speed=speed, busnum="2", devnum="4")
    found = Accelerator("usb", str(folder), mbits, firmware)
    assert find(*machine) == [found] and not found.allowed
    (devices / "bus/usb/002").mkdir(parents=True)
    (devices / "bus/usb/002/004").touch()
    [found] = find(*machine)
    assert found.node == str(devices / "bus/usb/002/004") and found.allowed


def test_a_stick_that_is_pulled_out_while_it_is_read(machine):
    folder = machine[0] / "bus/usb/devices/2-1"
    write(folder, idVendor="18d1", idProduct="9302")
    assert find(*machine) == [Accelerator("usb", str(folder), 0)]


def test_cards_with_and_without_their_driver(machine):
    system, devices = machine
    folder = system / "bus/pci/devices/0000:01:00.0"
    write(folder, vendor="0x1ac1", device="0x089a")
    assert find(*machine) == [Accelerator("pcie", str(folder))]
    for name in ("apex_1", "apex_0"):
        (devices / name).touch()
    assert find(*machine) == [Accelerator("pcie", str(devices / name), node=str(devices / name)) for name in ("apex_0", "apex_1")]
    assert find(*machine)[0].allowed


@pytest.mark.parametrize(
    ("listing", "found"),
    [
        ("return [{'type': 'pci', 'path': '/dev/apex_0'}, {'type': 'usb', 'path': '/a'}]", [("pcie", "/dev/apex_0"), ("usb", "/a")]),
        ("import os; os.abort()", []),
        ("raise OSError", []),
        ("print('Hello')", []),
        ("pass", []),
    ],
)
def test_pycoral_is_asked_where_there_is_no_sys(machine, tmp_path, monkeypatch, listing, found):
    package = tmp_path / "site" / "pycoral" / "utils"
    package.mkdir(parents=True)
    (package / "edgetpu.py").write_text(f"def list_edge_tpus(): {listing}")
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    accelerator._pycoral.cache_clear()
    assert find(*machine) == []
    assert [(each.kind, each.path) for each in find(tmp_path / "none", tmp_path / "none")] == found
    accelerator._pycoral.cache_clear()


def installed():
    try:
        ctypes.CDLL(accelerator.LIBEDGETPU)
    except OSError:
        return False
    return True


@pytest.mark.skipif(installed(), reason="libedgetpu is installed here")
def test_a_machine_without_the_library(capfd):
    assert library() == Library(error="libedgetpu.so.1 is not installed")
    with pytest.raises(MissingError, match=r"libedgetpu\.so\.1 is not installed: install libedgetpu1-std"):
        accelerator.load()
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def stub(tmp_path, monkeypatch):
    """stub("return NULL;"): processes that are started now find a libedgetpu.so.1 whose delegate is made by this line of C."""
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    return partial(libedgetpu.build, tmp_path)


def test_a_library_without_a_device(stub):
    path = stub('report("no device"); return NULL;')
    assert library() == Library(str(path), "BuildLabel(stub), RuntimeVersion(14)", None)


def test_a_library_that_does_not_fit(stub):
    path = stub("abort();")
    found = library()
    assert (found.path, found.version) == (str(path), "BuildLabel(stub), RuntimeVersion(14)")
    assert found.error == "libedgetpu.so.1 does not fit the TFLite runtime (it was ended by SIGABRT)"


def test_a_library_that_ends_the_process_at_once(stub):
    stub("return NULL;", "__attribute__((constructor)) static void start(void) { raise(11); }")
    assert library() == Library(error="libedgetpu.so.1 does not fit the TFLite runtime (it was ended by SIGSEGV)")


def test_a_library_that_hangs(stub, monkeypatch):
    monkeypatch.setattr(accelerator, "TRIAL_S", 2.0)
    stub("for (;;) pause();")
    assert library().error == "libedgetpu.so.1 did not load within 2 s"


def test_a_library_that_lacks_another_one(stub, tmp_path):
    path = stub("return NULL;")
    shutil.move(path, tmp_path / "libusb-stub.so")
    subprocess.run(["cc", "-shared", "-Wl,--no-as-needed", "-o", path, tmp_path / "libusb-stub.so"], check=True, cwd=tmp_path)
    (tmp_path / "libusb-stub.so").unlink()
    assert "does not load (" in library().error and "libusb-stub.so" in library().error


def test_another_library_under_its_name(stub, tmp_path):
    path = stub("return NULL;")
    (tmp_path / "empty.c").write_text("int nothing;\n")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", path, tmp_path / "empty.c"], check=True)
    assert library().error == "libedgetpu.so.1 is another library than its name says"


def test_what_is_found_is_json(capfd):
    accelerator.describe()
    assert set(json.loads(capfd.readouterr().out)) <= {"path", "version", "error"}
