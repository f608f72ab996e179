from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device import openset
from device.bundle import Bundle
from device.classify import Planes
from device.decide import IGNORED
from device.gallery import Gallery, Template
from device.impostors import Impostors
from device.known import POLL, Judge, Known
from device.openset import COHORT
from device.program import InputError, StoredError
from device.search import Index

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
    assert message.startswith("400 strangers cannot show a false-accept rate of 0.001, it takes 8751 more")
    assert watched.known.decider.threshold == pytest.approx(expected(ROWS[:1], ["Ada"])[0].max() + openset.DRIFT, abs=0.02)


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


def test_what_the_gallery_says_somebody_is_not_is_followed_too(tmp_path: Path, used: Bundle):
    with Gallery(tmp_path / "gallery.db", create=True) as gallery:
        gallery.add("Ada", templates(0, 1))
        watched = Watched(tmp_path / "gallery.db", used)
        near = unit(ROWS[:1] + 0.02 * ROWS[7:8])
        assert watched.known.decider.decide(near[0]).name == "Ada"
        gallery.deny("Ada", [replace(templates(0)[0], embedding=near[0])])
        assert watched.poll()
        verdict = watched.known.decider.decide(near[0])
        assert (verdict.name, verdict.why, watched.who(0)) == (None, "it looks more like a face that is not Ada", "Ada")
        gallery.undo()
        gallery.deny(None, [replace(templates(0)[0], embedding=near[0])])
        assert watched.poll()
        assert (watched.known.decider.decide(near[0]).why, watched.who(1)) == (IGNORED, "Ada")


def test_what_strangers_score_against_many_is_kept_in_the_gallery(tmp_path: Path, used: Bundle, monkeypatch):
    monkeypatch.setattr("device.known.LARGE", 2)
    searched = []
    search = Impostors._search
    monkeypatch.setattr(Impostors, "_search", lambda self, rows, *which: searched.append(len(rows)) or search(self, rows, *which))
    with Gallery(tmp_path / "gallery.db", create=True) as gallery:
        gallery.add("Ada", templates(0, 1))
        gallery.add("Bob", templates(5, 6))
        first = Watched(tmp_path / "gallery.db", used)
        before, searched[:] = sum(searched), []
        second = Watched(tmp_path / "gallery.db", used)
        assert (before, sum(searched)) == (404, 0)
        assert second.known.decider.threshold == first.known.decider.threshold
        gallery.add("Cem", templates(9))
        searched[:] = []
        assert second.poll() and second.known.decider.threshold >= first.known.decider.threshold
        assert 0 < sum(searched[:1]) < 10, "everybody is searched for by those alone who are new"
        third = Watched(tmp_path / "gallery.db", used)
        assert third.known.decider.threshold == second.known.decider.threshold
        gallery.remove("Cem")
        assert Watched(tmp_path / "gallery.db", used).known.decider.threshold == first.known.decider.threshold


def against(scores: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of the highest twentieth."""
    highest = sorted(scores)[-len(STRANGERS) // 20 :]
    return float(np.mean(highest)), float(np.std(highest))


def expected(embeddings: np.ndarray, names: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What Impostors says, in slow loops."""

    def cosine(probe: np.ndarray, person: str, without: int = -1) -> float:
        own = [row @ probe for place, (row, name) in enumerate(zip(embeddings, names, strict=True)) if name == person and place != without]
        return float(np.mean(sorted(own)[-3:])) if own else np.nan

    people = sorted(set(names))
    units = {person: against(np.array([cosine(row, person) for row in STRANGERS])) for person in people}

    def score(probe: np.ndarray, person: str, without: int = -1) -> float:
        seen = STRANGERS @ probe
        aside = against(seen[seen < 1 - 1e-5])  # nobody is a stranger to oneself
        raw = cosine(probe, person, without)
        return float(np.tanh(((raw - units[person][0]) / units[person][1] + (raw - aside[0]) / aside[1]) / 20))

    genuine = [score(row, name, place) for place, (row, name) in enumerate(zip(embeddings, names, strict=True))]
    others = [max((score(row, p) for p in people if p != name), default=np.nan) for row, name in zip(embeddings, names, strict=True)]
    strangers = [max(score(row, person) for person in people) for row in STRANGERS]
    return tuple(np.array(values)[~np.isnan(values)] for values in (strangers, genuine, others))


@settings(max_examples=10, deadline=None)
@given(
    steps=st.lists(st.dictionaries(st.sampled_from("ABCDE"), st.sets(st.integers(0, 59), min_size=1, max_size=5), max_size=5), max_size=6)
)
def test_what_follows_the_gallery_is_what_a_search_anew_would_find(steps: list[dict[str, set[int]]]):
    impostors = Impostors(STRANGERS)
    for people in steps:
        names = [name for name, rows in sorted(people.items()) for _ in rows]
        embeddings = ROWS[[row for _, rows in sorted(people.items()) for row in sorted(rows)]].reshape(-1, DIMENSION)
        found = impostors.update(Index(embeddings, names))
        if people:
            for values, wanted in zip(found, expected(embeddings, names), strict=True):
                np.testing.assert_allclose(np.sort(values), np.sort(wanted), atol=1e-5)


def test_a_large_gallery_is_rehearsed_in_part_which_stays_nearly_the_same():
    rows = unit(RNG.normal(size=(900, DIMENSION)))
    names = [f"{i // 3}" for i in range(900)]
    samples = [{row.tobytes() for row in Index(rows[:count], names[:count]).sample(120)[0]} for count in (891, 900)]
    assert len(samples[0]) == len(samples[1]) == 120
    assert len(samples[0] & samples[1]) > 110
    _, genuine, own = Impostors(STRANGERS).update(Index(rows, names))
    assert (len(genuine), len(own)) == (120, 120)


def test_what_was_kept_for_others_is_not_taken():
    impostors, index = Impostors(STRANGERS), Index(ROWS[:4], ["Ada", "Ada", "Bob", "Bob"])
    impostors.update(index)
    kept = impostors.to_bytes()
    assert Impostors(STRANGERS).restore(kept, index)
    for others, stored, strangers in ((Index(ROWS[:4], ["Ada", "Bob", "Bob", "Bob"]), kept, STRANGERS),
                                      (Index(ROWS[1:5], ["Ada", "Ada", "Bob", "Bob"]), kept, STRANGERS),
                                      (index, kept, STRANGERS[1:]), (index, kept[:-9], STRANGERS), (index, b"", STRANGERS)):  # fmt: skip
        assert not Impostors(strangers).restore(stored, others)
