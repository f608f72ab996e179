"""The page, asked as a browser asks it, and as one would who means harm."""

import argparse
import html
import logging
import os
import re
import struct
import zlib
from datetime import datetime, timezone
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("starlette")
from starlette.testclient import TestClient

from device import bundle, enroll
from device.doctor import Check
from device.gallery import Gallery, Template, valid_name
from device.journal import Journal, default_folder
from device.program import InputError, StoredError
from device.visitors import Trace, stamp
from device.web import app, guard, verbs
from device.web.auth import Password
from device.web.guard import Rules
from device.web.home import RATES, Checkup, Home, Memo

SELF = "http://localhost"
TOKEN = "a-token-of-enough-characters-to-be-taken"
EVIL = "<script>alert(1)</script>"
NASTY = [
    EVIL,
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "{{7*7}}",
    "../../etc/passwd",
    "a/b?c=d&e#f",
    "javascript:alert(1)",
    "名前 Ωø",
]
CROP = np.full((112, 112, 3), 120, np.uint8)


def row(seed: int) -> np.ndarray:
    vector = np.random.default_rng(seed).normal(size=128).astype(np.float32)
    return vector / np.linalg.norm(vector)


FOUND = {"_costs": [], "_checked": Checkup([], {}, {}, {})}


@pytest.fixture(autouse=True)
def _quick(request, monkeypatch):
    """What takes a process of its own is done in this one, and what takes seconds is not done, but where a test is about that."""

    def call(function, *args):
        return FOUND[function.__name__] if function.__name__ in FOUND and "whole" not in request.fixturenames else function(*args)

    if "aside" not in request.fixturenames:
        monkeypatch.setattr("device.web.aside.call", call)


@pytest.fixture
def aside():
    """For tests of the process of its own."""
    return pytest.importorskip("device.web.aside")


@pytest.fixture
def whole():
    """For tests of what takes seconds."""


@pytest.fixture
def home(tmp_path: Path, bundle_path: Path) -> Home:
    """Ada and Bo are known, two strangers are remembered, and four visits are in the journal."""
    used, path = bundle.load(bundle_path), tmp_path / "home" / "gallery.db"

    def template(seed: int) -> Template:
        return Template(row(seed), used.encoder, used.preprocessing, "yunet", 0.9, f"/home/me/{seed}.jpg", crop=CROP)

    with Gallery(path, create=True) as gallery:
        gallery.add("Ada", [template(1), template(2)])
        gallery.add("Bo", [template(3)])
        for seed in (4, 5):
            gallery.visit(None, Trace(row(seed), used.encoder, used.preprocessing, "yunet", 0.8), datetime.now(timezone.utc), 7)
    now = stamp(datetime.now(timezone.utc))
    facts = {"event": "gone", "score": 0.4, "quality": 0.9, "source": "door", "time": now, "first": now, "last": now}
    ada = {"name": "Ada", "decision": "known", "runner_up": None}
    maybe = {"name": None, "decision": "review", "runner_up": {"name": "Bo", "score": 0.4}}
    stranger = {"name": None, "decision": "unknown", "runner_up": None, "unknown": {"number": 1, "visits": 1}}
    with Journal(default_folder(path), create=True) as journal:
        journal.made_by(used.encoder, "yunet")
        for track, who in enumerate((ada, maybe, stranger, maybe), 1):
            journal.write("run", facts | who | {"track": track}, row(10 + track), CROP)
    options = argparse.Namespace(detector="mtcnn", detector_model=None, detector_size=None, min_face=None, skip_still=False)
    return Home(path, default_folder(path), used, options, keep_crops=True)


@pytest.fixture
def visit(home: Home, tmp_path: Path):
    """visit(password=..., token=...) -> a browser at the page."""
    opened = []

    def make(password: str | None = None, token: str | None = None, **more) -> TestClient:
        file = tmp_path / "password"
        if password:
            file.write_text(password)
            file.chmod(0o600)
        rules = Rules({"localhost"}, Password(file) if password is not None else None, token)
        pages = app.Pages(home, rules, lambda: [Check("python", "ok", "3.11"), Check("space", "fail", "full", "delete")], **more)
        client = TestClient(app.make(pages), base_url=SELF, raise_server_exceptions=False, follow_redirects=False)
        client.pages = pages
        opened.append(client)
        return client

    yield make


@pytest.fixture
def page(visit) -> TestClient:
    """Where no password is asked for: on this machine alone."""
    return visit()


def csrf(client: TestClient, address: str = "/") -> str:
    return re.search(r'name="csrf" value="([0-9a-f]{64})"', client.get(address).text)[1]


def do(client: TestClient, verb: str, back: str = "/people", **fields):
    """A form as the page sends it, and the page that tells what came of it."""
    answer = client.post(f"/do/{verb}", data={"csrf": csrf(client, "/new"), "back": back, **fields})
    assert answer.status_code == 303, answer.text
    return client.get(answer.headers["location"])


def message(answer) -> str:
    """What the page tells on top."""
    found = re.search(r'<div class="message.*?(?=</div>\n)', answer.text, re.DOTALL)
    return html.unescape(re.sub(r"<[^>]*>", " ", found[0])) if found else ""


def names(home: Home) -> list[str]:
    with home.opened() as gallery:
        return [person.name for person in gallery.people()]


# -- what is shown ----------------------------------------------------------------------------------------------------------

PAGES = (
    "/",
    "/live",
    "/people",
    "/person?name=Ada",
    "/new",
    "/new?name=Ada",
    "/unknowns",
    "/review",
    "/settings",
    "/doctor",
    "/changes",
    "/timeline",
)


@pytest.mark.parametrize("address", PAGES)
def test_every_page_is_there_and_small(page: TestClient, address: str):
    answer = page.get(address)
    assert answer.status_code == 200, answer.text
    whole = len(answer.content) + sum(len(page.get(f"/static/{name}").content) for name in ("page.css", "page.js", "icon.svg"))
    assert whole < 150_000
    assert "<script>" not in answer.text and " style=" not in answer.text and not re.search(r"\son\w+=", answer.text)


def test_the_pages_tell_what_there_is(page: TestClient):
    today = page.get("/").text
    assert "2 strangers wait" in today and "2 visits want" in today and ">Ada</a>" in today and "unknown-1" in today
    assert "Is this Bo?" in page.get("/review").text
    person = page.get("/person?name=Ada").text
    assert "quality 0.90" in person and "/face/1.jpg" in person and "/home/me" not in person
    assert "1 in 1000" in page.get("/settings").text
    assert "The doctor is looking" in page.get("/doctor").text
    page.pages.home.memo._looking["doctor"].join(5)
    assert "Delete." in page.get("/doctor").text
    assert ">add<" in page.get("/changes").text


def test_weak_templates_are_told_when_they_are_found_out(whole, page: TestClient, home: Home):
    page.get("/people")
    home.memo._looking["checkup"].join(30)
    assert "1 weak" in page.get("/people").text
    assert "it is the only one" in page.get("/person?name=Bo").text


def test_a_page_of_nobody_and_nothing(visit, home: Home):
    for file in [*home.gallery.parent.glob("gallery.db*"), *home.journal.iterdir()]:
        file.unlink()
    page = visit()
    for address in PAGES:
        answer = page.get(address)
        assert answer.status_code == (400 if "person?" in address else 200), (address, answer.text)
    assert "No journal is kept" in page.get("/").text and "Nobody is enrolled" in page.get("/people").text
    assert not home.gallery.exists()  # looking at a page makes none


def test_visits_one_soon_after_the_other_are_told_as_one(home: Home, page: TestClient):
    with home.visits() as journal:
        for track in (7, 8):
            now = stamp(datetime.now(timezone.utc))
            event = {"event": "gone", "track": track, "time": now, "first": now, "last": now, "decision": "known", "name": "Ada"}
            journal.write("run", event | {"runner_up": None, "score": 0.5, "quality": 0.5, "source": "x"}, None, None)
    timeline = page.get("/timeline").text
    assert timeline.count(">Ada</a>") == 1 and "3 times" in timeline


def test_the_timeline_is_sent_again_only_if_it_changed(page: TestClient, home: Home):
    first = page.get("/timeline")
    assert page.get("/timeline", headers={"If-None-Match": first.headers["etag"]}).status_code == 304
    with home.visits() as journal:
        journal.answer(1, "yes", 3)
    assert page.get("/timeline", headers={"If-None-Match": first.headers["etag"]}).status_code == 200


def test_the_settings_tell_what_a_rate_costs(whole, page: TestClient, home: Home):
    assert "being worked out" in page.get("/settings").text
    home.memo._looking["rates"].join(30)
    rates = home.rates()
    assert rates is not None and tuple(rate.far for rate in rates) == RATES
    thresholds = [rate.threshold for rate in rates]
    assert thresholds == sorted(thresholds) and all(rate.named is None or 0 <= rate.named <= 1 for rate in rates)
    told = page.get("/settings").text
    assert f"{rates[1].threshold:.3f}" in told and 'value="0.001" checked' in told


@pytest.mark.parametrize("day", ["2026-13-01", "yesterday", "9999-12-31", "0001-01-01", "2026-01-31"])
def test_days(page: TestClient, day: str):
    answer = page.get("/", params={"day": day})
    assert answer.status_code in (200, 400)
    assert answer.status_code == 200 or "that is no day" in answer.text.lower()


def test_crops_are_pictures_and_nothing_else(page: TestClient, home: Home):
    for address in ("/face/1.jpg", "/visit/1.jpg"):
        answer = page.get(address)
        assert answer.headers["content-type"] == "image/jpeg" and answer.content[:3] == b"\xff\xd8\xff"
        assert answer.headers["x-content-type-options"] == "nosniff" and answer.headers["cache-control"] == "no-store"
    for address in ("/face/99.jpg", "/visit/99.jpg", "/face/-1.jpg", "/face/1e9.jpg", "/face/99999999999999999999.jpg"):
        assert page.get(address).status_code == 404, address


# -- what is done -----------------------------------------------------------------------------------------------------------


def test_a_verb_is_in_the_audit_log_and_can_be_undone_on_both_sides(page: TestClient, home: Home, capsys):
    answer = do(page, "rename", name="Ada", new="Ada Lovelace")
    assert "Ada is called Ada Lovelace now" in message(answer) and names(home) == ["Ada Lovelace", "Bo"]
    with home.visits() as journal:
        assert journal.visit(1).name == "Ada Lovelace"
    change = re.search(r'name="change" value="(\d+)"', answer.text)[1]
    assert "Undone: rename" in message(do(page, "undo", change=change)) and names(home) == ["Ada", "Bo"]
    do(page, "merge", name="Bo", into="Ada")
    assert enroll.main(["undo", "--gallery", str(home.gallery)]) == 0
    assert names(home) == ["Ada", "Bo"]
    assert enroll.main(["rename", "Ada", "Eva", "--gallery", str(home.gallery)]) == 0
    assert "Undone: rename" in message(do(page, "undo"))
    with home.opened() as gallery:
        assert [change.verb for change in gallery.audit()][2:] == ["rename", "undo", "merge", "undo", "rename", "undo"]


def test_an_undo_that_somebody_else_came_before(page: TestClient, home: Home):
    answer = do(page, "rename", name="Ada", new="Eva")
    change = re.search(r'name="change" value="(\d+)"', answer.text)[1]
    with home.opened() as gallery:
        gallery.rename("Bo", "Bob")
    assert "something else was changed" in message(do(page, "undo", change=change))
    assert names(home) == ["Bob", "Eva"]


def test_remove_and_undo(page: TestClient, home: Home):
    answer = do(page, "remove", name="Ada")
    assert "Removed Ada: 2 templates" in message(answer) and "ten minutes" in message(answer)
    assert names(home) == ["Bo"]
    home.sweep()
    with home.visits() as journal:
        assert journal.visit(1).name == "Ada"
    do(page, "undo")
    assert names(home) == ["Ada", "Bo"]


def test_a_removal_that_is_finished_takes_the_visits_along(page: TestClient, home: Home):
    with home.opened() as gallery:
        gallery.withdraw("Ada", minutes=0)
    home.sweep()
    assert b"Ada" not in b"".join(path.read_bytes() for path in home.journal.iterdir() if path.is_file())


def test_unknowns(page: TestClient, home: Home):
    assert "Unknown-1 is Cy: 1 template" in message(do(page, "name", unknowns=["1"], name="Cy"))
    assert "Unknown-2 is Bo: 2 templates" in message(do(page, "name", unknowns=["2"], name="Bo"))
    do(page, "undo"), do(page, "undo")
    assert "never told of again" in message(do(page, "never", unknowns=["1", "2"]))
    do(page, "undo")
    assert "Forgot 1 unknown" in message(do(page, "ignore", unknowns=["1"]))
    assert [[one.number for one in group.unknowns] for group in home.groups()] == [[2]]


def test_those_who_look_alike_are_together(home: Home):
    with home.opened() as gallery:
        near = row(4) + 0.05 * row(6)
        trace = Trace(near / np.linalg.norm(near), home.used.encoder, 1, "yunet", 0.8)
        gallery.visit(None, trace, datetime.now(timezone.utc), 7)
    assert sorted(sorted(one.number for one in group.unknowns) for group in home.groups()) == [[1, 3], [2]]


def test_the_review_band(page: TestClient, home: Home):
    second, fourth = sorted(visit.number for visit in home.questions())
    assert "That was Bo: 2 templates" in message(do(page, "yes", visit=second))
    assert "Noted: that was not Bo" in message(do(page, "no", visit=fourth))
    assert home.questions() == []
    with home.opened() as gallery:
        assert [entry.template.denies for entry in gallery.entries("Bo")] == [False, False, True]
    do(page, "undo")
    assert [visit.number for visit in home.questions()] == [fourth]


def test_a_mistake_is_corrected(page: TestClient, home: Home):
    assert "Noted: that was not Ada" in message(do(page, "no", visit=1))
    assert "That was Dora: 1 template" in message(do(page, "learn", visit=1, name="Dora"))
    assert names(home) == ["Ada", "Bo", "Dora"]


def test_the_rate(page: TestClient, home: Home):
    assert "Of 100 strangers one may get a name" in message(do(page, "far", share="0.01"))
    assert home.far() == 0.01
    for share in ("0", "1", "-1", "nan", "inf", "x", "1e400"):
        assert "no share" in message(do(page, "far", share=share)), share


def test_a_person_is_added_from_pictures_with_the_same_advice_as_enroll(page: TestClient, home: Home, astronaut: Path):
    files = [("photos", (name, content, "image/png")) for name, content in (("../eileen.png", astronaut.read_bytes()), ("no.png", b"no"))]
    answer = page.post("/do/add", data={"csrf": csrf(page, "/new"), "name": "Eileen"}, files=files)
    told = message(page.get(answer.headers["location"]))
    assert "Added Eileen: 1 template" in told and "left out: no.png is neither JPEG nor PNG" in told
    assert "only 1 template: add pictures with other light" in told and "what would help" in told
    with home.opened() as gallery:
        (entry,) = gallery.entries("Eileen")
        assert entry.template.source == "eileen.png" and entry.kept


def test_a_person_is_added_in_a_process_of_its_own(aside, page: TestClient, home: Home, astronaut: Path):
    answer = page.post("/do/add", data={"csrf": csrf(page, "/new"), "name": "Eileen"}, files={"photos": astronaut.read_bytes()})
    assert answer.headers["location"] == "/person?name=Eileen" and "Eileen" in names(home)


@pytest.mark.parametrize(
    "fields", [{}, {"name": ""}, {"name": "a\nb"}, {"name": "x" * 501}, {"name": "Nobody", "new": "x"}, {"name": "Ada", "new": "Bo"}]
)
def test_a_verb_that_cannot_be_done_says_why_and_does_nothing(page: TestClient, home: Home, fields: dict):
    assert 'role="alert"' in do(page, "rename", **fields).text
    assert names(home) == ["Ada", "Bo"]


# -- who may come in --------------------------------------------------------------------------------------------------------


def test_without_the_password_nothing_is_shown(visit):
    page = visit(password="correct horse")
    for address in (*PAGES, "/face/1.jpg", "/visit/1.jpg", "/live.mjpg", "/nothing", "/do/undo"):
        answer = page.get(address)
        assert answer.status_code == 303 and answer.headers["location"].startswith("/login"), address
        assert "Ada" not in answer.text
    for address in ("/api/people", "/api/openapi.json", "/metrics"):
        assert page.get(address).status_code == 401
    assert page.post("/do/remove", data={"name": "Ada"}).status_code == 401
    assert page.get("/healthz").json() == {"ok": False}
    assert page.get("/static/page.css").status_code == 200


def login(page: TestClient, word: str, **more):
    return page.post("/login", data={"csrf": csrf(page, "/login"), "password": word, **more})


def test_with_the_password_everything_is(visit, home: Home):
    page = visit(password="correct horse")
    before = page.get("/login").cookies.get("omokage")
    answer = login(page, "correct horse", next="/people")
    assert (answer.status_code, answer.headers["location"]) == (303, "/people")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie and before not in cookie  # a session from before is worth nothing
    assert ">Ada<" in page.get("/people").text
    assert page.get("/login").headers["location"] == "/"
    page.post("/logout", data={"csrf": csrf(page, "/people")})
    assert page.get("/people").status_code == 303


def test_the_first_visit_chooses_the_password(visit):
    page = visit(password="")
    assert "Choose a password" in page.get("/login").text
    assert "not the same" in login(page, "long enough", repeated="long enouhg").text
    assert "has 5 characters" in login(page, "short", repeated="short").text
    assert login(page, "long enough", repeated="long enough").status_code == 303
    assert page.get("/people").status_code == 200
    assert "Welcome back" in TestClient(page.app, base_url=SELF).get("/login").text


def test_guessing_is_slowed_down_and_told_in_the_log_without_the_guess(visit, caplog):
    page = visit(password="correct horse")
    with caplog.at_level(logging.INFO):
        answers = [login(page, f"guess number {number}") for number in range(8)]
    assert [answer.status_code for answer in answers] == [403] * 5 + [429] * 3
    assert int(answers[-1].headers["retry-after"]) >= 1 and "wait" in answers[-1].text
    assert login(page, "correct horse").status_code == 429  # the right one has to wait too
    assert caplog.text.count("wrong password") == 5 and "guess number" not in caplog.text


@pytest.mark.parametrize("token", ["", "wrong", TOKEN + "x", TOKEN[:-1], "\xff"])
def test_a_wrong_token(visit, token: str):
    page = visit(password="correct horse", token=TOKEN)
    answer = page.get("/api/people", headers={"Authorization": f"Bearer {token}".encode("latin-1")})
    assert answer.status_code == 401 and "Ada" not in answer.text


def test_programs_come_with_the_token(visit, home: Home):
    page = visit(token=TOKEN)
    page.headers["Authorization"] = f"Bearer {TOKEN}"
    assert [one["name"] for one in page.get("/api/people").json()] == ["Ada", "Bo"]
    assert len(page.get("/api/visits").json()) == 4 and len(page.get("/api/review").json()) == 2
    assert [[one["number"] for one in group] for group in page.get("/api/unknowns").json()] == [[2], [1]]
    answer = page.post("/api/do/rename", json={"name": "Ada", "new": "Eva"})
    assert answer.json()["text"] == "Ada is called Eva now" and names(home) == ["Bo", "Eva"]
    assert page.post("/api/do/undo", content=b"").status_code == 200
    assert page.get("/healthz").json() == {"ok": False, "recogniser": "none is running"}
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    "body", [b"", b"no", b"[]", b"1", b'{"name": 1, "new": "x"}', b'{"name": ["x"]}', b"[" * 100_000, b'{"name": "Ada", "new": "\\ud800"}']
)
def test_programs_that_send_nonsense(visit, body: bytes):
    page = visit(token=TOKEN)
    answer = page.post("/api/do/rename", content=body, headers={"Authorization": f"Bearer {TOKEN}"})
    assert answer.status_code == 400 and set(answer.json()) == {"error", "mend"}


# -- and who means harm -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("token", [None, "", "0" * 64, "ä"])
def test_a_form_without_the_sessions_own_token_changes_nothing(page: TestClient, home: Home, token: str | None):
    csrf(page)
    for verb, fields in (("remove", {"name": "Ada"}), ("undo", {}), ("far", {"share": "0.5"})):
        answer = page.post(f"/do/{verb}", data=fields | ({} if token is None else {"csrf": token}))
        assert answer.status_code == 403
        assert page.post(f"/api/do/{verb}", json=fields, headers={} if not token else {"X-CSRF-Token": token.encode()}).status_code == 403
    assert names(home) == ["Ada", "Bo"] and home.far() == bundle.FAR


def test_the_token_of_another_session_changes_nothing(visit, home: Home):
    page = visit()
    stranger = TestClient(page.app, base_url=SELF)
    answer = page.post("/do/remove", data={"csrf": csrf(stranger), "name": "Ada"})
    assert answer.status_code == 403 and names(home) == ["Ada", "Bo"]


@pytest.mark.parametrize(
    "headers", [{"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}, {"Origin": "http://localhost:1"}]
)
def test_another_site_changes_nothing_even_with_the_token(page: TestClient, home: Home, headers: dict):
    answer = page.post("/do/remove", data={"csrf": csrf(page), "name": "Ada"}, headers=headers)
    assert answer.status_code == 403 and names(home) == ["Ada", "Bo"]


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "", "127.0.0.1.evil.example", "localhost:8080@evil.example"])
def test_a_name_that_is_not_this_pages_is_refused(page: TestClient, host: str):
    answer = page.get("/people", headers={"Host": host})
    assert answer.status_code == 421 and "Ada" not in answer.text


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8080", "127.0.0.1:8080", "[::1]:8080", "192.168.1.7"])
def test_its_own_names(page: TestClient, host: str):
    assert page.get("/people", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "address",
    [
        "/static/../app.py",
        "/static/..%2fapp.py",
        "/static/%2e%2e%2f%2e%2e%2fetc/passwd",
        "//etc/passwd",
        "/static/page.css%00",
        "/face/..%2f1.jpg",
        "/face/1.jpg/../../../etc/passwd",
        "/static/",
    ],
)
def test_no_address_leads_into_the_file_system(page: TestClient, address: str):
    answer = page.get(address)
    assert answer.status_code in (303, 404) and "root:" not in answer.text and "import" not in answer.text


@pytest.mark.parametrize("name", NASTY)
def test_a_name_is_text_wherever_it_is_shown(page: TestClient, home: Home, name: str):
    do(page, "rename", name="Bo", new=name)
    do(page, "far", share="0.01")
    for address in (*PAGES[:4], "/new", "/unknowns", "/review", "/changes", "/timeline"):
        answer = page.get(address)
        assert answer.status_code == 200
        for part in ("<script>alert", "<img src=x", "onmouseover='", ">49<"):
            assert part not in answer.text, (address, part)
    shown = page.get("/people").text
    assert html.escape(name, quote=False) in shown.replace("&#34;", '"').replace("&#39;", "'") and name in html.unescape(shown)
    link = re.search(r'href="(/person\?name=(?!Ada)[^"]*)"', shown)
    assert link and page.get(html.unescape(link[1])).status_code == 200


@pytest.mark.parametrize("name", ["a\r\nSet-Cookie: x=y", "a\nb", "a\x00b", "\x1b[2J"])
def test_no_name_becomes_a_header(page: TestClient, home: Home, name: str):
    answer = page.post("/do/rename", data={"csrf": csrf(page), "name": "Ada", "new": name, "back": f"/{name}"})
    assert answer.status_code == 303 and answer.headers["location"] == "/" and "set-cookie" not in answer.headers
    assert names(home) == ["Ada", "Bo"]


@pytest.mark.parametrize(
    "back", ["//evil.example", "https://evil.example", "/\\evil.example", "\\\\evil", "javascript:alert(1)", "/" + "a" * 3000]
)
def test_nobody_is_led_elsewhere(visit, back: str):
    page = visit(password="correct horse")
    assert login(page, "correct horse", next=back).headers["location"] == "/"
    answer = page.post("/do/undo", data={"csrf": csrf(page), "back": back})
    assert answer.headers["location"] == "/"


def png(width: int, height: int) -> bytes:
    """A picture that announces so many pixels, all black, in few bytes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = zlib.compressobj()
    packed = b"".join(rows.compress(bytes(1 + width // 8)) for _ in range(height)) + rows.flush()
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
        + chunk(b"IDAT", packed)
        + chunk(b"IEND", b"")
    )


def upload(page: TestClient, content: bytes, name: str = "x.png"):
    answer = page.post("/do/add", data={"csrf": csrf(page, "/new"), "name": "Eve", "back": "/new"}, files={"photos": (name, content)})
    return page.get(answer.headers["location"]) if answer.status_code == 303 else answer


def test_a_picture_of_200_megapixels_is_refused_before_it_is_decoded(page: TestClient, home: Home, monkeypatch):
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    bomb = png(20_000, 10_000)
    assert len(bomb) < 200_000
    assert "200 million pixels, too many" in message(upload(page, bomb)) and "Eve" not in names(home)


def polyglots(photo: bytes) -> dict[str, bytes]:
    return {
        "page.html": b"<html><script>alert(1)</script></html>",
        "picture.svg": b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>',
        "gif.png": b"GIF89a/*" + photo,
        "tiff.jpg": b"II*\0" + photo,
        "cut.jpg": photo[:2000],
        "header.png": b"\x89PNG\r\n\x1a\n" + b"<script>alert(1)</script>" * 9,
        "empty.jpg": b"\xff\xd8\xff",
        "zeros.png": b"\x89PNG\r\n\x1a\n" + bytes(64),
    }


def test_what_is_no_picture_is_refused(page: TestClient, home: Home, grace_hopper: Path):
    for name, content in polyglots(grace_hopper.read_bytes()).items():
        answer = upload(page, content, name)
        assert answer.status_code == 200 and 'role="alert"' in answer.text, name
    assert "Eve" not in names(home)


def test_of_a_polyglot_nothing_but_the_pixels_of_a_face_is_kept(page: TestClient, home: Home, grace_hopper: Path):
    upload(page, grace_hopper.read_bytes() + b"<script>alert(document.cookie)</script>PK\x03\x04", "x.php.jpg")
    with home.opened() as gallery:
        (entry,) = gallery.entries("Eve")
    assert b"document.cookie" not in page.get(f"/face/{entry.number}.jpg").content
    assert b"document.cookie" not in b"".join(path.read_bytes() for path in home.gallery.parent.glob("gallery.db*"))


def test_too_much_at_once(page: TestClient, home: Home, monkeypatch):
    monkeypatch.setattr(guard, "UPLOAD", 100_000)
    assert upload(page, bytes(200_000)).status_code == 413

    def endless():  # without a length
        yield f'--b\r\nContent-Disposition: form-data; name="csrf"\r\n\r\n{csrf(page)}\r\n'.encode()
        yield b'--b\r\nContent-Disposition: form-data; name="photos"; filename="x"\r\n\r\n'
        for _ in range(50):
            yield bytes(10_000)

    answer = page.post("/do/add", content=endless(), headers={"Content-Type": "multipart/form-data; boundary=b"})
    assert answer.status_code == 413
    assert page.post("/do/rename", content=b"x" * (guard.BODY + 1)).status_code == 413
    many = [("photos", (f"{n}.jpg", b"x")) for n in range(40)]
    assert page.post("/do/add", data={"csrf": csrf(page), "name": "Eve"}, files=many).status_code == 400
    assert names(home) == ["Ada", "Bo"]


def test_before_somebody_has_logged_in_little_is_read(visit):
    page = visit(password="correct horse")
    assert page.post("/login", content=b"x" * (guard.SMALL + 1)).status_code == 413
    assert page.post("/do/add", content=b"x" * 100_000).status_code == 401


@pytest.mark.parametrize("body", [b"", b"--b", b"\xff\xfe", b'--b\r\nContent-Disposition: form-data; name="csrf', b"--b\r\n\r\n\r\n--b--"])
def test_forms_that_are_none(page: TestClient, body: bytes):
    answer = page.post("/do/undo", content=body, headers={"Content-Type": "multipart/form-data; boundary=b"})
    assert answer.status_code in (400, 403)
    assert page.post("/do/undo", content=body, headers={"Content-Type": "multipart/form-data"}).status_code in (400, 403)


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND"])
def test_other_methods(page: TestClient, method: str):
    assert page.request(method, "/people").status_code == 405
    assert page.request("POST", "/people", headers={"Origin": SELF}).status_code == 405


def test_every_answer_carries_the_headers_that_protect_it(visit):
    page = visit(password="correct horse")
    for address in ("/", "/login", "/static/page.js", "/nothing", "/api/people", "/healthz"):
        headers = page.get(address).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff" and headers["x-frame-options"] == "DENY"


def test_cookies_over_https_are_never_sent_in_the_open(visit):
    page = visit(password="correct horse")
    secure = TestClient(page.app, base_url="https://localhost", follow_redirects=False)
    cookie = login(secure, "correct horse").headers["set-cookie"]
    assert cookie.startswith("__Host-omokage=") and "; Secure" in cookie


def test_secrets_are_in_no_page_log_or_figure(visit, home: Home, caplog, monkeypatch):
    page = visit(password="correct horse", token=TOKEN)
    monkeypatch.setattr(Home, "ask", lambda self, word: b"# figures")
    with caplog.at_level(logging.DEBUG, "omokage"):
        login(page, "correct horse")
        told = "".join(page.get(address).text for address in (*PAGES[:3], "/api/openapi.json", "/metrics", "/healthz"))
    stored = (home.gallery.parent.parent / "password").read_text()
    for secret in (TOKEN, "correct horse", stored):
        assert secret not in told and secret not in caplog.text


# -- when something is amiss ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["/", "/people", "/person?name=Ada", "/unknowns", "/settings", "/changes", "/timeline", "/face/1.jpg"])
def test_a_gallery_that_is_damaged_makes_a_clear_page(visit, home: Home, address: str):
    for file in home.gallery.parent.glob("gallery.db-*"):
        file.unlink()
    home.gallery.write_bytes(b"no database" * 1000)
    answer = visit().get(address)
    assert answer.status_code == 503 and "is not a gallery or is damaged" in answer.text


def test_a_gallery_that_is_locked_makes_a_clear_line_and_nothing_is_lost(page: TestClient, home: Home, monkeypatch):
    monkeypatch.setattr("device.web.home.PATIENCE", 0.05)
    with home.opened() as gallery, gallery._transaction():
        assert page.get("/people").status_code == 200
        assert "in use by another program" in message(do(page, "rename", name="Ada", new="Eva"))
    assert names(home) == ["Ada", "Bo"]


def test_a_gallery_that_was_removed_meanwhile(page: TestClient, home: Home):
    for file in home.gallery.parent.glob("gallery.db*"):
        file.unlink()
    assert "Nobody is enrolled yet" in page.get("/people").text
    assert "is not there" in message(do(page, "rename", name="Ada", new="Eva"))


def test_a_journal_that_is_damaged_makes_a_clear_page(page: TestClient, home: Home):
    for file in home.journal.glob("journal.db-*"):
        file.unlink()
    (home.journal / "journal.db").write_bytes(b"no database" * 1000)
    answer = page.get("/")
    assert answer.status_code == 503 and "delete it: it is begun anew" in answer.text.lower()


def test_two_pages_on_one_gallery(visit, home: Home):
    first, second = visit(), visit()
    do(first, "rename", name="Ada", new="Eva")
    assert ">Eva<" in second.get("/people").text
    assert "not in the gallery" in message(do(second, "rename", name="Ada", new="Ida"))
    do(second, "undo")
    assert ">Ada<" in first.get("/people").text


def test_a_fault_of_our_own_is_a_page_and_a_line_in_the_log(page: TestClient, monkeypatch, caplog):
    def broken(self: Home):
        raise RuntimeError("secret detail")

    monkeypatch.setattr(Home, "groups", broken)
    answer = page.get("/unknowns")
    assert answer.status_code == 500 and "a fault of Omokage itself" in answer.text and "secret detail" not in answer.text
    assert "secret detail" in caplog.text


@pytest.mark.parametrize(("told", "status"), [(b'{"ok": true}', 200), (b'{"ok": false}', 503), (b"", 200), (b"nonsense", 200), (None, 503)])
def test_whether_the_recogniser_is_well(page: TestClient, monkeypatch, told: bytes | None, status: int):
    monkeypatch.setattr(Home, "ask", lambda self, word: told)
    assert page.get("/healthz").status_code == status
    assert page.get("/").status_code == 200


def test_why_there_is_no_recogniser(visit):
    page = visit(recogniser=lambda: "recognize: camera 0 gives no picture: check its plug")
    assert "Recognize: camera 0 gives no picture" in page.get("/").text
    assert page.get("/healthz").status_code == 503
    assert page.get("/metrics").status_code == 503


def test_what_takes_long_is_found_out_once_and_does_not_hold_up_a_page():
    memo, calls = Memo(), []

    def find() -> int:
        calls.append(1)
        return 7

    assert memo.soon("x", 1, find) is None
    memo._looking["x"].join(5)
    assert memo.soon("x", 1, find) == 7 and memo.get("x", 1, find) == 7 and len(calls) == 1
    assert memo.get("x", 2, find) == 7 and len(calls) == 2
    assert memo.soon("y", 1, lambda: 1 // 0, 5) is None
    memo._looking["y"].join(5)
    assert memo.soon("y", 1, find, 5) == 5  # and is not tried again and again


def test_work_in_a_process_of_its_own(aside):
    assert aside.call(max, 3, 4) == 4
    with pytest.raises(InputError, match="the name is empty: write a name"):
        aside.call(valid_name, "")
    with pytest.raises(StoredError, match="broke off"):
        aside.call(os.abort)


def test_the_description_follows_the_verbs(page: TestClient):
    told = page.get("/api/openapi.json").json()
    assert told["openapi"].startswith("3.1")
    described = {path.rpartition("/")[2] for path in told["paths"] if "/do/" in path}
    assert described == {name for name, verb in verbs.VERBS.items() if not verb.files}


def test_fields_are_checked():
    verb = verbs.VERBS["split"]
    whole = {"name": "Ada", "new": "Eva", "templates": ["1", 2]}
    assert verbs.parsed(verb, whole) == {"name": "Ada", "new": "Eva", "templates": [1, 2]}
    for templates in (["x"], [-1], [1.5], [True], list(range(600)), {"a": 1}, "٣", [[1]]):
        with pytest.raises(InputError):
            verbs.parsed(verb, whole | {"templates": templates})
