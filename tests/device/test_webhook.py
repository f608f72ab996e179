import base64
import contextlib
import hashlib
import hmac
import http.server
import json
import re
import threading
import time
from pathlib import Path

import pytest

from device import courier, events
from device.courier import Courier, Lost, Refused
from device.outbox import Letter, Outbox
from device.program import InputError
from device.webhook import Webhook, key_of, sign

# The example of https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
ID, STAMP = "msg_2KWPBgLlAfxdpx2AI54pPJ85f4W", 1674087231


class Site:
    """Answers each POST with the next of `answers`, the last of them for good, and keeps what came."""

    def __init__(self, *answers: int):
        site = self
        self.posts: list[tuple[dict[str, str], bytes]] = []
        self.gets = 0
        answers_left = list(answers)

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                site.posts.append(({key.lower(): value for key, value in self.headers.items()}, body))
                code = answers_left.pop(0) if len(answers_left) > 1 else answers_left[0]
                self.send_response(code)
                if code in (301, 302, 307, 308):
                    self.send_header("Location", f"http://127.0.0.1:{site.port}/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def do_GET(self) -> None:
                site.gets += 1
                self.send_error(404)

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/hook/t0ken?key=s3cret"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def site():
    """site(200, ...) -> Site"""
    with contextlib.ExitStack() as stack:
        yield lambda *answers: stack.enter_context(contextlib.closing(Site(*answers)))


def letter(text: str = "Zoë") -> Letter:
    event = events.notice("test", "info", text)
    return Letter("webhook", event["id"], 0.0, json.dumps(event, ensure_ascii=False))


def test_an_event_is_posted_and_its_signature_holds(site, validate):
    there, key = site(204), bytes(range(32))
    sent = letter()
    Webhook(there.url, key, clock=lambda: STAMP + 0.9).deliver(sent)
    headers, body = there.posts[0]
    validate(json.loads(body), "event")
    assert (headers["content-type"], headers["webhook-id"], headers["webhook-timestamp"]) == ("application/json", sent.id, str(STAMP))
    version, _, signature = headers["webhook-signature"].partition(",")
    expected = hmac.new(key, f"{sent.id}.{STAMP}.".encode() + body, hashlib.sha256).digest()
    assert (version, base64.b64decode(signature)) == ("v1", expected)


def test_a_signature_tells_every_change():
    key = b"k" * 32
    signature = sign(key, ID, STAMP, b"{}")
    assert signature == sign(key, ID, STAMP, b"{}")
    others = [
        sign(b"l" * 32, ID, STAMP, b"{}"),
        sign(key, "x", STAMP, b"{}"),
        sign(key, ID, STAMP + 1, b"{}"),
        sign(key, ID, STAMP, b"{ }"),
    ]
    assert signature not in others


def test_without_a_secret_nothing_is_signed(site):
    there = site(200)
    Webhook(there.url).deliver(letter())
    assert "webhook-signature" not in there.posts[0][0]


@pytest.mark.parametrize("code", [400, 401, 404, 410, 301, 307])
def test_what_will_never_be_taken_is_refused(site, code: int):
    there = site(code)
    with pytest.raises(Refused, match=f"it answers {code}"):
        Webhook(there.url).deliver(letter())
    assert (len(there.posts), there.gets) == (1, 0)  # a redirect is not followed


@pytest.mark.parametrize("code", [408, 429, 500, 503])
def test_what_may_be_taken_later_is_lost(site, code: int):
    with pytest.raises(Lost, match=f"it answers {code}"):
        Webhook(site(code).url).deliver(letter())


def test_a_site_that_is_not_there_is_lost(site):
    there = site(200)
    there.close()
    with pytest.raises(Lost, match="Connection refused"):
        Webhook(there.url).deliver(letter())


def test_events_arrive_in_order_after_a_failure_with_the_same_id(site, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(courier, "FIRST", 0.01)
    there, notices = site(503, 429, 200, 400, 200), []
    outbox = Outbox(tmp_path / "outbox.db")
    told = [events.notice("test", "info", text) for text in "abc"]
    for event in told:
        outbox.put(["webhook"], event)
    made = Courier(Webhook(there.url), outbox, lambda code, message, level: notices.append((code, message)))
    while outbox.waiting("webhook"):
        assert made._thread.is_alive()
    made.end(5.0)
    made.join()
    outbox.close()
    ids = [headers["webhook-id"] for headers, _ in there.posts]
    a, b, c = (event["id"] for event in told)
    assert ids == [a, a, a, b, c]
    assert [code for code, _ in notices] == ["webhook-lost", "webhook-lost", "webhook-back"]
    assert not [message for _, message in notices if "s3cret" in message or "t0ken" in message]


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("ftp://site/hook", "no http:// or https:// address"),
        ("site/hook", "no http:// or https:// address"),
        ("https://", "no http:// or https:// address"),
        ("https://site/a b\r\nX: y", "no http:// or https:// address"),
        ("https://site:port/", "not understood"),
        ("https://ada:s3cret@site/", "--webhook-secret-file"),
    ],
)
def test_what_is_no_address_is_said_without_a_secret(url: str, says: str):
    with pytest.raises(InputError) as error:
        Webhook(url)
    assert says in str(error.value) and "s3cret" not in str(error.value)


def test_keys_are_bytes_or_what_standard_webhooks_writes():
    assert key_of(b"0123456789abcdef") == b"0123456789abcdef"
    assert key_of(b"whsec_" + base64.b64encode(bytes(range(24)))) == bytes(range(24))
    for wrong, says in (
        (b"short", "less than 16 bytes"),
        (b"whsec_" + base64.b64encode(b"short"), "less than"),
        (b"whsec_!", "not base64"),
    ):
        with pytest.raises(InputError, match=says):
            key_of(wrong)


def test_the_receiver_in_the_documents_tells_genuine_from_forged(site):
    page = (Path(__file__).parents[2] / "docs" / "home-assistant.md").read_text("utf-8")
    names: dict = {"base64": base64, "hmac": hmac, "time": time}
    exec(re.search(r"```python\n(.*?)```", page, re.DOTALL)[1], names)
    there, key = site(200), bytes(range(32))
    Webhook(there.url, key).deliver(letter())
    headers, body = there.posts[0]
    genuine = names["is_genuine"]
    assert genuine(headers, body, key)
    assert not genuine(headers, body + b" ", key)
    assert not genuine(headers, body, bytes(32))
    assert not genuine(headers | {"webhook-timestamp": str(int(headers["webhook-timestamp"]) - 301)}, body, key)
