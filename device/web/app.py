"""The addresses of the page, and what answers them. Everything here has passed device/web/guard.py."""

import asyncio
import contextlib
import hashlib
import json
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import cv2
from anyio import to_thread
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from python_multipart.exceptions import FormParserError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartParser
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from device.coverage import LIGHTS, POSES, cover
from device.doctor import Check
from device.gallery import GRACE, valid_name
from device.journal import SOCKET
from device.program import InputError, OmokageError, StoredError
from device.verbs import covered_words
from device.web import guard, live, openapi, uploads
from device.web.auth import Throttle
from device.web.guard import Guard, Rules, allowed, cookie_line
from device.web.home import Home
from device.web.verbs import VERBS, Done, Verb, parsed
from device.web.words import FILTERS, local

HERE = Path(__file__).parent
KINDS = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
SWEEP = 20.0  # seconds between two looks for removals that are due
THREADS = 6  # that answer: each takes memory of its own, and there are few cores
TOLD = 500  # sessions for which a message waits
EXAMINED = 60.0  # seconds for which the doctor's table is kept
STATUS = {InputError: 400, StoredError: 503}
MultiPartParser.spool_max_size = guard.UPLOAD  # no picture of anybody is written to /tmp


@dataclass(frozen=True)
class Static:
    """The files that the pages need, read once: no path from outside leads anywhere."""

    files: Mapping[str, tuple[bytes, str]]
    version: str

    @classmethod
    def load(cls) -> "Static":
        files = {path.name: (path.read_bytes(), KINDS[path.suffix]) for path in sorted((HERE / "static").iterdir()) if path.suffix in KINDS}
        return cls(files, hashlib.sha256(b"".join(content for content, _ in files.values())).hexdigest()[:12])


class Pages:
    """All that answers requests for one `home` under `rules`. `doctor` makes its table; `recogniser` tells why there is none."""

    def __init__(self, home: Home, rules: Rules, doctor: Callable[[], list[Check]], recogniser: Callable[[], str | None] = lambda: None):
        self.home, self.rules, self._doctor, self._recogniser = home, rules, doctor, recogniser
        self.hub = live.Hub(home.journal / SOCKET)
        self.throttle = Throttle()
        self._static = Static.load()
        self._messages: OrderedDict[str, tuple[str, Done | OmokageError]] = OrderedDict()
        self._templates = Environment(loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined)
        self._templates.filters |= FILTERS
        self._templates.globals |= {"static": self._static.version, "rules": rules}

    # -- what is shown ------------------------------------------------------------------------------------------------------

    def today(self, request: Request) -> Response:
        shown = _day(request.query_params.get("day"))
        facts = self._timeline(shown) | {"health": self.home.health(), "why": self._recogniser(), "people": self.home.names()}
        return self._page(request, "today.html", **facts, waiting=len(self.home.groups()), questions=len(self.home.questions()))

    def timeline(self, request: Request) -> Response:
        """The part of today's page that changes, for its script."""
        facts = self._timeline(_day(request.query_params.get("day")))
        tag = f'"{hashlib.sha256((self.home.state() + str((facts["day"], facts["watching"]))).encode()).hexdigest()[:16]}"'
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers={"ETag": tag})
        response = self._page(request, "timeline.html", **facts, people=self.home.names())
        response.headers["ETag"] = tag
        return response

    def watch(self, request: Request) -> Response:
        return self._page(request, "live.html", health=self.home.health(), why=self._recogniser())

    def people(self, request: Request) -> Response:
        return self._page(request, "people.html", people=self.home.people(), report=self.home.checkup())

    def person(self, request: Request) -> Response:
        name = valid_name(request.query_params.get("name", ""))
        with self.home.opened() as gallery:
            entries = gallery.entries(name)
            others = [person.name for person in gallery.people() if person.name != name]
        covered = cover(entry.template.look for entry in entries if not entry.template.denies)
        facts: dict[str, Any] = {"covered": covered, "words": covered_words(covered), "grace": round(GRACE), "report": self.home.checkup()}
        return self._page(request, "person.html", name=name, entries=entries, others=others, poses=POSES, lights=LIGHTS, **facts)

    def new(self, request: Request) -> Response:
        name = request.query_params.get("name", "")
        return self._page(request, "new.html", name=name, people=self.home.names(), files=uploads.FILES, megabytes=guard.UPLOAD >> 20)

    def unknowns(self, request: Request) -> Response:
        return self._page(request, "unknowns.html", groups=self.home.groups(), people=self.home.names())

    def review(self, request: Request) -> Response:
        return self._page(request, "review.html", questions=self.home.questions(), people=self.home.names())

    def settings(self, request: Request) -> Response:
        return self._page(request, "settings.html", rates=self.home.rates(), far=self.home.far(), used=self.home.used)

    def doctor(self, request: Request) -> Response:
        return self._page(request, "doctor.html", checks=self.home.memo.soon("doctor", self._minute(), self._doctor, []))

    def changes(self, request: Request) -> Response:
        found = []
        if self.home.is_there:
            with self.home.opened() as gallery:
                found = gallery.audit()[-200:][::-1]
        return self._page(request, "changes.html", changes=found)

    def face(self, request: Request) -> Response:
        """The crop of a template."""
        with self.home.opened() as gallery:
            crop = gallery.picture(_number(request))
        if crop is None:
            raise HTTPException(404)
        return _picture(cv2.imencode(".jpg", cv2.cvtColor(crop, cv2.COLOR_RGB2BGR))[1].tobytes())

    def visit(self, request: Request) -> Response:
        """The crop of a visit."""
        with self.home.visits() as journal:
            crop = journal.crop(_number(request))
        if crop is None:
            raise HTTPException(404)
        return _picture(crop)

    async def stream(self, request: Request) -> Response:
        session, program = request.state.session, request.state.program
        try:
            parts = self.hub.watch(lambda: program or self.rules.open or self.rules.sessions.is_open(session))
        except live.Full:
            raise HTTPException(503, "too many are watching: close one of the others") from None
        return StreamingResponse(parts, media_type=live.CONTENT_TYPE)

    def static(self, request: Request) -> Response:
        content, kind = self._static.files.get(request.path_params["name"], (None, ""))
        if content is None:
            raise HTTPException(404)
        return Response(content, media_type=kind, headers={"Cache-Control": "public, max-age=31536000, immutable"})

    # -- what is done -------------------------------------------------------------------------------------------------------

    async def do(self, request: Request) -> Response:
        """A verb from a form: done, and back to a page that tells about it."""
        verb = VERBS.get(request.path_params["verb"])
        if verb is None:
            raise HTTPException(404)
        async with request.form(max_files=uploads.FILES, max_fields=600, max_part_size=guard.BODY) as form:
            self._check(request, str(form.get("csrf", "")))
            back = local(str(form.get("back", "/")))
            given = {name: form.getlist(name) if kind == "numbers" else form.get(name) for name, kind in verb.fields.items()}
            files = [(one.filename or "", await one.read()) for one in form.getlist("photos") if not isinstance(one, str) and one.size]
        try:
            done = await self._done(verb, given, files)
        except OmokageError as error:
            self._remember(request, error)
            return RedirectResponse(back, 303)
        self._remember(request, done)
        return RedirectResponse(_place(done.page) if done.page else back, 303)

    async def act(self, request: Request) -> Response:
        """A verb from a program: JSON in, JSON out."""
        verb = VERBS.get(request.path_params["verb"])
        if verb is None or verb.files:
            raise HTTPException(404)
        self._check(request, request.headers.get("x-csrf-token", ""))
        try:
            given = json.loads(await request.body() or b"{}")
        except (ValueError, RecursionError) as error:
            raise InputError("that is no JSON", "send an object with the fields of the verb") from error
        if not isinstance(given, dict):
            raise InputError("that is no JSON object", "send one with the fields of the verb")
        return JSONResponse(asdict(await self._done(verb, given, [])))

    def told(self, request: Request) -> Response:
        """People, visits, unknowns, changes: as JSON, for programs."""
        what = request.path_params["what"]
        if what == "people":
            return JSONResponse([asdict(one.person) | {"coverage": round(one.covered.share, 2)} for one in self.home.people()])
        if what == "visits":
            return JSONResponse([asdict(one) for one in self.home.day(_day(request.query_params.get("day")))])
        if what == "unknowns":
            return JSONResponse([[asdict(one) for one in group.unknowns] for group in self.home.groups()])
        if what == "review":
            return JSONResponse([asdict(one) for one in self.home.questions()])
        if what == "doctor":
            return JSONResponse([asdict(one) for one in self.home.memo.get("doctor", self._minute(), self._doctor)])
        if what == "openapi.json":
            return JSONResponse(openapi.description())
        raise HTTPException(404)

    def health(self, request: Request) -> Response:
        """For monitors. Whoever is not logged in hears whether all is well, and nothing else."""
        told = self.home.health()
        well = told is not None and bool(told.get("ok", True))
        facts: dict[str, Any] = {"ok": well}
        if request.state.inside:
            facts["recogniser"] = told if told is not None else self._recogniser() or "none is running"
        return JSONResponse(facts, 200 if well else 503)

    def metrics(self, request: Request) -> Response:
        told = self.home.ask("metrics")
        if not told:
            raise HTTPException(503, "no recogniser is running that tells about itself")
        return Response(told, media_type="text/plain; version=0.0.4; charset=utf-8")

    # -- coming in ----------------------------------------------------------------------------------------------------------

    def entrance(self, request: Request) -> Response:
        if request.state.inside:
            return RedirectResponse(local(request.query_params.get("next", "/")), 303)
        return self._page(request, "login.html", next=local(request.query_params.get("next", "/")), chosen=self._chosen())

    async def login(self, request: Request) -> Response:
        async with request.form(max_files=0, max_fields=8) as form:
            self._check(request, str(form.get("csrf", "")))
            word, repeated, after = str(form.get("password", "")), form.get("repeated"), local(str(form.get("next", "/")))
        address = request.client.host if request.client else ""
        wait = self.throttle.wait(address)
        if wait > 0:
            error = InputError(f"too many wrong passwords: wait {wait:.0f} seconds", "then try again")
            return self._refused(request, error, after, 429, {"Retry-After": str(int(wait) + 1)})
        password = self.rules.password
        self.throttle.failed(address)  # until it is known to be right: of many who come at once, each counts
        try:
            if password is None:
                raise InputError("there is no password", "send the token")
            if not password.chosen:
                if word != repeated:
                    raise InputError("the two are not the same", "write the password twice")
                await run_in_threadpool(password.choose, word)
            elif not await run_in_threadpool(password.fits, word):
                logging.getLogger("omokage").warning("a wrong password was tried from %s", address)
                raise InputError("that is not the password", "try again")
        except OmokageError as error:
            return self._refused(request, error, after, 403)
        self.throttle.succeeded(address)
        self.rules.sessions.close(request.state.session)
        response = RedirectResponse(after, 303)
        response.headers.append("Set-Cookie", cookie_line(request.scope, self.rules.sessions.open()))
        return response

    async def logout(self, request: Request) -> Response:
        async with request.form(max_files=0, max_fields=4) as form:
            self._check(request, str(form.get("csrf", "")))
        self.rules.sessions.close(request.state.session)
        return RedirectResponse("/login", 303)

    # -- how ----------------------------------------------------------------------------------------------------------------

    def failed(self, request: Request, error: Exception) -> Response:
        """A clear page, or JSON, for what went wrong."""
        if isinstance(error, HTTPException):
            status, wrong = error.status_code, error.detail if error.status_code != 404 else "there is nothing at this address"
            mend = "go back to the first page" if status == 404 else ""
        elif isinstance(error, FormParserError):
            status, wrong, mend = 400, "that is no form", "load the page again"
        elif isinstance(error, OmokageError):
            status, wrong, mend = STATUS.get(type(error), 503), error.wrong, error.mend
        else:
            status, wrong, mend = 500, "a fault of Omokage itself", "the log tells more: report it"
            logging.getLogger("omokage").error("%s %s failed", request.method, request.url.path, exc_info=error)
        if request.url.path.startswith(guard.PROGRAMS):
            return JSONResponse({"error": wrong, "mend": mend}, status)
        if not getattr(request.state, "inside", False):
            return PlainTextResponse(f"{wrong}\n", status)
        return self._page(request, "error.html", status, wrong=wrong, mend=mend)

    def _page(self, request: Request, template: str, status: int = 200, **facts: Any) -> HTMLResponse:
        session = request.state.session
        shared = {"path": request.url.path, "here": request.url.path + (f"?{request.url.query}" if request.url.query else "")}
        message = None if template == "timeline.html" else self._messages.pop(session, None)
        csrf = self.rules.sessions.csrf(session)
        return HTMLResponse(self._templates.get_template(template).render(**shared, csrf=csrf, message=message, **facts), status)

    def _refused(self, request: Request, error: OmokageError, after: str, status: int, headers: dict[str, str] | None = None) -> Response:
        self._remember(request, error)
        response = self._page(request, "login.html", status, next=after, chosen=self._chosen())
        response.headers.update(headers or {})
        return response

    def _chosen(self) -> bool:
        return self.rules.password is None or self.rules.password.chosen

    def _check(self, request: Request, token: str) -> None:
        if not allowed(request, self.rules, token):
            raise HTTPException(403, "this form is too old or not from this page: load the page again")

    async def _done(self, verb: Verb, given: Mapping[str, Any], files: list[tuple[str, bytes]]) -> Done:
        fields = parsed(verb, given) | ({"files": files} if verb.files else {})
        return await run_in_threadpool(verb.does, self.home, **fields)

    def _remember(self, request: Request, message: Done | OmokageError) -> None:
        """Tell it on the next page."""
        kind = "done" if isinstance(message, Done) else "error"
        self._messages[request.state.session] = kind, message
        while len(self._messages) > TOLD:
            self._messages.popitem(last=False)

    def _timeline(self, shown: datetime) -> dict[str, Any]:
        begun = datetime.now().astimezone().replace(hour=0, minute=0, second=0, microsecond=0)
        return {
            "stays": self.home.stays(shown),
            "watching": self.home.health() is not None,
            "day": shown.date(),
            "is_today": shown.date() == begun.date(),
            "before": shown.date() - timedelta(days=1),
            "after": shown.date() + timedelta(days=1),
            "kept": self.home.has_journal(),
        }

    @staticmethod
    def _minute() -> int:
        """For so long the doctor's table is kept."""
        return int(time.monotonic() // EXAMINED)


def make(pages: Pages) -> Starlette:
    """The ASGI application."""

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        to_thread.current_default_thread_limiter().total_tokens = THREADS
        sweeping = asyncio.create_task(_sweep(pages.home))
        yield
        sweeping.cancel()

    routes = [
        Route("/", pages.today),
        Route("/timeline", pages.timeline),
        Route("/live", pages.watch),
        Route("/live.mjpg", pages.stream),
        Route("/people", pages.people),
        Route("/person", pages.person),
        Route("/new", pages.new),
        Route("/unknowns", pages.unknowns),
        Route("/review", pages.review),
        Route("/settings", pages.settings),
        Route("/doctor", pages.doctor),
        Route("/changes", pages.changes),
        Route("/face/{number:int}.jpg", pages.face),
        Route("/visit/{number:int}.jpg", pages.visit),
        Route("/static/{name}", pages.static),
        Route("/do/{verb}", pages.do, methods=["POST"]),
        Route("/api/do/{verb}", pages.act, methods=["POST"]),
        Route("/api/{what}", pages.told),
        Route("/healthz", pages.health),
        Route("/metrics", pages.metrics),
        Route("/login", pages.entrance),
        Route("/login", pages.login, methods=["POST"]),
        Route("/logout", pages.logout, methods=["POST"]),
    ]
    handlers: dict[Any, Any] = dict.fromkeys((OmokageError, HTTPException, FormParserError, Exception), pages.failed)
    return Starlette(routes=routes, middleware=[Middleware(Guard, pages.rules)], exception_handlers=handlers, lifespan=lifespan)


async def _sweep(home: Home) -> None:
    while True:
        await asyncio.sleep(SWEEP)
        await run_in_threadpool(home.sweep)


def _place(page: str) -> str:
    """The address of a page that a verb names: "people", or "person NAME"."""
    kind, _, name = page.partition(" ")
    return f"/{kind}?name={quote(name, safe='')}" if name else f"/{kind}"


def _picture(jpeg: bytes) -> Response:
    return Response(jpeg, media_type="image/jpeg")


def _number(request: Request) -> int:
    """The number in an address, if a database can have it."""
    number = request.path_params["number"]
    if number >= 2**63:
        raise HTTPException(404)
    return number


def _day(word: str | None) -> datetime:
    """The beginning of a day, here. Raises InputError."""
    try:
        chosen = date.fromisoformat(word) if word else datetime.now().date()
        chosen + timedelta(days=1), chosen - timedelta(days=1)  # there are days around it
        return datetime(chosen.year, chosen.month, chosen.day).astimezone()
    except (ValueError, OverflowError, OSError) as error:
        raise InputError("that is no day", "choose one like 2026-01-31") from error
