"""A web address as a receiver of events (device/courier.py): one POST of JSON each, signed as Standard Webhooks 1.0.0 has it.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md: the headers webhook-id, webhook-timestamp
and webhook-signature, which is `v1,` and the base64 of HMAC-SHA256 over `ID.TIMESTAMP.BODY`. Its libraries check that in most languages.
"""

import base64
import binascii
import hmac
import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from urllib.parse import urlsplit

from device.courier import Lost, Refused
from device.outbox import Letter
from device.program import InputError

LIMIT = 10.0  # seconds for an answer
PATIENT = (408, 429)  # of the client errors, those that say: later
PREFIX = "whsec_"
SHORTEST = 16  # bytes of a secret


def key_of(secret: bytes) -> bytes:
    """The key in a secret's file: `whsec_` and base64, as Standard Webhooks writes it, or the bytes themselves. Raises InputError."""
    key = secret
    if secret.startswith(PREFIX.encode()):
        try:
            key = base64.b64decode(secret[len(PREFIX) :], validate=True)
        except binascii.Error as error:
            raise InputError("the webhook's secret begins with whsec_ and is not base64", "copy it again") from error
    if len(key) < SHORTEST:
        raise InputError(f"the webhook's secret has less than {SHORTEST} bytes", "make one with: openssl rand -hex 32 > FILE")
    return key


def sign(key: bytes, id: str, timestamp: int, body: bytes) -> str:
    """The header webhook-signature."""
    return "v1," + base64.b64encode(hmac.digest(key, f"{id}.{timestamp}.".encode() + body, "sha256")).decode()


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        """None: a redirect is an answer like others. Followed, a POST would become a GET, and go to who knows whom."""


class Webhook:
    """POSTs events to `url`, signed with `key` where there is one.

    2xx: it has arrived. Other 4xx than 408 and 429, and redirects: it is refused. All else is tried again later.
    Raises InputError for what is no http or https address.
    """

    name = "webhook"

    def __init__(self, url: str, key: bytes | None = None, clock: Callable[[], float] = time.time):
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise InputError("the webhook's address is not understood", "write https://HOST/PATH") from error
        if parts.scheme not in ("http", "https") or not parts.hostname or not url.isascii() or not url.isprintable():
            raise InputError("the webhook's address is no http:// or https:// address", "write https://HOST/PATH")
        if parts.username is not None:
            raise InputError("the webhook's address holds a user", "have it signed instead, with --webhook-secret-file")
        # Without path and query, which often are as good as a password.
        self.address = f"the webhook {parts.scheme}://{parts.hostname}" + (f":{port}" if port else "")
        self._url, self._key, self._clock = url, key, clock
        self._opener = urllib.request.build_opener(_NoRedirect)

    def open(self) -> None:
        """There is no connection to keep."""

    def tend(self) -> float:
        return LIMIT

    def close(self) -> None:
        """Nothing is kept."""

    def deliver(self, letter: Letter) -> None:
        body, now = letter.body.encode(), int(self._clock())
        headers = {"Content-Type": "application/json", "User-Agent": "omokage", "webhook-id": letter.id, "webhook-timestamp": str(now)}
        if self._key is not None:
            headers["webhook-signature"] = sign(self._key, letter.id, now, body)
        try:
            with self._opener.open(urllib.request.Request(self._url, body, headers, method="POST"), timeout=LIMIT):
                return
        except urllib.error.HTTPError as answer:
            answer.close()
            if 300 <= answer.code < 500 and answer.code not in PATIENT:
                raise Refused(f"it answers {answer.code}") from answer
            raise Lost(f"it answers {answer.code}") from answer
        except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
            raise Lost(str(getattr(error, "reason", None) or error or type(error).__name__)) from error
