import sqlite3
import stat
import tempfile
import threading
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device import gallery as module
from device.bundle import Bundle
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
        bundle = Bundle(
            Path("other"), {"encoder": other.encoder, "dimension": 128, "preprocessing": {"version": other.preprocessing}}
        )
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
    with pytest.raises(StoredError, match="the person is removed, but another program reads"):
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
    with pytest.raises(StoredError, match="has schema 99, this program reads up to 1: update Omokage"):
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
        assert gallery._db.execute("PRAGMA user_version").fetchone() == (1,)
        assert not gallery._db.execute("SELECT * FROM sqlite_master WHERE name = 'extra'").fetchall()
    whole = (*module.MIGRATIONS, ("CREATE TABLE extra (id INTEGER)",))
    monkeypatch.setattr(module, "MIGRATIONS", whole)
    with Gallery(path) as gallery:
        assert gallery._db.execute("PRAGMA user_version").fetchone() == (2,)
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


verbs = st.tuples(st.sampled_from(["add", "more", "remove", "reopen"]), st.sampled_from(["Ada", "Zoë", "Бо"]), st.integers(1, 3))


@settings(max_examples=40, deadline=None)
@given(st.lists(verbs, max_size=12))
def test_any_sequence_of_verbs_does_what_a_dictionary_would(sequence):
    model: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        opened = Gallery(Path(folder) / "gallery.db", create=True)
        for verb, name, count in sequence:
            if verb == "reopen":
                opened.close()
                opened = Gallery(Path(folder) / "gallery.db")
                continue
            refused = (verb == "add") == (name in model)
            try:
                if verb == "remove":
                    assert opened.remove(name) == model.pop(name)
                else:
                    total = opened.add(name, [template(seed) for seed in range(count)], more=verb == "more")
                    model[name] = model.get(name, 0) + count
                    assert total == model[name]
                assert not refused
            except InputError:
                assert refused
            assert {person.name: person.templates for person in opened.people()} == model
            assert len(opened.templates(BUNDLE)[1]) == sum(model.values())
        opened.close()
