"""Keys, and what is stored under them: AES-256-GCM (NIST SP 800-38D) of the package cryptography.

A key is 32 random bytes in a file (`openssl rand -hex 32 > FILE`, or the bytes themselves), kept apart from the gallery.
"""

import argparse
import hmac
import os
from pathlib import Path
from typing import Protocol

from device.program import InputError, MissingError

VARIABLE = "OMOKAGE_KEY_FILE"
CREDENTIAL = "omokage-key"  # systemd: LoadCredentialEncrypted=omokage-key:...
LENGTH = 32  # bytes of a key
SALT = 16
NONCE = 12
MAKE = "make a key with: openssl rand -hex 32 > FILE"


class Broken(Exception):
    """What was to be opened was sealed under another key, is about something else, or has changed."""


class Sealer(Protocol):
    """How a store writes what tells about people. `about` is what the sealed bytes belong to: elsewhere they do not open."""

    def seal(self, plain: bytes, about: str) -> bytes: ...

    def unseal(self, sealed: bytes, about: str) -> bytes: ...

    def tag(self, name: str) -> str:
        """What a name is found by: always the same."""
        ...


class Plain:
    """No key: all is stored as it is."""

    def seal(self, plain: bytes, about: str) -> bytes:
        return plain

    def unseal(self, sealed: bytes, about: str) -> bytes:
        return sealed

    def tag(self, name: str) -> str:
        return name


class Vault:
    """Seals under `key` (32 bytes) and a `salt` (16 random bytes that are stored beside what was sealed).

    Each message has its own random nonce. Raises MissingError where `cryptography` is not installed.
    """

    def __init__(self, key: bytes, salt: bytes):
        try:
            from cryptography.hazmat.primitives import hashes
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM
            from cryptography.hazmat.primitives.kdf.hkdf import HKDF
        except ImportError as error:
            raise MissingError("the package cryptography is not installed", "pip install cryptography") from error
        keys = HKDF(hashes.SHA256(), 2 * LENGTH, salt, b"omokage gallery 1").derive(key)
        self.salt = salt
        self._cipher, self._tagging = AESGCM(keys[:LENGTH]), keys[LENGTH:]

    def seal(self, plain: bytes, about: str) -> bytes:
        nonce = os.urandom(NONCE)
        return nonce + self._cipher.encrypt(nonce, plain, about.encode())

    def unseal(self, sealed: bytes, about: str) -> bytes:
        """Raises Broken."""
        from cryptography.exceptions import InvalidTag

        try:
            return self._cipher.decrypt(sealed[:NONCE], sealed[NONCE:], about.encode())
        except (InvalidTag, ValueError) as error:
            raise Broken from error

    def tag(self, name: str) -> str:
        return hmac.digest(self._tagging, name.encode(), "sha256").hex()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The option --key-file, for `find_key(args.key_file)`."""
    parser.add_argument("--key-file", type=Path, metavar="FILE", help=f"the key of an encrypted gallery (default ${VARIABLE})")


def find_key(path: Path | None = None) -> bytes | None:
    """The key in the file `path`, else in $OMOKAGE_KEY_FILE, else systemd's credential `omokage-key`; None where there is none.

    Raises InputError (no such file, not a key).
    """
    if path is None and os.environ.get(VARIABLE):
        path = Path(os.environ[VARIABLE])
    path = path or credential(CREDENTIAL)
    return None if path is None else read_key(path)


def credential(name: str) -> Path | None:
    """The file of a credential that systemd hands to its service (systemd.exec(5)); None where there is none."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    path = Path(folder, name) if folder else None
    return path if path and path.exists() else None


def read_key(path: Path) -> bytes:
    """The key in the file `path`: 32 bytes, or 64 hexadecimal digits. Raises InputError."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise InputError(
            f"the key file {path} cannot be read ({error.strerror})", f"name another one with --key-file, or {MAKE}"
        ) from error
    if len(content) == LENGTH:
        return content
    try:
        key = bytes.fromhex(content.decode("ascii"))
    except ValueError:
        key = b""
    if len(key) != LENGTH:
        raise InputError(f"{path} is not a key (neither {LENGTH} bytes nor {2 * LENGTH} hexadecimal digits)", MAKE)
    return key
