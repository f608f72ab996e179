import sqlite3
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest

from device.bundle import Bundle
from device.gallery import Gallery
from device.openset import COHORT
from device.quality import Quality
from device.track import Evidence
from device.unknowns import PAUSE, SWEEP, Unknowns

DIMENSION = 32
RNG = np.random.default_rng(0)
NOW = datetime.now(timezone.utc)


NOISE = np.random.default_rng(1)
START = NOISE.bit_generator.state


@pytest.fixture(autouse=True)
def _the_same_noise_in_every_test():
    NOISE.bit_generator.state = START


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


# As an encoder sees faces whose cosines all lie between 0.8 and 1: much in common, and a little of their own.
COMMON = unit(np.ones(DIMENSION))
FACES = RNG.normal(size=(400, DIMENSION))


def face(number: int, noise: float = 0.1, quality: float = 0.9) -> Evidence:
    evidence = Evidence()
    evidence.add(unit(COMMON + 0.08 * (FACES[number] + noise * NOISE.normal(size=DIMENSION))), Quality(quality, "blurred"))
    return evidence


@pytest.fixture
def used(tmp_path: Path) -> Bundle:
    np.savez(tmp_path / COHORT, embeddings=np.round(127 * unit(COMMON + 0.08 * FACES[100:])).astype(np.int8))
    facts = {"encoder": "0123456789abcdef", "dimension": DIMENSION, "preprocessing": {"version": 1}}
    return Bundle(tmp_path, {**facts, "thresholds": [{"far": 0.001, "threshold": 0.97}]})


class Watched(Unknowns):
    def __init__(self, path: Path, used: Bundle, days: float = 30, **settings):
        self.now, self.told = 0.0, []
        super().__init__(path, used, days, "mtcnn", lambda *word: self.told.append(word), clock=lambda: self.now, **settings)


@pytest.fixture
def unknowns(tmp_path, used):
    opened = Watched(tmp_path / "new" / "gallery.db", used)
    yield opened
    opened.close()


def test_a_stranger_keeps_the_number_and_each_return_is_a_visit(unknowns):
    seen = [unknowns.meet(face(number), NOW + timedelta(hours=hour)) for hour, number in enumerate((1, 2, 1, 3, 1, 2))]
    assert [(stranger.name, stranger.visits) for stranger in seen] == [
        ("unknown-1", 1), ("unknown-2", 1), ("unknown-1", 2), ("unknown-3", 1), ("unknown-1", 3), ("unknown-2", 2)]  # fmt: skip


def test_the_numbers_outlive_the_program_and_are_shared_with_others(tmp_path, used, unknowns):
    unknowns.meet(face(1), NOW)
    other = Watched(tmp_path / "new" / "gallery.db", used)
    assert other.meet(face(1), NOW).number == 1
    assert other.meet(face(2), NOW).number == 2
    assert unknowns.meet(face(2), NOW).number == 2
    other.close()


def test_two_faces_of_a_frame_are_two_strangers(unknowns):
    assert unknowns.meet(face(1), NOW).number == 1
    assert unknowns.meet(face(1), NOW, others={1}).number == 2


def test_what_shows_too_little_is_not_remembered(unknowns):
    assert unknowns.meet(face(1, quality=0.3), NOW) is None
    assert unknowns.meet(Evidence(), NOW) is None


def test_who_is_named_or_forgotten_has_no_number_any_more(tmp_path, unknowns):
    stranger = unknowns.meet(face(1), NOW)
    with Gallery(tmp_path / "new" / "gallery.db") as gallery:
        gallery.enrol(1, "Alice")
        unknowns.part(stranger, face(1), NOW, known=True)
        unknowns.part(stranger, face(1), NOW, known=False)
        assert gallery.unknowns() == [] and unknowns.told == []
        assert unknowns.meet(face(1), NOW).number == 2
        gallery.forget()
        assert unknowns.meet(face(1), NOW).number == 3


def test_a_visit_ends_with_the_better_template(tmp_path, unknowns, used):
    stranger, better = unknowns.meet(face(1), NOW), face(1, quality=1.0)
    unknowns.part(stranger, better, NOW + timedelta(minutes=3), known=False)
    with Gallery(tmp_path / "new" / "gallery.db") as gallery:
        np.testing.assert_array_equal(gallery.traces(used)[0], [better.embedding])
        unknowns.part(stranger, better, NOW, known=True)
        assert gallery.unknowns() == []


def test_they_expire_while_the_program_runs(tmp_path, used):
    unknowns = Watched(tmp_path / "g.db", used, days=1)
    unknowns.meet(face(1), NOW - timedelta(days=2))
    with sqlite3.connect(tmp_path / "g.db") as db:
        unknowns.poll()
        assert db.execute("SELECT count(*) FROM trace").fetchone() == (1,)
        unknowns.now = SWEEP
        unknowns.poll()
        assert db.execute("SELECT count(*) FROM trace").fetchone() == (0,)
    db.close()
    unknowns.close()


def test_a_gallery_that_fails_is_told_and_tried_again_later(tmp_path, unknowns):
    path = tmp_path / "new" / "gallery.db"
    unknowns.meet(face(1), NOW)
    whole = path.read_bytes()
    for file in path.parent.glob("*"):
        file.unlink()
    path.write_text("no gallery")
    assert [unknowns.meet(face(2), NOW) for _ in range(3)] == [None] * 3
    ((code, message, level),) = unknowns.told
    assert (code, level) == ("unknowns-failed", "error") and "is not a gallery" in message
    path.unlink()
    path.write_bytes(whole)
    assert unknowns.meet(face(2), NOW) is None
    unknowns.now = PAUSE
    assert unknowns.meet(face(2), NOW) is not None
