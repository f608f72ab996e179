import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from device import demo
from device.camera import open_source, read_picture
from device.demo import COLLINS
from device.detect import MtcnnDetector
from device.program import MissingError


@pytest.fixture
def short(monkeypatch):
    """A film of few frames."""
    monkeypatch.setattr(demo, "SHOT_FRAMES", 12)
    monkeypatch.setattr(demo, "TITLE_FRAMES", 2)


def test_the_demo_knows_collins_and_not_hopper(pixels, short, tmp_path: Path, capsys):
    out = tmp_path / "out"
    assert demo.main(["--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert f"1  Eileen Collins, who is enrolled: {COLLINS}\n" in text
    assert "2  Grace Hopper, who is not: unknown\n" in text
    assert f"3  both at once: {COLLINS}, unknown\n" in text
    assert "#1 seen: Eileen Collins" in text
    assert "smoke test" in text
    for name in ("annotated.mp4", "contact-sheet.png", "demo.mp4"):
        assert str(out / name) in text
    assert sorted(path.name for path in out.iterdir()) == ["annotated.mp4", "contact-sheet.png", "demo.mp4", "gallery.db"]
    film, annotated = (list(open_source(str(out / name))) for name in ("demo.mp4", "annotated.mp4"))
    assert len(film) == len(annotated) == 3 * (12 + 2)
    assert film[0].image.shape == (480, 640, 3)
    assert read_picture(out / "contact-sheet.png").shape == (3 * 244, 4 * 324, 3)


def test_a_run_starts_afresh_and_a_wrong_verdict_is_status_1(pixels, short, tmp_path: Path, capsys):
    pixels.manifest["thresholds"][0]["threshold"] = -1.0  # everybody is Collins
    (tmp_path / "gallery.db").write_text("of an earlier run")
    assert demo.main(["--out", str(tmp_path)]) == 1
    assert f"2  Grace Hopper, who is not: {COLLINS}  <- WRONG, expected unknown\n" in capsys.readouterr().out


def test_no_import_of_the_packages_that_bring_the_photos():
    assert demo.photo_of("skimage", "data", "astronaut.png").is_file()
    with pytest.raises(MissingError, match=r"omokage\[demo\]"):
        demo.photo_of("no_such_package", "astronaut.png")
    with pytest.raises(MissingError, match=r"gone\.png"):
        demo.photo_of("skimage", "data", "gone.png")


def test_every_view_lies_within_its_photo_and_shows_its_people(astronaut: Path, grace_hopper: Path):
    detector = MtcnnDetector()
    for shot in demo.storyboard(read_picture(astronaut), read_picture(grace_hopper)):
        for x, y, height in (shot.start, shot.end):
            half = height / 2 * demo.SIZE[0] / demo.SIZE[1]
            assert x - half >= 0
            assert x + half <= shot.photo.shape[1]
            assert y - height / 2 >= 0
            assert y + height / 2 <= shot.photo.shape[0]
            assert len(detector.detect(demo._view(shot.photo, x, y, height))) == len(shot.expected)


def event(kind: str, track: int, frame: int, x: float, name: str | None, frames: int = 5) -> dict:
    return {"event": kind, "track": track, "frame": frame, "box": [x, 0, 9, 9], "name": name, "score": 0.5, "frames": frames}


def test_tracks_are_told_by_the_shot_that_they_began_in(short):
    told = [event("seen", 1, 4, 50, "A"), event("gone", 1, 14, 50, "A"), event("seen", 2, 18, 80, "B"), event("seen", 3, 27, 20, None)]
    told += [event("gone", 2, 29, 80, "B"), event("gone", 3, 30, 20, None), {"event": "notice"}]
    assert demo.names_in_shots(told, 3) == [["A"], [None, "B"], []]


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (["--clips", "nowhere"], 2, "nowhere/clips is not there"),
        (["--json", "table.json"], 2, "--clips"),
        (["--out", "/dev/null/x"], 2, "cannot write to /dev/null/x"),
        (["--encoder", "nowhere"], 2, "nowhere is not a bundle"),
    ],
)
def test_a_wrong_call_is_one_line_and_a_status(words, status, says, tmp_path: Path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try:
        found = demo.main(words)
    except SystemExit as end:
        found = end.code
    err = capsys.readouterr().err
    assert found == status
    assert says in err
    assert err.count("\n") == 1


def test_the_longest_track_counts():
    told = [event("gone", 1, 9, 0, "p1", frames=4), event("gone", 2, 9, 0, "p2", frames=9), event("seen", 3, 9, 0, "p3", frames=50)]
    row = demo._row("x.mp4", "p2", told, {"fps": 31.0})
    assert row == {"clip": "x.mp4", "expected": "p2", "name": "p2", "score": 0.5, "right": True, "fps": 31.0}
    assert not demo._row("x.mp4", None, told, {"fps": 31.0})["right"]


def test_a_clip_without_a_face_is_wrong_even_for_a_stranger():
    row = demo._row("x.mp4", None, [], {"fps": 31.0})
    assert not row["right"]
    assert "no face" in demo._table_line(row)


@pytest.mark.slow
def test_the_clips_make_a_table(pixels, data: Path, tmp_path: Path, capsys, monkeypatch):
    """Real clips through all parts but the encoder: same clothes and light, so that even pixels tell some people."""
    monkeypatch.setattr(demo, "PEOPLE", ("p1", "p2"))
    monkeypatch.setattr(demo, "STRANGERS", ())
    status = demo.main(["--clips", str(data), "--out", str(tmp_path), "--json", str(tmp_path / "table.json")])
    table = json.loads((tmp_path / "table.json").read_text())
    assert status == (0 if table["right"] == 4 else 1)
    assert [(row["clip"], row["expected"]) for row in table["clips"]] == [(f"p{i}-{take}.mp4", f"p{i}") for i in (1, 2) for take in "bc"]
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    assert f"{table['right']} of 4 right" in lines[-1]


@pytest.mark.slow
def test_the_demo_with_the_shipped_bundle(bundle_path: Path, tmp_path: Path):
    assert demo.main(["--out", str(tmp_path), "--encoder", str(bundle_path)]) == 0
    assert np.ptp(cv2.imread(str(tmp_path / "contact-sheet.png"))) > 100


@pytest.mark.slow
def test_the_clips_with_the_shipped_bundle(bundle_path: Path, data: Path, tmp_path: Path):
    assert demo.main(["--clips", str(data), "--out", str(tmp_path), "--encoder", str(bundle_path)]) == 0
