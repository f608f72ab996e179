from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device.bundle import Bundle
from device.classify import Neighbours, Planes, strongest
from device.gallery import Gallery, Template
from device.known import POLL, Judge, Known, Scores
from device.openset import COHORT
from device.program import InputError, StoredError

DIMENSION = 16
RNG = np.random.default_rng(0)


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


ROWS = unit(RNG.normal(size=(60, DIMENSION)))
STRANGERS = unit(RNG.normal(size=(400, DIMENSION)))


def templates(*rows: int, encoder: str = "0123456789abcdef") -> list[Template]:
    return [Template(ROWS[row], encoder, 1, "mtcnn", 0.9, "photo.jpg") for row in rows]


@pytest.fixture
def used(tmp_path: Path) -> Bundle:
    """A bundle with a cohort."""
    np.savez(tmp_path / COHORT, embeddings=np.round(STRANGERS * 127).astype(np.int8))
    facts = {"encoder": "0123456789abcdef", "dimension": DIMENSION, "preprocessing": {"version": 1}}
    return Bundle(tmp_path, {**facts, "thresholds": [{"far": 0.001, "threshold": 0.8}]})


class Watched:
    """A gallery's Known with a clock that the test sets, and all that was notified."""

    def __init__(self, path: Path, used: Bundle, **settings):
        self.now, self.told = 0.0, []
        self.known = Known(path, used, Judge.of(used, **{"far": 0.05, **settings}), lambda *word: self.told.append(word), lambda: self.now)

    def poll(self) -> bool:
        self.now += POLL
        return self.known.poll()

    def who(self, row: int) -> str | None:
        return self.known.decider.decide(ROWS[row]).name

    def codes(self) -> list[str]:
        return [code for code, _, _ in self.told]


@pytest.mark.parametrize("classifier", ["knn", "svm"])
def test_every_change_of_the_gallery_is_followed(tmp_path: Path, used: Bundle, classifier: str):
    path = tmp_path / "gallery.db"
    watched = Watched(path, used, classifier=classifier)
    assert watched.known.decider.decide(ROWS[0]).why == "nobody is enrolled"
    assert not watched.poll()
    with Gallery(path, create=True) as gallery:
        gallery.add("Ada", templates(0, 1))
        assert watched.poll()
        assert (watched.who(0), watched.who(5), watched.known.people) == ("Ada", None, 1)
        assert not watched.poll(), "nothing has changed"
        gallery.add("Bob", templates(5, 6))
        gallery.rename("Ada", "Ada Lovelace")
        assert watched.poll()
        assert (watched.who(0), watched.who(5)) == ("Ada Lovelace", "Bob")
        gallery.remove("Bob")
        assert watched.poll()
        assert watched.who(5) is None
    assert watched.codes() == ["gallery-reloaded"] * 3
    assert watched.told[1] == ("gallery-reloaded", "gallery reloaded, people in it: 2", "info")


def test_the_gallery_is_not_asked_more_often_than_needed(tmp_path: Path, used: Bundle):
    with Gallery(tmp_path / "g.db", create=True) as gallery:
        watched = Watched(tmp_path / "g.db", used)
        watched.poll()
        gallery.add("Ada", templates(0))
        watched.now += POLL / 2
        assert not watched.known.poll()
        watched.now += POLL / 2
        assert watched.known.poll()


def test_another_file_in_its_place_and_none(tmp_path: Path, used: Bundle):
    for name, row in (("one", 0), ("two", 9)):
        with Gallery(tmp_path / f"{name}.db", create=True) as gallery:
            gallery.add(name, templates(row))
    watched = Watched(tmp_path / "one.db", used)
    for rest in tmp_path.glob("one.db?*"):
        rest.unlink()
    (tmp_path / "two.db").replace(tmp_path / "one.db")
    assert watched.poll()
    assert (watched.who(0), watched.who(9)) == (None, "two")
    (tmp_path / "one.db").unlink()
    assert watched.poll()
    assert watched.known.people == 0
    assert not watched.poll()


def test_a_gallery_that_does_not_fit_any_more_is_told_once_and_the_old_people_stay(tmp_path: Path, used: Bundle):
    path = tmp_path / "gallery.db"
    with Gallery(path, create=True) as gallery:
        gallery.add("Ada", templates(0))
        watched = Watched(path, used)
        gallery.remove("Ada")
        gallery.add("Bob", templates(3, encoder="fedcba9876543210"))
        assert [watched.poll() for _ in range(3)] == [False] * 3
        assert watched.who(0) == "Ada"
        assert [(code, level) for code, _, level in watched.told] == [("gallery-failed", "error")]
        gallery.remove("Bob")
        assert watched.poll()
    with pytest.raises(StoredError):
        (tmp_path / "text.db").write_text("no gallery")
        Watched(tmp_path / "text.db", used)


def test_planes_are_kept_in_the_gallery_until_somebody_changes_it(tmp_path: Path, used: Bundle, monkeypatch):
    path, trained = tmp_path / "gallery.db", []
    train = Planes.train
    monkeypatch.setattr(Planes, "train", lambda embeddings, *rest: trained.append(len(embeddings)) or train(embeddings, *rest))
    with Gallery(path, create=True) as gallery:
        gallery.add("Ada", templates(0))
        first = Watched(path, used, classifier="svm")
        assert trained == [1]
        second = Watched(path, used, classifier="svm")
        assert trained == [1], "one template cannot be rehearsed, and the planes were there"
        assert not first.poll(), "planes that are kept are no change"
        assert second.who(0) == first.who(0) == "Ada"
        gallery.add("Bob", templates(3))
        assert second.poll()
        assert trained[1] == 2


def test_a_promise_that_the_cohort_cannot_show_is_told(tmp_path: Path, used: Bundle):
    with Gallery(tmp_path / "g.db", create=True) as gallery:
        gallery.add("Ada", templates(0))
    watched = Watched(tmp_path / "g.db", used, far=0.001)
    ((code, message, level),) = watched.told
    assert (code, level) == ("far-not-shown", "warning")
    assert message.startswith("400 strangers cannot show a false-accept rate of 0.001, it takes 8586 more")
    assert watched.known.decider.threshold == pytest.approx((STRANGERS @ ROWS[0]).max(), abs=0.02)


def test_a_bundle_without_a_cohort_has_its_own_threshold_and_no_svm(tmp_path: Path, used: Bundle):
    (tmp_path / COHORT).unlink()
    decider, threshold = Judge.of(used).judge(ROWS[:2], ["Ada", "Bob"])
    assert (decider.threshold, threshold) == (0.8, None)
    with pytest.raises(InputError, match="no cohort"):
        Judge.of(used, classifier="svm")
    with pytest.raises(InputError, match=r"no threshold for the false-accept rate 0\.02"):
        Judge.of(used, far=0.02)


def test_a_stricter_rate_gives_a_higher_threshold_and_more_strangers_a_wider_view(used: Bundle):
    names = [f"{row // 3:02}" for row in range(60)]
    found = [Judge.of(used, far=far).judge(ROWS, names)[1] for far in (0.3, 0.1, 0.05)]
    assert found[0].known < found[1].known < found[2].known
    assert all(one.review <= one.known for one in found)


@settings(max_examples=25, deadline=None)
@given(
    steps=st.lists(st.dictionaries(st.sampled_from("ABCDE"), st.lists(st.integers(0, 59), min_size=1, max_size=4), max_size=5), max_size=6)
)
def test_scores_that_follow_the_gallery_are_those_of_a_gallery_that_is_searched_anew(steps: list[dict[str, list[int]]]):
    scores = Scores(STRANGERS)
    for people in steps:
        names = [name for name, rows in sorted(people.items()) for _ in rows]
        embeddings = ROWS[[row for _, rows in sorted(people.items()) for row in rows]].reshape(-1, DIMENSION)
        found = scores.update(embeddings, names)
        if people:
            np.testing.assert_allclose(found, strongest(Neighbours(embeddings, names), STRANGERS)[0], atol=1e-6)
