"""serve.py as a program: what it is told wrong, and that it and its recogniser end together."""

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

pytest.importorskip("uvicorn")
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from device import recognize, serve
from device.gallery import Gallery
from device.program import InputError


def told(capsys, *words: object) -> tuple[int, str]:
    """Exit status, and the one line on stderr."""
    status = serve.main([str(word) for word in words])
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "Traceback" not in err, err
    return status, err.removeprefix("serve: ")


def private(path: Path, content: str) -> Path:
    path.write_text(content)
    path.chmod(0o600)
    return path


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A self-signed certificate for localhost and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(timezone.utc)
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
    signed = made.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1)).sign(key, hashes.SHA256())
    paths = tmp_path / "cert.pem", tmp_path / "key.pem"
    paths[0].write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    return paths


@pytest.mark.parametrize("listen", ["", "here", "127.0.0.1:x", "127.0.0.1:70000", "300.1.1.1", "1.2.3:80", "[::1", "127.0.0.1:-1"])
def test_addresses_that_are_none(capsys, listen: str):
    status, line = told(capsys, "--listen", listen)
    assert status == 2 and "is no address to listen at" in line


def test_addresses():
    assert serve._address("127.0.0.1") == ("127.0.0.1", 8080) and serve._address("0.0.0.0:80") == ("0.0.0.0", 80)
    assert (
        serve._address("[::1]:9") == ("::1", 9)
        and serve._address("::1") == ("::1", 8080)
        and serve._address("localhost:1") == ("127.0.0.1", 1)
    )


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", "192.168.1.7"])
def test_beyond_this_machine_nobody_comes_in_without_a_word(capsys, tmp_path: Path, listen: str):
    status, line = told(capsys, "--listen", listen)
    assert status == 2 and "--password-file or --token-file" in line
    status, line = told(capsys, "--listen", listen, "--password-file", tmp_path / "none")
    assert status == 2 and "write a password into it" in line


def test_behind_a_proxy_too(capsys, tmp_path: Path):
    status, line = told(capsys, "--proxy", "127.0.0.1")
    assert status == 2 and "by the proxy at 127.0.0.1: protect it" in line
    assert "write a password into it" in told(capsys, "--proxy", "127.0.0.1", "--password-file", tmp_path / "none")[1]


def test_a_port_in_use(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        status, line = told(capsys, "--listen", f"127.0.0.1:{taken.getsockname()[1]}")
    assert status == 2 and "is in use: end the other program, or choose a port with --listen" in line


def test_an_address_of_another_machine(capsys, tmp_path: Path):
    status, line = told(capsys, "--listen", "192.0.2.1:0", "--token-file", private(tmp_path / "t", "x" * 40))
    assert status == 2 and "cannot listen at 192.0.2.1:0" in line


def test_a_certificate_that_does_not_fit_its_key(capsys, tmp_path: Path, certificate):
    cert, _ = certificate
    other = ec.generate_private_key(ec.SECP256R1())
    strange, locked, broken = (tmp_path / name for name in ("strange.pem", "locked.pem", "broken.pem"))
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    strange.write_bytes(other.private_bytes(*form, serialization.NoEncryption()))
    locked.write_bytes(other.private_bytes(*form, serialization.BestAvailableEncryption(b"secret")))
    broken.write_text("-----BEGIN PRIVATE KEY-----\nno\n-----END PRIVATE KEY-----\n")
    assert "they do not belong together" in told(capsys, "--certificate", cert, "--key", strange)[1]
    for file in (locked, broken, cert):
        status, line = told(capsys, "--certificate", cert, "--key", file)
        assert status == 2 and "cannot be used" in line and "unencrypted key" in line
    assert "is not there" in told(capsys, "--certificate", cert, "--key", tmp_path / "nothing")[1]
    assert "name both" in told(capsys, "--certificate", cert)[1]


def test_other_files_of_no_use(capsys, tmp_path: Path):
    assert "has 5 characters" in told(capsys, "--password-file", private(tmp_path / "p", "short"))[1]
    assert "cannot be read" in told(capsys, "--token-file", tmp_path / "nothing")[1]
    assert "is not a gallery" in told(capsys, "--gallery", private(tmp_path / "g.db", "no database" * 500))[1]
    status, line = told(capsys, "--encoder", tmp_path / "nothing")
    assert status == 2 and "is not a bundle" in line


def test_without_the_packages_it_says_which_to_install(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    status, line = told(capsys)
    assert status == 3 and "pip install 'omokage[web]'" in line


class Served:
    """A serve.py that runs."""

    def __init__(self, process: subprocess.Popen, port: int, log: Path):
        self.process, self.port, self._log = process, port, log

    @property
    def log(self) -> str:
        return self._log.read_text()

    def get(self, address: str) -> tuple[int, str]:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)) as connection:
            connection.request("GET", address)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    def until_told(self, what: str, address: str = "/") -> None:
        """Until the page tells it."""
        end = time.monotonic() + 60
        while what not in (told := self.get(address)[1]):
            assert time.monotonic() < end, told
            time.sleep(0.1)

    def until(self, what: str, seconds: float = 60.0) -> None:
        end = time.monotonic() + seconds
        while what not in self.log:
            assert time.monotonic() < end, self.log
            time.sleep(0.05)


@contextlib.contextmanager
def serving(tmp_path: Path, *words: object) -> Iterator[Served]:
    """A serve.py at a free port."""
    log = tmp_path / "log"
    command = [sys.executable, "-m", "device.serve", "--listen", "127.0.0.1:0", "--gallery", tmp_path / "g.db", *words]
    with log.open("w") as file, subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=file) as process:
        try:
            served = Served(process, 0, log)
            served.until("the page is at ")
            served.port = int(re.search(r"://127.0.0.1:(\d+)/", served.log)[1])
            yield served
        finally:
            process.terminate()


def recogniser_of(pid: int) -> list[int]:
    """The recognisers that a serve.py has started and that run."""
    children = " ".join(file.read_text() for file in Path(f"/proc/{pid}/task").glob("*/children")).split()
    return [int(child) for child in children if "device.recognize" in Path(f"/proc/{child}/cmdline").read_text()]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_it_ends_cleanly(tmp_path: Path, number: int, status: int):
    with serving(tmp_path) as served:
        assert served.get("/healthz") == (503, '{"ok":false,"recogniser":"none is running"}')
        served.process.send_signal(number)
        assert served.process.wait(20) == status
        assert "Traceback" not in served.log


def test_https(tmp_path: Path, certificate):
    cert, key = certificate
    with serving(tmp_path, "--certificate", cert, "--key", key) as served:
        trusted = ssl.create_default_context(cafile=str(cert))
        trusted.check_hostname = False
        with contextlib.closing(http.client.HTTPSConnection("127.0.0.1", served.port, timeout=30, context=trusted)) as connection:
            connection.request("GET", "/people")
            answer = connection.getresponse()
            assert answer.status == 200 and answer.headers["set-cookie"].startswith("__Host-omokage=")


def test_a_request_that_is_none(tmp_path: Path):
    with serving(tmp_path) as served:
        for nonsense in (b"\x16\x03\x01\x02\x00\x01\x00", b"GET / HTTP/9.9\r\n\r\n", b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n"):
            with socket.create_connection(("127.0.0.1", served.port), timeout=20) as peer, contextlib.suppress(ConnectionError):
                peer.sendall(nonsense + b"\r\n\r\n")
                assert b" 200 " not in peer.recv(1000)
        assert served.get("/people")[0] == 200 and "Traceback" not in served.log


def test_options_that_recognize_does_not_know_end_it(tmp_path: Path):
    with serving(tmp_path, "--", "--camera", "0", "--nonsense") as served:
        assert served.process.wait(60) == InputError.status
        assert "unrecognized arguments: --nonsense" in served.log


def test_the_recogniser_looks_for_faces_as_the_page_does(tmp_path: Path):
    words = ["--detector", "yunet", "--detector-model", "yunet.onnx", "--detector-size", "480", "--min-face", "20", "--skip-still"]
    args = serve.build_parser().parse_args(words)
    args.recognize = ["--camera", "0"]
    started = recognize.build_parser().parse_args(serve.recognizer_options(args, tmp_path))
    names = ("detector", "detector_size", "min_face", "skip_still")
    assert [getattr(started, name) for name in names] == [getattr(args, name) for name in names]
    assert started.detector_model == Path("yunet.onnx").absolute()


@pytest.mark.slow
def test_a_recogniser_of_its_own_that_dies_is_started_again_and_ends_with_it(tmp_path: Path, data: Path, yunet: Path):
    clip = data / "clips" / "p1-a.mp4"
    with serving(tmp_path, "--detector-model", yunet, "--keep-crops", "--", "--source", clip, "--loop") as served:
        served.until("is not named")
        assert json.loads(served.get("/healthz")[1])["recogniser"]["ok"]
        served.until_told("Who is it?")
        assert "omokage_frames_total" in served.get("/metrics")[1]
        before = recogniser_of(served.process.pid)
        os.kill(before[0], signal.SIGKILL)
        served.until("it is started again")
        assert served.get("/people")[0] == 200
        while served.log.count("is not named") < 2:
            time.sleep(0.05)
            assert served.process.poll() is None
        after = recogniser_of(served.process.pid)
        assert len(after) == 1 and after != before
        served.process.terminate()
        assert served.process.wait(20) == 0
        assert not Path(f"/proc/{after[0]}").exists()
        with Gallery(tmp_path / "g.db", create=True) as gallery:
            assert gallery.people() == []


@pytest.mark.slow
def test_a_recogniser_without_a_camera_says_so_on_the_page(tmp_path: Path):
    with serving(tmp_path, "--", "--camera", "77") as served:
        served.until("camera 77 gives no picture")
        served.until_told("camera 77 gives no picture")
        assert served.get("/healthz")[0] == 503
