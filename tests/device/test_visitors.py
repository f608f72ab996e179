from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest

from device import visitors as module
from device.bundle import Bundle
from device.gallery import Gallery, Template
from device.program import InputError, StoredError
from device.visitors import GAP, TRACES, Trace, unknown_number

ENCODER = "0123456789abcdef"
BUNDLE = Bundle(Path("none"), {"encoder": ENCODER, "dimension": 16, "preprocessing": {"version": 1}})
NOW = datetime(2026, 11, 22, 12, tzinfo=timezone.utc)
LONG = 36500.0  # days: these tests run after NOW
KEY = bytes(range(32))


def row(seed: int) -> np.ndarray:
    values = np.random.default_rng(seed).normal(size=16)
    return (values / np.linalg.norm(values)).astype(np.float32)


def trace(seed: int, **changes) -> Trace:
    return replace(Trace(row(seed), ENCODER, 1, "mtcnn", 0.9), **changes)


@pytest.fixture(params=[None, KEY], ids=["plain", "encrypted"])
def gallery(request, tmp_path):
    with Gallery(tmp_path / "gallery.db", create=True, key=request.param) as opened:
        yield opened


def told(gallery: Gallery) -> list[tuple[str, int, int]]:
    return [(unknown.name, unknown.visits, unknown.templates) for unknown in gallery.unknowns()]


def test_a_visit_is_another_one_after_a_while_without(gallery):
    first, _ = gallery.visit(None, trace(1), NOW, 30)
    assert (first.number, first.visits, first.first, first.expires) == (1, 1, "2026-11-22T12:00:00.000Z", "2026-12-22T12:00:00.000Z")
    assert gallery.visit(1, trace(2), NOW + GAP, 30)[0].visits == 1
    assert gallery.visit(1, trace(3), NOW + 2 * GAP + timedelta(seconds=1), 30)[0].visits == 2
    assert gallery.visit(None, trace(4), NOW, 30)[0].name == "unknown-2"
    assert told(gallery) == [("unknown-1", 2, 3), ("unknown-2", 1, 1)], "who was seen last first"
    embeddings, numbers = gallery.traces(BUNDLE)
    assert numbers == [1, 1, 1, 2]
    np.testing.assert_array_equal(embeddings, [row(seed) for seed in (1, 2, 3, 4)])
    assert gallery.traces(Bundle(Path("other"), {**BUNDLE.manifest, "encoder": "f" * 16}))[1] == []


def test_visits_are_no_change_of_the_gallery_and_in_no_undo(gallery):
    gallery.add("Grace", [Template(row(9), ENCODER, 1, "mtcnn", 0.9, "a.jpg")])
    before = gallery.audit()
    _, left = gallery.visit(None, trace(1), NOW, LONG)
    gallery.stay(1, left, trace(2, quality=0.95), NOW + timedelta(minutes=1))
    gallery.visit(None, trace(3), NOW, LONG)
    assert gallery.audit() == before
    np.testing.assert_array_equal(gallery.traces(BUNDLE)[0][0], row(2))
    assert gallery.unknowns()[0].last == "2026-11-22T12:01:00.000Z"
    gallery.undo()
    assert (gallery.people(), told(gallery)) == ([], [("unknown-1", 1, 1), ("unknown-2", 1, 1)])


def test_who_was_no_stranger_after_all_is_taken_back(gallery):
    _, left = gallery.visit(None, trace(1), NOW, LONG)
    gallery.mistaken(1, left)
    assert told(gallery) == []
    gallery.visit(None, trace(1), NOW, LONG)
    _, second = gallery.visit(2, trace(2), NOW + timedelta(days=1), LONG)
    gallery.mistaken(2, second)
    gallery.mistaken(2, second)
    assert told(gallery) == [("unknown-2", 1, 1)]


def test_templates_and_strangers_are_limited(gallery, monkeypatch):
    for seed in range(TRACES + 3):
        gallery.visit(None if seed == 0 else 1, trace(seed), NOW, LONG)
    assert told(gallery) == [("unknown-1", 1, TRACES)]
    np.testing.assert_array_equal(gallery.traces(BUNDLE)[0][-1], row(TRACES + 2)), "the newest stays"
    gallery.visit(1, trace(50, encoder="f" * 16), NOW, LONG)
    assert told(gallery) == [("unknown-1", 1, 1)], "those of another encoder are of no use any more"
    monkeypatch.setattr(module, "MOST", 2)
    for minute in (1, 2, 3):
        gallery.visit(None, trace(minute), NOW + timedelta(minutes=minute), LONG)
    assert [name for name, _, _ in told(gallery)] == ["unknown-4", "unknown-3"]


def test_an_unknown_gets_a_name_and_that_can_be_undone(gallery):
    for seed in (1, 2):
        gallery.visit(None if seed == 1 else 1, trace(seed), NOW, LONG)
    gallery.visit(None, trace(3), NOW, LONG)
    assert gallery.enrol(1, "Alice") == 2
    embeddings, names = gallery.templates(BUNDLE)
    assert names == ["Alice", "Alice"]
    np.testing.assert_array_equal(embeddings, [row(1), row(2)])
    assert {entry.template.source for entry in gallery.entries("Alice")} == {"unknown-1"}
    assert told(gallery) == [("unknown-2", 1, 1)]
    assert (gallery.audit()[-1].verb, gallery.audit()[-1].detail) == ("name", "unknown-1, 2 templates")
    assert gallery.enrol(2, "Alice", more=True) == 3
    gallery.undo()
    gallery.undo()
    assert (gallery.people(), sorted(told(gallery))) == ([], [("unknown-1", 1, 2), ("unknown-2", 1, 1)])
    np.testing.assert_array_equal(gallery.traces(BUNDLE)[0], [row(1), row(2), row(3)])
    gallery.add("Bob", [Template(row(9), ENCODER, 1, "mtcnn", 0.9, "a.jpg")])
    for number, name, wrong in ((7, "Alice", "there is no unknown-7: enroll.py unknowns"), (1, "Bob", "already"), (1, "", "empty")):
        with pytest.raises(InputError, match=wrong):
            gallery.enrol(number, name)
    gallery.visit(None, trace(5, encoder="f" * 16), NOW, LONG)
    with pytest.raises(StoredError, match="holds templates of encoder"):
        gallery.enrol(3, "Carol")
    assert [person.name for person in gallery.people()] == ["Bob"]


def files_contain(folder: Path, content: bytes) -> list[str]:
    return [path.name for path in folder.iterdir() if content in path.read_bytes()]


def test_the_forgotten_and_the_expired_are_in_no_file(tmp_path):
    path, past = tmp_path / "gallery.db", datetime.now(timezone.utc) - timedelta(days=2)
    with Gallery(path, create=True) as gallery:
        gallery.visit(None, trace(1), NOW, LONG)
        gallery.visit(None, trace(2), NOW, LONG)
        gallery.visit(None, trace(3), past, 1)
        assert all(files_contain(tmp_path, row(seed).tobytes()) for seed in (1, 2, 3))
        with pytest.raises(InputError, match="there is no unknown-9"):
            gallery.forget([1, 9])
        assert gallery.forget([1]) == 1
        assert files_contain(tmp_path, row(1).tobytes()) == [] != files_contain(tmp_path, row(2).tobytes())
    with Gallery(path) as gallery:  # whoever opens it lets go of those whose time is over
        assert [name for name, _, _ in told(gallery)] == ["unknown-2"]
        assert files_contain(tmp_path, row(3).tobytes()) == []
        assert gallery.forget() == 1
        gallery.visit(None, trace(4), past, 1)
        gallery.expire()
        assert told(gallery) == [] == files_contain(tmp_path, row(4).tobytes())
        assert gallery.visit(None, trace(5), NOW, LONG)[0].number == 5, "a number is never given twice"


def test_who_was_named_is_really_gone_when_removed(tmp_path):
    with Gallery(tmp_path / "gallery.db", create=True) as gallery:
        gallery.visit(None, trace(1), NOW, LONG)
        gallery.enrol(1, "Alice")
        gallery.remove("Alice")
        assert files_contain(tmp_path, row(1).tobytes()) == files_contain(tmp_path, b"Alice") == []


def test_strangers_are_sealed_like_people(tmp_path):
    with Gallery(tmp_path / "gallery.db", create=True) as gallery:
        gallery.visit(None, trace(1), NOW, LONG)
        gallery.encrypt(KEY)
        assert files_contain(tmp_path, row(1).tobytes()) == []
        np.testing.assert_array_equal(gallery.traces(BUNDLE)[0], [row(1)])
        gallery._db.execute("UPDATE trace SET unknown = 2, embedding = embedding WHERE 0")
        gallery._db.execute("UPDATE trace SET embedding = zeroblob(length(embedding))")
        with pytest.raises(StoredError, match="has changed"):
            gallery.traces(BUNDLE)


def test_a_changed_embedding_is_told(tmp_path):
    with Gallery(tmp_path / "gallery.db", create=True) as gallery:
        gallery.visit(None, trace(1), NOW, LONG)
        for blob in (b"", bytes(5), bytes(64)):
            gallery._db.execute("UPDATE trace SET embedding = ?", (blob,))
            with pytest.raises(StoredError, match="damaged"):
                gallery.seen(1)


def test_numbers_are_written_with_or_without_their_word():
    assert unknown_number("unknown-7") == unknown_number("7") == 7
    for word in ("Alice", "unknown-", "-1", "unknown-1.5", "\u0667", "9" * 30):
        with pytest.raises(InputError, match="no number of an unknown"):
            unknown_number(word)
