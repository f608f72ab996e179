"""What every request has to pass before any page hears of it."""

import hmac
import http.cookies
import ipaddress
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from device.web.auth import Password, Sessions

SMALL = 2**14  # bytes of a request before somebody has logged in ...
BODY = 2**20  # ... and after
UPLOAD = 32 * 2**20
UPLOADS = ("/do/add",)
OPEN = ("/login", "/healthz", "/static/")  # for everybody
PROGRAMS = ("/api/", "/metrics")  # answered in JSON or plain text, never by the way to the login
SAFE = ("GET", "HEAD")
METHODS = (*SAFE, "POST")
COOKIE = "omokage"
WORD = re.compile(r"[A-Za-z0-9_-]{43}")
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self';"
    " form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Cache-Control": "no-store",
}


class TooLarge(Exception):
    """The body is larger than allowed."""


@dataclass(frozen=True)
class Rules:
    """Who may come in. Without `password` and `token` everybody who reaches the port: it listens on this machine alone then.

    `hosts`: the names, in small letters, under which the page may be asked for; another one is a trick (DNS rebinding).
    """

    hosts: Collection[str]
    password: Password | None = None
    token: str | None = None
    sessions: Sessions = field(default_factory=Sessions)

    @property
    def open(self) -> bool:
        return self.password is None and self.token is None


class Guard:
    """ASGI middleware. In `request.state`: `session` (its cookie's word) and `program` (it came with the token)."""

    def __init__(self, app: ASGIApp, rules: Rules):
        self._app, self._rules = app, rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        cookie = ("__Host-" if scope["scheme"] == "https" else "") + COOKIE
        refused, fresh = self._examine(scope, cookie)
        limit = _limit(scope["path"])
        started = False

        async def guarded(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                if fresh:
                    headers.append("Set-Cookie", cookie_line(scope, scope["state"]["session"]))
            await send(message)

        if refused is not None:
            await refused(scope, receive, guarded)
            return
        try:
            await self._app(scope, _limited(receive, limit), guarded)
        except TooLarge:
            if not started:
                await _refusal(scope, 413, "that is too much at once: send less")(scope, receive, guarded)

    def _examine(self, scope: Scope, cookie: str) -> tuple[Response | None, bool]:
        """Why this request is refused, and whether it gets a new session."""
        headers, state = Headers(scope=scope), scope.setdefault("state", {})
        state["program"], state["session"] = False, ""
        if scope["method"] not in METHODS:
            return _refusal(scope, 405, "only GET and POST are known here", {"Allow": ", ".join(METHODS)}), False
        if not _is_own(headers.get("host", ""), self._rules.hosts):
            return PlainTextResponse("this is not the name of this page: start serve.py with --host-name for it\n", 421), False
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()) or int(length[:18]) > _limit(scope["path"]):
            return _refusal(scope, 413, "that is too much at once: send less"), False
        if scope["method"] not in SAFE and not _same_site(scope, headers):
            return _refusal(scope, 403, "another site asked for this: open the page itself"), False
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return self._program(scope, token.strip()), False
        session = _session(headers, cookie)
        state["session"] = session or self._rules.sessions.new()
        inside = self._rules.open or bool(session and self._rules.sessions.is_open(session))
        state["inside"] = inside
        if not inside and not scope["path"].startswith(OPEN):
            return _entrance(scope), session is None
        return None, session is None and not scope["path"].startswith("/static/")

    def _program(self, scope: Scope, token: str) -> Response | None:
        expected = self._rules.token
        if expected is None or not hmac.compare_digest(token.encode("utf-8", "surrogateescape"), expected.encode()):
            return _refusal(scope, 401, "that is not the token", {"WWW-Authenticate": "Bearer"})
        scope["state"] |= {"program": True, "inside": True}
        return None


def allowed(request: Request, rules: Rules, token: str) -> bool:
    """Whether a change is the session's own: `token` is what its form or its X-CSRF-Token header carried."""
    return request.state.program or rules.sessions.is_own(request.state.session, token)


def cookie_line(scope: Scope, word: str) -> str:
    """The Set-Cookie header of a session."""
    secure = scope["scheme"] == "https"
    return f"{'__Host-' if secure else ''}{COOKIE}={word}; Path=/; HttpOnly; SameSite=Strict" + ("; Secure" if secure else "")


def _entrance(scope: Scope) -> Response:
    """For those who have to log in first."""
    if scope["path"].startswith(PROGRAMS) or scope["method"] not in SAFE:
        return _refusal(scope, 401, "log in first, or send the token", {"WWW-Authenticate": "Bearer"})
    path = scope["path"] + ("?" + scope["query_string"].decode("latin-1") if scope["query_string"] else "")
    return RedirectResponse("/login" if path == "/" else f"/login?next={quote(path, safe='')}", 303)


def _refusal(scope: Scope, status: int, text: str, headers: dict[str, str] | None = None) -> Response:
    if scope["path"].startswith(PROGRAMS):
        return JSONResponse({"error": text}, status, headers)
    return PlainTextResponse(f"{text}\n", status, headers)


def _same_site(scope: Scope, headers: Headers) -> bool:
    """Browsers tell where a change comes from; programs need not."""
    if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return False
    origin = headers.get("origin")
    return origin is None or (urlsplit(origin).scheme, urlsplit(origin).netloc) == (scope["scheme"], headers.get("host"))


def _is_own(header: str, hosts: Collection[str]) -> bool:
    """Whether a Host header names this page. An address is always right: only a name can be led elsewhere (DNS rebinding)."""
    name = re.sub(r":\d+$", "", header).lower()
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return name in hosts
    return True


def _session(headers: Headers, name: str) -> str | None:
    """The word of the session cookie, if there is one that this page may have made."""
    try:
        morsel: http.cookies.Morsel[Any] | None = http.cookies.SimpleCookie(headers.get("cookie", "")).get(name)
    except http.cookies.CookieError:
        return None
    return morsel.value if morsel is not None and WORD.fullmatch(morsel.value) else None


def _limit(path: str) -> int:
    return UPLOAD if path in UPLOADS else SMALL if path.startswith(OPEN) else BODY


def _limited(receive: Receive, limit: int) -> Receive:
    """The body, as long as it keeps to `limit`: a length need not be told, or be true."""
    had = 0

    async def next_part() -> Message:
        nonlocal had
        message = await receive()
        had += len(message.get("body", b""))
        if had > limit:
            raise TooLarge
        return message

    return next_part
