"""Passwords, sessions and tokens. Nothing of this is ever logged."""

import hashlib
import hmac
import ipaddress
import os
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from device.program import InputError
from device.store import private

COST = 2**14, 8, 1  # scrypt's N, r, p: 16 MB and about 50 ms (OWASP Password Storage Cheat Sheet, second choice of three)
HASHED = "scrypt"
SHORTEST = 8  # characters of a password
LONGEST = 1024
SESSION = 14 * 24 * 3600.0  # seconds after which a session ends that is not used
SESSIONS = 64
FREE = 4  # attempts before one has to wait
WAIT = 2.0  # seconds after the next wrong one, doubled each time
LONGEST_WAIT = 300.0
ADDRESSES = 1000  # that are remembered
READABLE = 0o077  # by others than the owner


class Password:
    """The password in the file `path`: plain text in one line, or as `choose` wrote it. Raises InputError for a file of no use.

    A file that is not there yet is made at the first visit (`chosen` tells whether it is there).
    """

    def __init__(self, path: Path):
        self._path = Path(path)
        self._lock = threading.Lock()  # one at a time: each takes 16 MB
        self._stored = self._read()

    @property
    def chosen(self) -> bool:
        return self._stored is not None

    def choose(self, word: str) -> None:
        """Set the first password. Raises InputError where it is too short, or there is one."""
        if self.chosen or self._path.exists():
            raise InputError("a password is set already", f"to choose another one, delete {self._path.name} and start the page again")
        _check(word)
        with self._lock:
            self._stored = _hashed(word)
        with private(self._path) as temporary:
            temporary.write_text(self._stored + "\n", "ascii")

    def fits(self, word: str) -> bool:
        if self._stored is None or len(word) > LONGEST:
            return False
        with self._lock:
            return _fits(word, self._stored)

    def _read(self) -> str | None:
        if not self._path.exists():
            return None
        try:
            if self._path.stat().st_mode & READABLE:
                raise InputError(f"others may read {self._path}", f"chmod 600 {self._path}")
            word = self._path.read_text("utf-8").strip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"the password file {self._path} cannot be read ({error})", "name another one with --password-file") from error
        if word.startswith(f"{HASHED}:"):
            if len(word.split(":")) != 3:
                raise InputError(f"{self._path} is damaged", "delete it, and choose a new password at the next visit")
            return word
        _check(word)
        return _hashed(word)


def _check(word: str) -> None:
    if not SHORTEST <= len(word) <= LONGEST:
        raise InputError(f"the password has {len(word)} characters", f"choose one of {SHORTEST} or more")


def _hashed(word: str) -> str:
    salt = os.urandom(16)
    return f"{HASHED}:{salt.hex()}:{_scrypt(word, salt).hex()}"


def _fits(word: str, stored: str) -> bool:
    _, salt, digest = stored.split(":")
    return hmac.compare_digest(_scrypt(word, bytes.fromhex(salt)).hex(), digest)


def _scrypt(word: str, salt: bytes) -> bytes:
    n, r, p = COST
    return hashlib.scrypt(word.encode("utf-8", "surrogatepass"), salt=salt, n=n, r=r, p=p, maxmem=64 * 2**20)


def read_token(path: Path) -> str:
    """The token for programs in the file `path`. Raises InputError."""
    try:
        if Path(path).stat().st_mode & READABLE:
            raise InputError(f"others may read {path}", f"chmod 600 {path}")
        token = Path(path).read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the token file {path} cannot be read ({error})", "make one with: openssl rand -hex 32 > FILE") from error
    if len(token) < 32 or not token.isprintable():
        raise InputError(f"the token in {path} is too short", "make one with: openssl rand -hex 32 > FILE")
    return token


class Sessions:
    """Who has logged in, and what is to be told them next. A session is the random word in its cookie."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._secret = secrets.token_bytes(32)
        self._known: OrderedDict[str, float] = OrderedDict()  # the least recently used first

    @staticmethod
    def new() -> str:
        return secrets.token_urlsafe(32)

    def open(self) -> str:
        """A new session that is logged in."""
        word = self.new()
        self._known[word] = self._clock() + SESSION
        while len(self._known) > SESSIONS:
            self._known.popitem(last=False)
        return word

    def close(self, word: str) -> None:
        self._known.pop(word, None)

    def is_open(self, word: str) -> bool:
        """Whether this one is logged in; it is used hereby."""
        if self._known.get(word, -1.0) < self._clock():
            self._known.pop(word, None)
            return False
        self._known[word] = self._clock() + SESSION
        self._known.move_to_end(word)
        return True

    def csrf(self, word: str) -> str:
        """What every form of this session carries, and nobody else can know."""
        return hmac.new(self._secret, word.encode(), "sha256").hexdigest()

    def is_own(self, word: str, token: str) -> bool:
        return hmac.compare_digest(self.csrf(word).encode(), token.encode("utf-8", "surrogatepass"))


class Throttle:
    """Slows down those who guess passwords, by address."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._failed: OrderedDict[str, tuple[int, float]] = OrderedDict()  # how often, and until when to wait

    def wait(self, address: str) -> float:
        """Seconds until the next attempt from there is looked at."""
        return max(self._failed.get(_network(address), (0, 0.0))[1] - self._clock(), 0.0)

    def failed(self, address: str) -> None:
        address = _network(address)
        count = self._failed.pop(address, (0, 0.0))[0] + 1
        pause = min(WAIT * 2.0 ** min(count - FREE - 1, 20), LONGEST_WAIT) if count > FREE else 0.0
        self._failed[address] = count, self._clock() + pause
        while len(self._failed) > ADDRESSES:
            self._failed.popitem(last=False)

    def succeeded(self, address: str) -> None:
        self._failed.pop(_network(address), None)


def _network(address: str) -> str:
    """Whose address it is: of version 6 everybody has a network of 64 bits to choose from."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ipaddress.ip_network(f"{address}/64", strict=False)) if found.version == 6 and not found.ipv4_mapped else address
