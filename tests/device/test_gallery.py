import itertools
import os
import sqlite3
import stat
import tempfile
import threading
import unicodedata
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import gallery_crashes
from device import store as module
from device.bundle import Bundle
from device.coverage import Look
from device.gallery import Gallery, Template, default_path, valid_name
from device.program import InputError, StoredError

ENCODER = "0123456789abcdef"
BUNDLE = Bundle(Path("bundle"), {"encoder": ENCODER, "dimension": 128, "preprocessing": {"version": 1}})


def template(seed: int = 0, encoder: str = ENCODER, preprocessing: int = 1) -> Template:
    embedding = np.random.default_rng(seed).normal(size=128).astype(np.float32)
    return Template(embedding / np.linalg.norm(embedding), encoder, preprocessing, "mtcnn", 0.9, f"picture-{seed}.jpg")


@pytest.fixture
def gallery(tmp_path):
    with Gallery(tmp_path / "gallery.db", create=True) as opened:
        yield opened


def test_people_and_their_embeddings_come_back(gallery):
    assert gallery.people() == [] and gallery.encoder() is None
    assert gallery.add("Grace", [template(1)]) == 1
    assert gallery.add("Eileen", [template(2), template(3)]) == 2
    assert [(person.name, person.templates) for person in gallery.people()] == [("Eileen", 2), ("Grace", 1)]
    embeddings, names = gallery.templates(BUNDLE)
    assert names == ["Eileen", "Eileen", "Grace"] and embeddings.dtype == np.float32
    np.testing.assert_array_equal(embeddings, [template(seed).embedding for seed in (2, 3, 1)])
    assert gallery.encoder() == ENCODER


def test_an_empty_gallery_has_no_embeddings(gallery):
    embeddings, names = gallery.templates(BUNDLE)
    assert embeddings.shape == (0, 128) and names == []


def test_it_is_all_there_when_opened_again(tmp_path):
    with Gallery(tmp_path / "gallery.db", create=True) as first:
        first.add("Grace", [template()])
    with Gallery(tmp_path / "gallery.db") as second:
        assert [person.name for person in second.people()] == ["Grace"]


def test_a_name_is_taken_once_and_more_is_for_those_who_are_there(gallery):
    gallery.add("Grace", [template(1)])
    with pytest.raises(InputError, match=r"Grace is in the gallery already: .*--more"):
        gallery.add(" Grace ", [template(2)])
    with pytest.raises(InputError, match="Eileen is not in the gallery: leave --more out"):
        gallery.add("Eileen", [template(2)], more=True)
    created = gallery.people()[0].created
    assert gallery.add("Grace", [template(2)], more=True) == 2
    (grace,) = gallery.people()
    assert (grace.templates, grace.created) == (2, created) and grace.updated >= created
    gallery.add("grace", [template(3)])  # case tells people apart
    assert len(gallery.people()) == 2


def test_names_are_nfc_and_any_script(gallery):
    for name in ("面影 太郎", unicodedata.normalize("NFD", "Zoë"), "O'Brien; DROP TABLE person", "x" * 200):
        gallery.add(name, [template()])
    assert {person.name for person in gallery.people()} == {"面影 太郎", "Zoë", "O'Brien; DROP TABLE person", "x" * 200}
    assert gallery.remove(unicodedata.normalize("NFD", "Zoë")) == 1


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "tab\there", "\x00", "\x1b[31m", "zero\u200bwidth", "\udcff", "x" * 201])
def test_bad_names_are_refused(gallery, name):
    with pytest.raises(InputError, match="the name"):
        gallery.add(name, [template()])
    assert gallery.people() == []


def test_templates_of_another_encoder_or_preprocessing_do_not_mix(gallery):
    with pytest.raises(InputError, match="no template"):
        gallery.add("Grace", [])
    gallery.add("Grace", [template()])
    for other in (template(encoder="f" * 16), template(preprocessing=2)):
        with pytest.raises(StoredError, match=f"holds templates of encoder {ENCODER}"):
            gallery.add("Eileen", [other])
        bundle = Bundle(Path("other"), {"encoder": other.encoder, "dimension": 128, "preprocessing": {"version": other.preprocessing}})
        with pytest.raises(StoredError, match=f"this is {other.encoder}.*--encoder"):
            gallery.templates(bundle)
    assert [person.name for person in gallery.people()] == ["Grace"]


def files_contain(folder: Path, content: bytes) -> list[str]:
    return [path.name for path in folder.iterdir() if content in path.read_bytes()]


@pytest.mark.parametrize("others", [0, 3, 400])
def test_removal_leaves_neither_name_nor_embeddings_in_any_file(tmp_path, others):
    """At once, while the gallery is still open, and after it was closed."""
    name = "Margarethe von Sorgenfrei"
    traces = [name.encode(), template(7).embedding.tobytes(), template(8).embedding[:9].tobytes(), b"picture-7.jpg"]
    with Gallery(tmp_path / "gallery.db", create=True) as gallery:
        for number in range(others):
            if number == others // 2:
                gallery.add(name, [template(7), template(8)])
            gallery.add(f"somebody {number}", [template(1000 + number)])
        if not others:
            gallery.add(name, [template(7), template(8)])
        gallery.add(name, [template(8)], more=True)
        assert all(files_contain(tmp_path, trace) for trace in traces)  # the search would find them
        assert gallery.remove(name) == 3
        assert [files_contain(tmp_path, trace) for trace in traces] == [[]] * 4
        assert len(gallery.people()) == others
    assert [files_contain(tmp_path, trace) for trace in traces] == [[]] * 4


def test_removal_tells_when_a_reader_keeps_traces(gallery, monkeypatch):
    gallery.add("Grace", [template(1)])
    gallery.add("Eileen", [template(2)])
    reader = sqlite3.connect(gallery.path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM template").fetchall()
    gallery._db.execute("PRAGMA busy_timeout = 50")
    monkeypatch.setattr(module, "BUSY", 0.1)
    with pytest.raises(StoredError, match=r"it is done, but another program reads .*, and so traces .*end it; the traces go when"):
        gallery.remove("Grace")
    assert [person.name for person in gallery.people()] == ["Eileen"]
    reader.close()


def test_the_audit_tells_what_was_done_but_no_name(gallery):
    gallery.add("Grace", [template()])
    gallery.remove("Grace")
    with sqlite3.connect(gallery.path) as db:
        rows = db.execute("SELECT verb, person, detail FROM audit ORDER BY id").fetchall()
    db.close()
    assert rows == [("add", 1, "1 templates"), ("remove", 1, "1 templates")]
    with pytest.raises(InputError, match="Grace is not in the gallery: see"):
        gallery.remove("Grace")


def test_a_new_gallery_is_for_its_owner_alone(tmp_path):
    path = tmp_path / "share" / "omokage" / "gallery.db"
    with Gallery(path, create=True) as gallery:
        gallery.add("Grace", [template()])
        modes = {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert modes == {0o600}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_missing_gallery_is_told_and_not_made(tmp_path):
    with pytest.raises(InputError, match=r"the gallery .*none.db is not there"):
        Gallery(tmp_path / "none.db")
    assert list(tmp_path.iterdir()) == []


def test_a_place_where_no_file_can_be_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "gallery.db"):
        with pytest.raises(InputError, match="cannot be made"):
            Gallery(path, create=True)


@pytest.mark.parametrize("content", [b"", b"no database", b"SQLite format 3\x00" + b"\x01" * 500, bytes(5000)])
def test_what_is_no_gallery_is_told_and_left_alone(tmp_path, content):
    path = tmp_path / "gallery.db"
    path.write_bytes(content)
    for create in (False, True) if content else (False,):  # an empty file may become one
        with pytest.raises(StoredError, match="is not a gallery"):
            Gallery(path, create=create)
    assert path.read_bytes() == content


def test_another_program_s_database_is_left_alone(tmp_path):
    with sqlite3.connect(tmp_path / "other.db") as db:
        db.execute("CREATE TABLE note (text)")
    db.close()
    before = (tmp_path / "other.db").read_bytes()
    with pytest.raises(StoredError, match="is not a gallery"):
        Gallery(tmp_path / "other.db", create=True)
    assert (tmp_path / "other.db").read_bytes() == before


def test_a_damaged_gallery_is_told(tmp_path):
    path = tmp_path / "gallery.db"
    with Gallery(path, create=True) as gallery:
        for number in range(50):
            gallery.add(f"somebody {number}", [template(number)])
    content = path.read_bytes()
    path.write_bytes(content[:8192] + b"\xa5" * (len(content) - 8192))
    with pytest.raises(StoredError, match="damaged"), Gallery(path) as gallery:
        gallery.templates(BUNDLE)


def test_a_newer_schema_is_told_and_left_alone(gallery):
    gallery.add("Grace", [template()])
    gallery._db.execute("PRAGMA user_version = 99")
    with pytest.raises(StoredError, match="has schema 99, this program reads up to 3: update Omokage"):
        Gallery(gallery.path)


def test_a_migration_that_fails_changes_nothing(tmp_path, monkeypatch):
    path = tmp_path / "gallery.db"
    with Gallery(path, create=True) as gallery:
        gallery.add("Grace", [template()])
    broken = (*module.MIGRATIONS, ("CREATE TABLE extra (id INTEGER)", "CREATE NONSENSE"))
    with monkeypatch.context() as patch:
        patch.setattr(module, "MIGRATIONS", broken)
        with pytest.raises(InputError):
            Gallery(path)
    with Gallery(path) as gallery:
        assert gallery._db.execute("PRAGMA user_version").fetchone() == (len(module.MIGRATIONS),)
        assert not gallery._db.execute("SELECT * FROM sqlite_master WHERE name = 'extra'").fetchall()
    whole = (*module.MIGRATIONS, ("CREATE TABLE extra (id INTEGER)",))
    monkeypatch.setattr(module, "MIGRATIONS", whole)
    with Gallery(path) as gallery:
        assert gallery._db.execute("PRAGMA user_version").fetchone() == (len(whole),)
        assert [person.name for person in gallery.people()] == ["Grace"]


def test_two_programs_may_add_at_once(tmp_path):
    path = tmp_path / "gallery.db"
    Gallery(path, create=True).close()
    failures = []

    def add(start: int) -> None:
        try:
            with Gallery(path) as gallery:
                for number in range(start, start + 20):
                    gallery.add(f"somebody {number}", [template(number)])
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=add, args=(start,)) for start in (0, 100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with Gallery(path) as gallery:
        assert len(gallery.people()) == 40


def test_a_gallery_that_stays_locked_is_told(gallery, monkeypatch):
    other = sqlite3.connect(gallery.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    gallery._db.execute("PRAGMA busy_timeout = 50")
    with pytest.raises(StoredError, match="is in use by another program"):
        gallery.add("Grace", [template()])
    other.close()
    gallery.add("Grace", [template()])


def test_a_strange_file_name_is_no_trouble(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (":memory:", "100% of?us#.db"):
        with Gallery(Path(name), create=True) as gallery:
            gallery.add("Grace", [template()])
        with Gallery(Path(name)) as gallery:
            assert len(gallery.people()) == 1


def test_the_default_place(monkeypatch, tmp_path):
    monkeypatch.setenv("OMOKAGE_GALLERY", str(tmp_path / "mine.db"))
    assert default_path() == tmp_path / "mine.db"
    monkeypatch.delenv("OMOKAGE_GALLERY")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_path() == tmp_path / ".local/share/omokage/gallery.db"


def test_valid_name_returns_what_is_stored():
    assert valid_name("  Ame\u0301lie ") == "Am\u00e9lie"


def state(gallery: Gallery) -> dict[str | None, list[tuple[str, bool]]]:
    """Who is there, with the sources of their templates and whether these deny; None has the faces to ignore."""
    names = [None, *(person.name for person in gallery.people())]
    return {name: sorted((e.template.source, e.template.denies) for e in gallery.entries(name)) for name in names}


def test_a_person_gets_another_name(gallery):
    gallery.add("Grace", [template(1)])
    gallery.add("Eileen", [template(2)])
    assert gallery.rename("Grace", " Ame\u0301lie ") == "Am\u00e9lie"
    assert [person.name for person in gallery.people()] == ["Am\u00e9lie", "Eileen"]
    for old, new, wrong in (
        ("Grace", "Ada", "Grace is not in"),
        ("Eileen", "Am\u00e9lie", "already: .*merge"),
        ("Eileen", "x" * 201, "the name has"),
    ):
        with pytest.raises(InputError, match=wrong):
            gallery.rename(old, new)
    assert gallery.rename("Eileen", "Eileen") == "Eileen"


def test_two_names_of_one_person_become_one_and_two_people_under_one_name_two(gallery):
    gallery.add("Grace", [template(1), template(2)])
    gallery.add("Gracie", [template(3), template(4)])
    assert gallery.merge("Gracie", "Grace") == 4
    assert [(person.name, person.templates) for person in gallery.people()] == [("Grace", 4)]
    numbers = [entry.number for entry in gallery.entries("Grace")]
    for wrong, more in (([99], "has no template 99: see enroll.py show"), ([], "no template"), (numbers, "all templates")):
        with pytest.raises(InputError, match=more):
            gallery.split("Grace", "Ada", wrong)
    assert gallery.split("Grace", "Ada", numbers[2:]) == 2
    assert state(gallery) == {None: [], "Grace": [("picture-1.jpg", False), ("picture-2.jpg", False)],
                              "Ada": [("picture-3.jpg", False), ("picture-4.jpg", False)]}  # fmt: skip
    for call in (
        lambda: gallery.merge("Ada", "Ada"),
        lambda: gallery.merge("Ada", "Bob"),
        lambda: gallery.split("Grace", "Ada", numbers[:1]),
    ):
        with pytest.raises(InputError):
            call()


def test_what_a_person_is_not_is_kept_apart_and_the_same_picture_goes(gallery):
    gallery.add("Grace", [template(1), template(2)])
    assert gallery.deny("Grace", [template(2), template(3)]) == 1
    assert gallery.deny(None, [template(4)]) == 0
    assert gallery.templates(BUNDLE)[1] == ["Grace"] and gallery.people()[0].templates == 1
    embeddings, names = gallery.denied(BUNDLE)
    assert names == ["Grace", "Grace", None]
    np.testing.assert_array_equal(embeddings, [template(seed).embedding for seed in (2, 3, 4)])
    with pytest.raises(InputError, match="Ada is not in the gallery"):
        gallery.deny("Ada", [template(5)])
    gallery.remove("Grace")
    assert gallery.denied(BUNDLE)[1] == [None]


def test_the_most_redundant_templates_go_where_there_are_too_many(gallery):
    near = replace(template(1), embedding=template(1).embedding + np.float32(0.001), quality=0.1, source="worse.jpg")
    near = replace(near, embedding=near.embedding / np.linalg.norm(near.embedding))
    assert gallery.add("Grace", [template(1), template(2)], most=3) == 2
    assert gallery.add("Grace", [near, template(3)], more=True, most=3) == 3
    assert [entry.template.source for entry in gallery.entries("Grace")] == ["picture-1.jpg", "picture-2.jpg", "picture-3.jpg"]
    gallery.undo()
    assert len(gallery.entries("Grace")) == 2


def test_crops_and_looks_come_back(gallery):
    crop = np.random.default_rng(0).integers(0, 256, (112, 112, 3), np.uint8)
    gallery.add("Grace", [replace(template(1), crop=crop, look=Look(0.1, 0.2, 100.0, -0.3)), template(2)])
    first, second = gallery.entries("Grace", crops=True)
    np.testing.assert_array_equal(first.template.crop, crop)
    assert first.template.look == Look(0.1, 0.2, 100.0, -0.3) and first.kept
    assert second.template.crop is None and second.template.look is None and not second.kept
    assert [entry.kept for entry in gallery.entries("Grace")] == [True, False]


def test_templates_are_made_again_from_crops(gallery):
    crop = np.full((112, 112, 3), 7, np.uint8)
    gallery.add("Grace", [replace(template(1), crop=crop)])
    gallery.add("Eileen", [template(2)])
    newer = Bundle(Path("newer"), {"encoder": "f" * 16, "dimension": 64, "preprocessing": {"version": 1}})

    def embed(crops: np.ndarray) -> np.ndarray:
        assert (crops == 7).all()
        return np.eye(64, dtype=np.float32)[: len(crops)]

    with pytest.raises(InputError, match=r"1 of 2 templates have no crop .*--drop, or enrol again with --keep-crops"):
        gallery.reembed(newer, embed)
    assert gallery.encoder() == ENCODER
    assert gallery.reembed(newer, embed, drop=True) == (1, 1)
    embeddings, names = gallery.templates(newer)
    assert names == ["Grace"] and embeddings.tolist() == np.eye(64)[:1].tolist()
    assert [(person.name, person.templates) for person in gallery.people()] == [("Eileen", 0), ("Grace", 1)]
    gallery.undo()
    assert len(gallery.templates(BUNDLE)[1]) == 2
    other = Bundle(Path("other"), {"encoder": "f" * 16, "dimension": 64, "preprocessing": {"version": 2}})
    with pytest.raises(InputError, match="2 of 2 templates have no crop"):  # one is of another preprocessing
        gallery.reembed(other, embed)


def test_settings_are_remembered_and_undone(gallery):
    assert gallery.setting("far") is None
    gallery.set("far", "0.001")
    gallery.set("far", "0.01")
    gallery.undo()
    assert gallery.setting("far") == "0.001"


def test_what_was_made_from_the_gallery_is_kept_until_somebody_goes(gallery):
    gallery.add("Grace", [template(1)])
    gallery.add("Eileen", [template(2)])
    change = gallery.change()
    gallery.keep("threshold", change, b"0.4")
    gallery.add("Ada", [template(3)])
    assert gallery.derived("threshold") == (change, b"0.4") and gallery.change() == change + 1
    gallery.remove("Grace")
    assert gallery.derived("threshold") is None
    gallery.keep("threshold", change, b"0.4")  # made while Grace was there
    assert gallery.derived("threshold") is None


def test_a_reader_sees_at_once_that_something_changed(gallery):
    with Gallery(gallery.path) as reader:
        before = reader.version()
        assert reader.version() == before
        gallery.add("Grace", [template(1)])
        after = reader.version()
        assert after != before and reader.version() == after
    gallery.path.rename(gallery.path.with_name("moved.db"))
    gallery.path.write_bytes(gallery.path.with_name("moved.db").read_bytes())
    assert gallery.version()[0] != before[0]


def test_the_last_twenty_changes_can_be_taken_back_one_after_the_other(gallery):
    states = [state(gallery)]
    gallery.add("Grace", [template(1), template(2)])
    for number in range(25):
        states.append(state(gallery))
        gallery.rename("Grace" if number == 0 else f"Grace {number - 1}", f"Grace {number}")
    for number in range(20):
        assert gallery.undo().verb == "rename"
        assert state(gallery) == states[-1 - number]
    with pytest.raises(InputError, match="nothing to undo"):
        gallery.undo()


def test_an_undone_enrolment_leaves_no_trace(tmp_path):
    with Gallery(tmp_path / "gallery.db", create=True) as gallery:
        gallery.add("Eileen", [template(1)])
        gallery.add("Margarethe von Sorgenfrei", [template(7)])
        assert gallery.undo().verb == "add"
        for trace in (b"Margarethe", template(7).embedding.tobytes(), b"picture-7.jpg"):
            assert files_contain(tmp_path, trace) == []


def test_a_removal_takes_its_history_along_and_cannot_be_undone(tmp_path):
    with Gallery(tmp_path / "gallery.db", create=True) as gallery:
        gallery.add("Eileen", [template(1)])
        gallery.add("Margarethe von Sorgenfrei", [template(7), template(8)])
        gallery.rename("Margarethe von Sorgenfrei", "Margarethe Sorge")
        gallery.split("Margarethe Sorge", "Sorge junior", [gallery.entries("Margarethe Sorge")[1].number])
        gallery.merge("Sorge junior", "Margarethe Sorge")
        gallery.deny("Margarethe Sorge", [template(8)])
        assert files_contain(tmp_path, b"von Sorgenfrei")  # undo needs it
        gallery.remove("Margarethe Sorge")
        for trace in (b"Sorge", template(7).embedding.tobytes(), template(8).embedding.tobytes(), b"picture-7", b"picture-8"):
            assert files_contain(tmp_path, trace) == []
            assert files_contain(tmp_path, trace.hex().upper().encode()) == []
        with pytest.raises(InputError, match="nothing to undo: a removal"):
            gallery.undo()
        assert [(change.verb, change.person) for change in gallery.audit()][-1] == ("remove", 2)
        gallery.add("Ada", [template(3)])
        assert gallery.audit()[-1].person == 4  # the numbers of those who went are not given again


def test_a_removal_that_was_cut_short_is_finished_when_the_gallery_is_opened_again(tmp_path, monkeypatch):
    path = tmp_path / "gallery.db"
    other = Gallery(path, create=True)  # keeps the write-ahead log there
    with Gallery(path) as gallery, monkeypatch.context() as patch:
        gallery.add("Margarethe", [template(7)])
        patch.setattr(Gallery, "_forget", lambda self, patience=None: None)
        gallery.remove("Margarethe")
    assert files_contain(tmp_path, b"Margarethe")
    Gallery(path).close()
    assert files_contain(tmp_path, b"Margarethe") == [] == files_contain(tmp_path, template(7).embedding.tobytes())
    other.close()


FIRST_SCHEMA = """
CREATE TABLE person (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, created TEXT NOT NULL, updated TEXT NOT NULL);
CREATE TABLE template (
    id INTEGER PRIMARY KEY, person INTEGER NOT NULL REFERENCES person ON DELETE CASCADE,
    embedding BLOB NOT NULL, encoder TEXT NOT NULL, preprocessing INTEGER NOT NULL, detector TEXT NOT NULL,
    quality REAL NOT NULL, source TEXT NOT NULL, created TEXT NOT NULL);
CREATE INDEX template_person ON template (person);
CREATE TABLE setting (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE audit (id INTEGER PRIMARY KEY, time TEXT NOT NULL, verb TEXT NOT NULL, person INTEGER, detail TEXT NOT NULL);
INSERT INTO audit (time, verb, person, detail) VALUES ('2026-11-01T00:00:00.000Z', 'remove', 9, '1 templates');
PRAGMA user_version = 1;
"""


@pytest.mark.parametrize("people", [0, 2])
def test_a_gallery_of_the_first_schema_is_copied_and_brought_up_to_date(tmp_path, people):
    path, time = tmp_path / "gallery.db", "2026-11-01T00:00:00.000Z"
    db = sqlite3.connect(path)
    db.executescript(FIRST_SCHEMA)
    for number in range(1, people + 1):
        db.execute("INSERT INTO person VALUES (?, ?, ?, ?)", (number, f"Zoë {number}", time, time))
        row = (number, template(number).embedding.tobytes(), ENCODER, 1, "mtcnn", 0.9, "Zoë.jpg", time)
        db.execute("INSERT INTO template VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?)", row)
    db.commit()
    db.close()
    with Gallery(path) as gallery:
        assert [(person.name, person.templates, person.created) for person in gallery.people()] == [
            (f"Zoë {number}", 1, time) for number in range(1, people + 1)
        ]
        assert gallery.templates(BUNDLE)[0].tolist() == [template(n).embedding.tolist() for n in range(1, people + 1)]
        (copy,) = gallery.old_copies()
        assert stat.S_IMODE(copy.stat().st_mode) == 0o600
        with sqlite3.connect(copy) as old:
            assert old.execute("PRAGMA user_version").fetchone() == (1,)
            assert old.execute("SELECT count(*) FROM person").fetchone() == (people,)
        old.close()
        gallery.add("Ada", [template(5)])
        assert gallery.audit()[-1].person == 10
        gallery.remove("Ada")
        assert gallery.old_copies() == [] and files_contain(tmp_path, b"Ada") == []


@pytest.mark.parametrize("size", [100, 4096, 5000, 12288])
def test_a_truncated_gallery_is_told(tmp_path, size):
    path = tmp_path / "gallery.db"
    with Gallery(path, create=True) as gallery:
        for number in range(20):
            gallery.add(f"somebody {number}", [template(number)])
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(StoredError, match=r"damaged .*: restore a copy"), Gallery(path) as gallery:
        gallery.people()
        gallery.templates(BUNDLE)
    assert path.stat().st_size == size


def test_an_embedding_that_is_none_is_told(gallery):
    gallery.add("Grace", [template(1)])
    for content in (np.full(128, np.nan, "<f4"), np.zeros(128, "<f4"), template(1).embedding[:64]):
        gallery._db.execute("UPDATE template SET embedding = ?", (content.tobytes(),))
        with pytest.raises(StoredError, match=r"damaged .an embedding"):
            gallery.templates(BUNDLE)


def test_a_full_disk_is_told_and_nothing_is_half_there(gallery):
    gallery.add("Grace", [template(1)])
    pages = gallery._db.execute("PRAGMA page_count").fetchone()[0]
    gallery._db.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(InputError, match=r"cannot be used .*full.*: check its folder, its permissions and the disk"):
        gallery.add("Eileen", [template(seed) for seed in range(2, 30)])
    gallery._db.execute("PRAGMA max_page_count = 100000")
    assert state(gallery) == {None: [], "Grace": [("picture-1.jpg", False)]}
    gallery.add("Eileen", [template(2)])


def test_a_disk_that_is_full_while_a_removal_is_finished_is_told(gallery, monkeypatch):
    gallery.add("Grace", [template(1)])
    gallery.add("Eileen", [template(2)])
    with monkeypatch.context() as patch:
        patch.setattr(Gallery, "_forget", lambda self, patience=None: None)
        gallery.remove("Grace")
    gallery._db.set_authorizer(lambda action, *_: sqlite3.SQLITE_DENY if action == sqlite3.SQLITE_ATTACH else sqlite3.SQLITE_OK)
    with pytest.raises(StoredError, match=r"it is done, but .* and so traces .*; the traces go when the gallery is opened again"):
        gallery._forget()  # VACUUM attaches a temporary database: here it fails
    gallery._finish_forgetting()  # and nobody is kept from opening the gallery
    assert files_contain(gallery.path.parent, b"Grace")
    Gallery(gallery.path).close()
    assert files_contain(gallery.path.parent, b"Grace") == []


def test_a_file_name_of_strange_bytes_is_no_trouble(gallery):
    gallery.add("Grace", [replace(template(1), source=os.fsdecode(b"gr\xe4ce.jpg"))])
    assert gallery.entries("Grace")[0].template.source == "gr\\udce4ce.jpg"


def test_a_read_only_gallery_is_told_and_can_be_read(gallery, monkeypatch):
    gallery.add("Grace", [template(1)])
    connect = sqlite3.connect  # root may write what is read-only: so SQLite is told not to
    monkeypatch.setattr(module.sqlite3, "connect", lambda name, **settings: connect(name.replace("mode=rw", "mode=ro"), **settings))
    with Gallery(gallery.path) as reader:
        assert [person.name for person in reader.people()] == ["Grace"] and len(reader.templates(BUNDLE)[1]) == 1
        for verb in (lambda: reader.add("Eileen", [template(2)]), lambda: reader.remove("Grace"), reader.undo):
            with pytest.raises(InputError, match=r"readonly database.: check its folder, its permissions and the disk"):
                verb()
    assert state(gallery) == {None: [], "Grace": [("picture-1.jpg", False)]}


@pytest.mark.slow
def test_a_gallery_survives_every_kill(tmp_path):
    examiner = gallery_crashes.crash(tmp_path, 24)
    assert examiner.faults == [] and examiner.steps > 0


NAMES = ["Ada", "Zoë", "Бо"]
verbs = st.tuples(
    st.sampled_from(["add", "more", "remove", "rename", "merge", "split", "not", "ignore", "set", "undo", "undo", "reopen"]),
    st.sampled_from(NAMES),
    st.sampled_from(NAMES),
    st.integers(1, 3),
)
Model = dict[str | None, list[tuple[int, int, bool]]]  # of each template a number that grows, its seed, and whether it denies


def follow(model: Model, numbers: Iterator[int], verb: str, name: str, other: str, count: int) -> None:
    """What a verb does to a dictionary. Raises KeyError where it is refused."""
    seeds = [(next(numbers), seed, verb in ("not", "ignore")) for seed in range(count)]
    if (verb in ("more", "remove", "rename", "merge", "split", "not") and name not in model) or (verb == "add" and name in model):
        raise KeyError
    if verb in ("add", "more"):
        model[name] = model.get(name, []) + seeds
    elif verb == "remove":
        del model[name]
    elif verb == "rename":
        if other in model and other != name:
            raise KeyError
        model[other] = model.pop(name)
    elif verb == "merge":
        if other not in model or other == name:
            raise KeyError
        model[other] = model[other] + model.pop(name)
    elif verb == "split":
        own = sorted(entry for entry in model[name] if not entry[2])
        if other in model or len(own) <= count:
            raise KeyError
        model[other] = own[:count]
        for entry in own[:count]:
            model[name].remove(entry)
    else:  # not, ignore
        who = name if verb == "not" else None
        for person in [name] if verb == "not" else model:
            model[person] = [entry for entry in model[person] if entry[2] or entry[1] >= count]
        model[who] = model[who] + seeds


def ask(gallery: Gallery, verb: str, name: str, other: str, count: int) -> None:
    templates = [template(seed) for seed in range(count)]
    if verb in ("add", "more"):
        gallery.add(name, templates, more=verb == "more")
    elif verb == "split":
        ordered = [entry for entry in gallery.entries(name) if not entry.template.denies] if name in known(gallery) else []
        gallery.split(name, other, [entry.number for entry in ordered[:count]])
    elif verb in ("rename", "merge"):
        getattr(gallery, verb)(name, other)
    elif verb in ("not", "ignore"):
        gallery.deny(name if verb == "not" else None, templates)
    elif verb == "remove":
        gallery.remove(name)


def known(gallery: Gallery) -> set[str]:
    return {person.name for person in gallery.people()}


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(st.lists(verbs, min_size=4, max_size=14), st.sampled_from([None, bytes(32)]))
def test_any_sequence_of_verbs_does_what_a_dictionary_would(sequence, key):
    model, numbers = cast(Model, {None: []}), itertools.count()
    history: list[Model] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "gallery.db"
        opened = Gallery(path, create=True, key=key)
        for step, (verb, name, other, count) in enumerate(sequence):
            opened._db.execute("PRAGMA synchronous = OFF")
            before = deepcopy(model)
            if verb == "reopen":
                opened.close()
                opened = Gallery(path, key=key)
            elif verb == "undo":
                if history:
                    opened.undo()
                    model = history.pop()
                else:
                    with pytest.raises(InputError, match="nothing to undo"):
                        opened.undo()
            elif verb == "set":
                opened.set("step", str(step))
                history.append(before)
            else:
                try:
                    follow(model, numbers, verb, name, other, count)
                except KeyError:
                    model = before
                    with pytest.raises(InputError):
                        ask(opened, verb, name, other, count)
                else:
                    ask(opened, verb, name, other, count)
                    history = [] if verb == "remove" else [*history, before]
            assert {name: sorted(row[1:] for row in rows) for name, rows in model.items()} == {
                name: sorted((int(source[8:-4]), denies) for source, denies in rows) for name, rows in state(opened).items()
            }
            embeddings, names = opened.templates(BUNDLE)  # of which it remembers what has not changed
            people = [(p.name, entry.template) for p in opened.people() for entry in opened.entries(p.name) if not entry.template.denies]
            assert names == [name for name, _ in people]
            assert np.array_equal(embeddings, np.array([template.embedding for _, template in people]).reshape(-1, 128))
        opened.close()
