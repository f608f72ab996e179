from datetime import datetime, timezone
from pathlib import Path

import cv2
import numpy as np
import pytest

from device import draw
from device.decide import Verdict
from device.program import InputError
from device.track import Track

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
GREY = np.full((240, 320, 3), 90, np.uint8)


def track(x: float = 100, y: float = 80, width: float = 60, height: float = 70) -> Track:
    return Track((x, y, width, height), NOW, NOW, 0, id=7)


def verdict(name: str | None, score: float | None = 0.5) -> Verdict:
    return Verdict("known" if name else "unknown", name, score, 0.4)


def test_a_box_and_a_label_are_drawn_on_a_copy():
    drawn = draw.annotate(GREY, [(track(), verdict("Ada"))])
    assert (GREY == 90).all()
    assert drawn.shape == GREY.shape
    assert tuple(drawn[115, 100]) == draw.COLOURS["known"]  # left side of the box
    assert tuple(drawn[115, 130]) == (90, 90, 90)  # nothing over the face
    assert (drawn[60:80, 100:160] == 255).any()  # the name, above it


def test_each_verdict_has_its_colour_and_an_undecided_track_no_label():
    known, unknown, undecided = (draw.annotate(GREY, [(track(), v)]) for v in (verdict("Ada"), verdict(None), None))
    assert len({tuple(picture[115, 100]) for picture in (known, unknown, undecided)}) == 3
    assert (undecided[:75] == 90).all()


@pytest.mark.parametrize("box", [(-40, -30, 80, 80), (300, 220, 90, 90), (0, 0, 320, 240), (500, 500, 20, 20)])
def test_labels_at_the_rim_stay_inside_the_picture(box):
    inside = draw.annotate(GREY, [(track(*box), verdict("A rather long name"))])
    assert inside.shape == GREY.shape
    assert (inside == 255).any()


@pytest.mark.parametrize(
    ("name", "shown"),
    [("Ada", "Ada 0.50"), ("Zoë Čapek", "Zoe Capek 0.50"), ("Ｆｕｌｌ", "Full 0.50"), ("山田", "#7 0.50"), ("Ørsted", "#7 0.50")],
)
def test_a_label_is_ascii_and_never_a_row_of_question_marks(name: str, shown: str):
    assert draw.label(track(), verdict(name)) == shown


def test_without_a_score_the_label_is_the_verdict():
    assert draw.label(track(), verdict(None, None)) == "unknown"


@pytest.mark.parametrize("shape", [(240, 320), (100, 400), (400, 100), (7, 5)])
def test_fit_keeps_the_shape_and_fills_with_black(shape):
    fitted = draw.fit(np.full((*shape, 3), 255, np.uint8), 64, 48)
    assert fitted.shape == (48, 64, 3)
    lit = fitted.any(-1)
    rows, columns = lit.any(1).sum(), lit.any(0).sum()
    assert columns / rows == pytest.approx(shape[1] / shape[0], rel=0.1)


def test_a_contact_sheet_shows_first_and_last_frame_and_no_more_than_fit():
    frames = [np.full((90, 120, 3), value, np.uint8) for value in range(0, 250, 10)]
    sheet = draw.contact_sheet(frames, columns=4, rows=2, width=120)
    assert sheet.shape == (2 * 94, 4 * 124, 3)
    assert (sheet[2, 2] == 0).all()
    assert (sheet[-3, -3] == 240).all()


def test_a_contact_sheet_of_few_frames():
    assert draw.contact_sheet([GREY], width=320).shape == (244, 324, 3)
    assert draw.contact_sheet([GREY] * 5, width=320).shape == (2 * 244, 4 * 324, 3)
    with pytest.raises(ValueError, match="at least one frame"):
        draw.contact_sheet([])


def read(path: Path) -> list[np.ndarray]:
    video, frames = cv2.VideoCapture(str(path)), []
    while (frame := video.read()[1]) is not None:
        frames.append(frame)
    return frames


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".MP4"])
def test_a_recording_can_be_read_again(tmp_path: Path, suffix: str):
    path = tmp_path / f"film{suffix}"
    with draw.recording(path, 15) as write:
        for _ in range(10):
            write(GREY)
        assert not path.exists()
    frames = read(path)
    assert len(frames) == 10
    assert frames[0].mean() == pytest.approx(90, abs=4)
    assert list(tmp_path.iterdir()) == [path]


def test_frames_of_another_or_an_odd_size_are_fitted(tmp_path: Path):
    with draw.recording(tmp_path / "film.mp4", 15) as write:
        write(np.full((121, 161, 3), 90, np.uint8))
        write(GREY)
    assert [frame.shape for frame in read(tmp_path / "film.mp4")] == [(120, 160, 3)] * 2


@pytest.mark.parametrize("name", ["film.xyz", "film", "film.png"])
def test_a_suffix_that_nobody_can_write_is_refused_before_anything_is_written(tmp_path: Path, name: str):
    with pytest.raises(InputError, match=r"\.mp4"), draw.recording(tmp_path / name, 15):
        pytest.fail("must not get here")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_or_empty_recording_leaves_nothing(tmp_path: Path):
    with pytest.raises(RuntimeError), draw.recording(tmp_path / "film.mp4", 15) as write:
        write(GREY)
        raise RuntimeError
    with draw.recording(tmp_path / "film.mp4", 15):
        pass
    assert list(tmp_path.iterdir()) == []


def test_an_earlier_recording_stays_until_the_new_one_is_done(tmp_path: Path):
    path = tmp_path / "film.mp4"
    path.write_bytes(b"earlier")
    with pytest.raises(RuntimeError), draw.recording(path, 15) as write:
        write(GREY)
        raise RuntimeError
    assert path.read_bytes() == b"earlier"
