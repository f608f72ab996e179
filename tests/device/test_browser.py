"""The page in a real browser: Debian's chromium, driven by playwright. Skipped where either is not there.

axe-core (npm) looks for faults of accessibility where $OMOKAGE_AXE names its axe.min.js. Where $OMOKAGE_SCREENSHOTS names a folder,
the pictures of docs/live.md are made there, of package pictures alone.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import pytest

from device import demo, draw
from device.camera import open_source

playwright = pytest.importorskip("playwright.sync_api")
pytest.importorskip("uvicorn")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
AXE, SHOTS = os.environ.get("OMOKAGE_AXE"), os.environ.get("OMOKAGE_SCREENSHOTS")
CAMERA = "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"  # a test picture in place of the webcam
PASSWORD = "a password of some length"
FIRST_PAINT = 1000  # milliseconds on two cores while recognition runs
PHONE, DESKTOP = {"width": 390, "height": 844}, {"width": 1280, "height": 860}
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed")]


class Site:
    """A page that runs, with a recogniser of its own where `film` is named."""

    def __init__(self, folder: Path, film: Path | None, *words: object):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.address, self._folder = f"http://127.0.0.1:{port}", folder
        self._processes: list[subprocess.Popen] = []
        watching = [] if film is None else ["--", "--source", film, "--loop", "--remember-unknowns"]
        self._start("serve", "--listen", f"127.0.0.1:{port}", "--keep-crops", *words, *watching)

    def watch(self, film: Path, *words: object) -> None:
        """Start a recogniser beside the page."""
        journal = "--journal", self._folder / "journal", "--journal-crops"
        self._start("recognize", "--source", film, "--loop", "--remember-unknowns", *journal, *words)

    def _start(self, program: str, *words: object) -> None:
        command = [sys.executable, "-m", f"device.{program}", "--gallery", self._folder / "g.db", *words]
        with (self._folder / f"{program}.log").open("w") as log:
            self._processes.append(subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=log))

    def close(self) -> None:
        for process in self._processes:
            process.terminate()
            process.wait(20)


@pytest.fixture(scope="module")
def chromium() -> Iterator["playwright.Browser"]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *CAMERA])
        yield browser
        browser.close()


class Visitor:
    """Somebody with a browser. Whatever the console complains about is in `complaints`."""

    def __init__(self, browser: "playwright.Browser", site: Site, **settings: object):
        self._context = browser.new_context(base_url=site.address, **settings)
        self.page = self._context.new_page()
        self.complaints: list[str] = []
        self.page.on("console", lambda line: self.complaints.append(line.text) if line.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def go(self, address: str) -> None:
        """Wait for the server, at the beginning."""
        for _ in range(200):
            try:
                self.page.goto(address)
                return
            except playwright.Error:
                time.sleep(0.1)
        raise AssertionError("the page does not answer")

    def told(self) -> str:
        return self.page.locator(".message").inner_text()

    def wait_for(self, text: str, seconds: float = 90.0) -> None:
        """Until the timeline, which follows by itself, tells it."""
        self.page.locator("#timeline").get_by_text(text, exact=True).first.wait_for(timeout=1000 * seconds)

    def wait_for_pictures(self) -> None:
        """Until the live view shows something."""
        for _ in range(300):
            if self.page.evaluate("() => document.getElementById('picture').naturalWidth"):
                return
            time.sleep(0.1)
        raise AssertionError("the live view shows nothing")

    def faults(self) -> list[str]:
        """What axe-core finds that is serious or worse."""
        if not AXE:
            return []
        # Not as a script of the page: its Content-Security-Policy forbids what axe needs.
        self.page.evaluate(Path(AXE).read_text("utf-8"))
        found = self.page.evaluate("axe.run()")["violations"]
        return [f"{self.page.url} {one['id']}: {one['nodes'][0]['html']}" for one in found if one["impact"] in ("serious", "critical")]

    def close(self) -> None:
        self._context.close()


def film_of(path: Path, *clips: Path) -> Path:
    """One video of several, 640x480."""
    with draw.recording(path, 25) as write:
        for clip in clips:
            with open_source(str(clip)) as source:
                for frame in source:
                    write(draw.fit(frame.image, 640, 480))
    return path


def pictures_of(clip: Path, folder: Path, count: int = 4) -> list[Path]:
    """Some frames of a clip as photos."""
    with open_source(str(clip)) as source:
        frames = [frame.image for frame in source]
    paths = [folder / f"frame {number}.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        cv2.imwrite(str(path), frames[number * (len(frames) - 1) // (count - 1)])
    return paths


def test_from_the_first_visit_to_an_undone_removal(chromium, data: Path, yunet: Path, tmp_path: Path):
    clips = data / "clips"
    film = film_of(tmp_path / "film.mp4", clips / "p1-b.mp4", clips / "p5-a.mp4")
    site = Site(tmp_path, None, "--password-file", tmp_path / "password", "--detector-model", yunet)
    visitor = Visitor(chromium, site, viewport=DESKTOP)
    page, faults = visitor.page, []
    try:
        visitor.go("/people")
        faults += visitor.faults()
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_label("The same again").fill(PASSWORD)
        page.get_by_role("button", name="Set the password").click()
        assert page.get_by_role("heading", name="People").is_visible()  # where one wanted to go

        page.get_by_role("link", name="Add a person").first.click()
        page.get_by_label("Name").fill("p1")
        page.locator("#photos").set_input_files(pictures_of(clips / "p1-a.mp4", tmp_path))
        assert page.locator("#chosen img").count() == 4
        faults += visitor.faults()
        page.get_by_role("button", name="Add", exact=True).click()
        page.locator(".message").wait_for(timeout=60_000)
        assert "Added p1: 4 templates" in visitor.told() and "p1 is" in visitor.told()

        page.get_by_role("link", name="Today").click()
        assert "no recogniser is running" in page.locator("#view").inner_text()
        site.watch(film, "--detector-model", yunet)
        visitor.wait_for("p1")
        page.get_by_role("button", name="Watch live").click()
        visitor.wait_for_pictures()
        faults += visitor.faults()
        page.get_by_role("button", name="Stop").click()

        stranger = page.locator(".visit.unknown, .visit.review").first  # p1 was known before the film began
        stranger.get_by_text("Who is it?").click(timeout=60_000)
        faults += visitor.faults()
        stranger.get_by_label("It is").fill("p5")
        stranger.get_by_role("button", name="Save").click()
        assert "That was p5: 1 template" in visitor.told()

        page.get_by_role("link", name="Today").click()
        visitor.wait_for("p5")

        page.get_by_role("link", name="People").click()
        page.get_by_role("link", name=re.compile("^p5")).click()
        faults += visitor.faults()
        page.get_by_role("button", name="Remove p5").click()
        assert "Removed p5" in visitor.told() and page.locator(".tile").count() == 1
        page.get_by_role("button", name="Undo").click()
        assert "Undone: withdraw" in visitor.told() and page.locator(".tile").count() == 2

        for address in ("/unknowns", "/settings", "/review", "/changes", "/doctor", "/person?name=Nobody"):
            page.goto(address)
            faults += visitor.faults()
        assert faults == []
        assert [line for line in visitor.complaints if "status of 400" not in line] == []  # Nobody's page
    finally:
        visitor.close()
        site.close()


def photos() -> dict[str, Path]:
    return {
        "Eileen Collins": demo.photo_of("skimage", "data", "astronaut.png"),
        "Grace Hopper": demo.photo_of("matplotlib", "mpl-data", "sample_data", "grace_hopper.jpg"),
    }


@pytest.fixture(scope="module")
def living_room(tmp_path_factory) -> Iterator[Site]:
    """A page with package pictures: two photos that a camera pans over, again and again."""
    folder = tmp_path_factory.mktemp("room")
    with draw.recording(folder / "film.mp4", 15) as write:
        for photo, top in zip(map(cv2.imread, map(str, photos().values())), (0, 90), strict=True):
            for step in [*range(30), *range(30, 0, -1)]:
                write(cv2.resize(photo[top : top + 360, step : step + 480], (640, 480), interpolation=cv2.INTER_CUBIC))
    site = Site(folder, folder / "film.mp4")
    yield site
    site.close()


def shown(visitor: Visitor, name: str, whole: bool = False) -> None:
    """A picture for docs/live.md, if it is wanted."""
    if SHOTS:
        visitor.page.screenshot(path=Path(SHOTS) / f"live-{name}.jpg", full_page=whole, type="jpeg", quality=85)


def test_in_dark_on_a_phone_and_without_scripts(chromium, living_room: Site):
    visitor = Visitor(chromium, living_room, viewport=PHONE, color_scheme="dark", java_script_enabled=False)
    page = visitor.page
    visitor.go("/new")
    assert page.get_by_role("button", name="Use the camera").count() == 0
    page.get_by_label("Name").fill("Eileen Collins")
    page.locator("#photos").set_input_files(photos()["Eileen Collins"])
    page.get_by_role("button", name="Add", exact=True).click()
    page.locator(".message").wait_for(timeout=60_000)
    assert "Added Eileen Collins: 1 template" in visitor.told()
    for address in ("/", "/people", "/person?name=Eileen%20Collins", "/unknowns", "/review", "/settings", "/changes", "/new"):
        page.goto(address)
        wide = page.locator("body").bounding_box()
        assert wide and wide["width"] <= PHONE["width"], address
    page.goto("/live", wait_until="commit")
    page.locator(".view img").wait_for(timeout=60_000)
    visitor.close()


def test_pictures_are_taken_with_the_camera_of_the_device(chromium, living_room: Site):
    visitor = Visitor(chromium, living_room, viewport=PHONE)
    page = visitor.page
    visitor.go("/new")
    page.get_by_role("button", name="Use the camera of this device").click()
    take = page.get_by_role("button", name="Take a picture")
    for count in (1, 2):
        take.click()
        page.get_by_text(f"Pictures: {count}").wait_for()
    assert page.locator("#chosen img").count() == 2
    page.get_by_label("Name").fill("Nobody")
    page.get_by_role("button", name="Add", exact=True).click()
    page.locator(".message").wait_for(timeout=60_000)
    assert "shows Nobody alone" in visitor.told() and "camera 1.jpg" in visitor.told()  # the test picture has no face
    assert visitor.complaints == []
    visitor.close()


def test_by_keyboard_alone(chromium, living_room: Site):
    visitor = Visitor(chromium, living_room, viewport=DESKTOP)
    page = visitor.page
    visitor.go("/people")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    reached = []
    for _ in range(12):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.textContent.trim().split('\\n')[0]"))
        width = page.evaluate("getComputedStyle(document.activeElement).outlineWidth")
        assert width == "3px" or reached[-1] == "", reached
        if reached[-1] == "Add a person":
            break
    assert "Add a person" in reached
    page.keyboard.press("Enter")
    page.wait_for_url("**/new")
    visitor.close()


def test_nobody_who_leaves_is_called_back(chromium, living_room: Site):
    """A page that waits for the doctor looks again after two seconds, but not once a link is followed."""
    visitor = Visitor(chromium, living_room, viewport=DESKTOP)
    visitor.go("/doctor")
    page = visitor.page
    page.locator("#again").wait_for()
    page.evaluate("window.dispatchEvent(new Event('beforeunload')); window.here = true")
    page.wait_for_timeout(3000)
    assert page.evaluate("window.here")
    visitor.close()


def test_the_pages_are_small_quick_and_easy_to_read(chromium, living_room: Site):
    """Under 150 KB, first paint under a second on two cores while recognition runs; no serious fault of accessibility."""
    visitor = Visitor(chromium, living_room, viewport=DESKTOP)
    page = visitor.page
    visitor.go("/new")
    page.get_by_label("Name").fill("Grace Hopper")
    page.locator("#photos").set_input_files(photos()["Grace Hopper"])
    page.get_by_role("button", name="Add", exact=True).click()
    page.locator(".message").wait_for(timeout=60_000)
    shown(visitor, "person", whole=True)
    page.goto("/")
    visitor.wait_for("Grace Hopper")
    page.get_by_role("button", name="Watch live").click()
    visitor.wait_for_pictures()
    shown(visitor, "today")
    page.get_by_role("button", name="Stop").click()
    faults, figures = [], {}
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        for address in ("/", "/people", "/person?name=Grace%20Hopper", "/unknowns", "/settings", "/new"):
            page.goto(address)
            faults += visitor.faults()
            bytes_sent, paint = page.evaluate(
                "[performance.getEntries().filter(e => e.transferSize !== undefined && !e.name.endsWith('.jpg'))"
                ".reduce((sum, e) => sum + e.encodedBodySize, 0), performance.getEntriesByName('first-contentful-paint')[0]?.startTime]"
            )
            figures[f"{scheme} {address}"] = bytes_sent, paint
    print("bytes and first paint (ms):", figures)
    assert faults == [] and visitor.complaints == []
    assert max(size for size, _ in figures.values()) < 150_000
    page.goto("/unknowns")
    shown(visitor, "unknowns")
    page.set_viewport_size(PHONE)
    page.goto("/people")
    shown(visitor, "people-phone")
    visitor.close()
