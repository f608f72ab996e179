"""A page in the browser: see what the recogniser sees, name who was there, correct what is wrong.

  python device/serve.py                                        # beside a recognize.py --journal that runs
  python device/serve.py -- --camera 0 --remember-unknowns      # starts that recognize.py itself
  python device/serve.py --listen 0.0.0.0 --password-file ~/.config/omokage/password -- --camera 0

Open http://127.0.0.1:8080/ then. What follows `--` is for recognize.py, which runs as a process of its own, and again if it dies.
Beyond this machine the page is shown to those with the password or the token alone. docs/live.md and docs/security.md.
"""

import argparse
import contextlib
import errno
import functools
import ipaddress
import logging
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import cv2

from device import bundle, detect, journal, vault
from device.gallery import Gallery, default_path
from device.program import INTERRUPTED, InputError, MissingError, Parser, run

LISTEN = "127.0.0.1:8080"
PORT = 8080
THREADS = 1  # of OpenCV: the recogniser has better use for the others
BACKOFF = (1.0, 5.0, 30.0)  # seconds before the recogniser is started again, the last one for good
STEADY = 60.0  # seconds for which it must run before the back-off starts anew
GRACE = 10.0  # seconds for it to end when it is asked to
NOT_AGAIN = (0, 1, InputError.status, INTERRUPTED)  # its source has ended, or its options are wrong: that will not mend itself


def build_parser() -> Parser:
    parser = Parser(__doc__, usage="serve.py [options] [-- recognize.py's options]")
    parser.add_argument("--listen", default=LISTEN, metavar="ADDRESS[:PORT]", help="where to wait for browsers (default: %(default)s)")
    told = "the password; where the file is not there yet, it is chosen at the first visit (on this machine alone)"
    parser.add_argument("--password-file", type=Path, metavar="FILE", help=told)
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="a token for programs (Authorization: Bearer TOKEN)")
    parser.add_argument("--certificate", type=Path, metavar="FILE", help="serve HTTPS with this certificate (PEM, with its chain)")
    parser.add_argument("--key", type=Path, metavar="FILE", help="the certificate's private key (PEM)")
    parser.add_argument(
        "--host-name", action="append", default=[], metavar="NAME", help="another name under which browsers ask for the page"
    )
    parser.add_argument("--proxy", metavar="ADDRESS", help="believe the reverse proxy at this address who asks, and whether by HTTPS")
    parser.add_argument("--gallery", type=Path, metavar="FILE", help="who is known (default $OMOKAGE_GALLERY, else in ~/.local/share)")
    parser.add_argument("--journal", type=Path, metavar="DIR", help="the recogniser's journal (default: journal, beside the gallery)")
    parser.add_argument("--encoder", metavar="BUNDLE", help="a bundle of models/ or its folder (default: the newest shipped one)")
    parser.add_argument("--keep-crops", action="store_true", help="keep crops, of people and of visits: these are pictures of people")
    detect.add_arguments(parser)
    vault.add_arguments(parser)
    return parser


class Recognition:
    """recognize.py as a process of this one, started again when it dies. `why` tells why there is none, and `status` how it ended.

    `refused` is called where it cannot be meant what it was asked for.
    """

    def __init__(self, options: Sequence[str], refused: Callable[[], None]):
        self._refused = refused
        self.status: int | None = None
        self._command = [sys.executable, "-m", "device.recognize", *options]
        self._process: subprocess.Popen[str] | None = None
        self._closing = threading.Event()
        self._last = ""
        self.why: str | None = None
        self._thread = threading.Thread(target=self._run, name="recogniser", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        process = self._process
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE)
            process.kill()
        self._thread.join(GRACE)

    def _run(self) -> None:
        deaths = 0
        while not self._closing.is_set():
            started = time.monotonic()
            # A group of its own: Ctrl-C is this process's to pass on.
            self._process = subprocess.Popen(
                self._command, cwd=Path(__file__).parents[1], stderr=subprocess.PIPE, text=True, errors="replace", start_new_session=True
            )
            self.why = None
            if self._closing.is_set():  # in this very moment
                self._process.terminate()
            self._copy(self._process.stderr)
            status = self._process.wait()
            if self._closing.is_set():
                return
            self.why = self._last if status not in (0, 1) else "the recogniser's source has ended"
            self.status = status
            if status in NOT_AGAIN:
                if status == InputError.status:
                    self._refused()
                return
            deaths = 0 if time.monotonic() - started > STEADY else deaths + 1
            logging.getLogger("omokage").warning("the recogniser ended with status %d, it is started again", status)
            self._closing.wait(BACKOFF[min(deaths, len(BACKOFF) - 1)])

    def _copy(self, pipe: IO[str] | None) -> None:
        """Its log is ours; the last line of it may say why it ended."""
        for line in pipe or ():
            self._last = line.strip() or self._last
            sys.stderr.write(line)
            sys.stderr.flush()


def serve(args: argparse.Namespace) -> int:
    try:
        import uvicorn

        from device.web import app, aside, auth, guard, home
    except ImportError as error:
        raise MissingError(f"the page needs a package that is not installed ({error.name})", "pip install 'omokage[web]'") from error
    address, port = _address(args.listen)
    outside = args.proxy is not None or not _is_loopback(address)
    _check_door(args, outside)
    cv2.setNumThreads(THREADS)
    gallery, used = args.gallery or default_path(), bundle.find(args.encoder)
    key = vault.find_key(args.key_file)
    if gallery.exists():
        Gallery(gallery, key=key).close()  # one that cannot be used is told now
    folder = args.journal or journal.default_folder(gallery)
    place = home.Home(gallery, folder, used, args, key, args.keep_crops)
    password = auth.Password(args.password_file) if args.password_file else None
    token = auth.read_token(args.token_file) if args.token_file else None
    here = {"localhost", socket.gethostname().lower(), f"{socket.gethostname().lower()}.local"}
    rules = guard.Rules(here | {name.lower() for name in args.host_name}, password, token)
    if password is not None and not password.chosen and outside:
        raise InputError(f"{args.password_file} is not there", "write a password into it: beyond this machine, anybody could choose it")
    settings: dict[str, Any] = {"ssl_certfile": args.certificate, "ssl_keyfile": args.key} if args.certificate else {}
    with contextlib.ExitStack() as stack:
        door = stack.enter_context(contextlib.closing(_door(address, port)))
        recognition: Recognition | None = None
        look = functools.partial(aside.call, home.examined, args.gallery, args.encoder, args.key_file)
        pages = app.Pages(place, rules, look, lambda: recognition.why if recognition else None)
        server = uvicorn.Server(
            uvicorn.Config(
                app.make(pages),
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=args.proxy is not None,
                forwarded_allow_ips=args.proxy or "",
                timeout_graceful_shutdown=2,
                limit_concurrency=200,
                h11_max_incomplete_event_size=32 * 1024,
                **settings,
            )
        )
        if args.recognize:

            def refused() -> None:
                server.should_exit = True

            recognition = stack.enter_context(contextlib.closing(Recognition(recognizer_options(args, folder), refused)))
        scheme = "https" if args.certificate else "http"
        shown = f"[{address}]" if ":" in address else address
        logging.getLogger("omokage").info("the page is at %s://%s:%d/", scheme, shown, door.getsockname()[1])
        with _interrupted() as interrupted:
            server.run(sockets=[door])
        if recognition and recognition.status == InputError.status:
            return InputError.status  # it has said why
    return INTERRUPTED if interrupted() else 0


def recognizer_options(args: argparse.Namespace, folder: Path) -> list[str]:
    """What recognize.py is started with: its own options, and after those that both have, so that they agree."""
    shared = ["--journal", str(folder.absolute())]
    for name in ("gallery", "key_file", "detector_model"):
        path = getattr(args, name)
        shared += [f"--{name.replace('_', '-')}", str(path.absolute())] if path is not None else []
    for name in ("encoder", "detector_size", "min_face"):
        value = getattr(args, name)
        shared += [f"--{name.replace('_', '-')}", str(value)] if value else []
    shared += ["--skip-still"] if args.skip_still else []
    shared += ["--detector", args.detector, *(["--journal-crops"] if args.keep_crops else [])]
    return [*args.recognize, *shared]


def _check_door(args: argparse.Namespace, outside: bool) -> None:
    """Nobody comes in from outside without saying who they are, and a certificate fits its key."""
    if outside and args.password_file is None and args.token_file is None:
        way = args.listen if args.proxy is None else f"the proxy at {args.proxy}"
        raise InputError(f"the page can be reached from outside, by {way}", "protect it with --password-file or --token-file")
    if (args.certificate is None) != (args.key is None):
        raise InputError("a certificate and its key belong together", "name both, with --certificate and --key")
    if args.certificate is None:
        return
    for path in (args.certificate, args.key):
        if not path.is_file():
            raise InputError(f"{path} is not there", "name another file")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(args.certificate, args.key, password=lambda: "")
    except (ssl.SSLError, OSError) as error:
        reason = "they do not belong together" if "MISMATCH" in str(error) else getattr(error, "reason", None) or error
        wrong = f"the certificate {args.certificate} and the key {args.key} cannot be used ({reason})"
        raise InputError(wrong, "name a PEM certificate and its own, unencrypted key") from error


def _address(word: str) -> tuple[str, int]:
    """Address and port: "0.0.0.0:80", "[::1]:8080", "::1", "127.0.0.1". Raises InputError."""
    host, colon, digits = word.rpartition(":")
    if not colon or (":" in host and not host.startswith("[")):  # no port, or an IPv6 address without brackets
        host, digits = word, str(PORT)
    host = host.strip("[]")
    try:
        port = int(digits)
        ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
        if not 0 <= port < 2**16:
            raise ValueError
    except ValueError as error:
        raise InputError(f"{word} is no address to listen at", f"write one like {LISTEN} or 0.0.0.0:{PORT}") from error
    return "127.0.0.1" if host == "localhost" else host, port


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address).is_loopback


def _door(address: str, port: int) -> socket.socket:
    """The listening socket. Raises InputError or MissingError."""
    door = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        door.bind((address, port))
        door.listen(128)
    except OSError as error:
        door.close()
        if error.errno == errno.EADDRINUSE:
            raise InputError(f"port {port} of {address} is in use", "end the other program, or choose a port with --listen") from error
        raise InputError(f"cannot listen at {address}:{port} ({error.strerror})", "choose another address with --listen") from error
    return door


@contextlib.contextmanager
def _interrupted() -> Iterator[Callable[[], bool]]:
    """Tells afterwards whether Ctrl-C was the end. uvicorn raises the signals that ended it again."""
    seen: list[int] = []
    before = {number: signal.signal(number, lambda got, _: seen.append(got)) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: signal.SIGINT in seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _logging() -> Iterator[None]:
    """The log goes to stderr, of this program and, where they warn, of others."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("serve: %(message)s"))
    loggers = [(logging.getLogger("omokage"), logging.INFO), (logging.getLogger("uvicorn"), logging.ERROR)]
    before = [logger.level for logger, _ in loggers]
    for logger, level in loggers:
        logger.addHandler(handler)
        logger.setLevel(level)
    try:
        yield
    finally:
        for (logger, _), level in zip(loggers, before, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)


def _main(args: argparse.Namespace) -> int:
    with _logging():
        return serve(args)


def main(argv: list[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else list(argv)
    own, rest = (words[: words.index("--")], words[words.index("--") + 1 :]) if "--" in words else (words, [])
    parser = build_parser()
    parser.set_defaults(recognize=rest)
    return run(_main, parser, own)


if __name__ == "__main__":
    sys.exit(main())
