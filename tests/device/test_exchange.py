import json
import stat

import numpy as np
import pytest

from device import exchange
from device.coverage import Look
from device.gallery import Gallery, Template
from device.program import InputError, StoredError

KEY = bytes(range(32))


def template(seed: int = 0, crop: bool = False, look: Look | None = None) -> Template:
    row = np.random.default_rng(seed).normal(size=128).astype(np.float32)
    picture = np.random.default_rng(seed).integers(0, 256, (112, 112, 3), np.uint8) if crop else None
    return Template(row / np.linalg.norm(row), "0" * 16, 1, "mtcnn", 0.5 + seed / 100, f"picture-{seed}.jpg", look, picture)


@pytest.fixture
def gallery(tmp_path):
    with Gallery(tmp_path / "gallery.db", create=True) as opened:
        opened.add("Zoë/🙂 O'Brien", [template(1, crop=True, look=Look(0.1, -0.2, 99.5, 0.0)), template(2)])
        opened.add("Ada", [template(3)])
        opened.deny("Ada", [template(4)])
        opened.deny(None, [template(5)])
        yield opened


def content(gallery: Gallery) -> list[tuple]:
    """All that tells about people, comparable."""
    return [
        (name, t.embedding.tobytes(), t.source, t.quality, t.look, t.denies, None if t.crop is None else t.crop.tobytes())
        for name in (None, *(person.name for person in gallery.people()))
        for t in (entry.template for entry in gallery.entries(name, crops=True))
    ]


@pytest.mark.parametrize("key", [None, KEY])
def test_what_was_exported_is_imported_again(gallery, tmp_path, key):
    path = tmp_path / "people.json"
    assert exchange.export(gallery, path, key=key) == 2
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert (b"picture-1.jpg" in path.read_bytes()) == (key is None)
    with Gallery(tmp_path / "other.db", create=True) as other:
        assert other.load(exchange.read(path, key)) == 5
        assert content(other) == content(gallery)
        other.undo()
        assert other.people() == [] and content(other) == []


def test_embeddings_only_tell_no_name_and_no_source(gallery, tmp_path):
    path = tmp_path / "people.json"
    exchange.export(gallery, path, embeddings_only=True)
    text = path.read_text()
    assert not any(word in text for word in ("Ada", "Brien", "picture", "crop"))
    people = exchange.read(path)
    assert [(name, len(templates)) for name, templates in people] == [(None, 1), ("somebody 2", 2), ("somebody 3", 2)]


def test_an_import_changes_all_or_nothing(gallery, tmp_path):
    exchange.export(gallery, tmp_path / "people.json")
    before, people = content(gallery), exchange.read(tmp_path / "people.json")
    with pytest.raises(InputError, match="is in the gallery already"):
        gallery.load([("New", [template(8)]), *people])
    assert content(gallery) == before
    assert gallery.load(people, more=True) == 10
    gallery.undo()
    assert content(gallery) == before
    foreign = Template(template(1).embedding, "f" * 16, 1, "mtcnn", 0.9, "a.jpg")
    with pytest.raises(StoredError, match="holds templates of encoder"):
        gallery.load([("New", [template(8)]), ("Newer", [foreign])])
    assert content(gallery) == before


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[]",
        lambda text: '{"omokage": "else"}',
        lambda text: text.replace('"embedding": "', '"embedding": "AAAA'),
        lambda text: text.replace('"denies"', '"other"'),
        lambda text: text.replace('"crop": "', '"crop": "AAAA'),
    ],
)
def test_a_damaged_export_is_told(gallery, tmp_path, change):
    path = tmp_path / "people.json"
    exchange.export(gallery, path)
    path.write_text(change(path.read_text()))
    with pytest.raises(StoredError, match="is not an export of a gallery or is damaged"):
        exchange.read(path)


def test_other_bad_exports_are_told(gallery, tmp_path):
    path = tmp_path / "people.json"
    with pytest.raises(InputError, match="cannot be read"):
        exchange.read(path)
    path.write_bytes(b"\x00\xff\x00")
    with pytest.raises(StoredError, match="is not an export"):
        exchange.read(path)
    path.write_text(json.dumps({"omokage": "gallery", "schema": 99, "people": []}))
    with pytest.raises(StoredError, match="has schema 99, this program reads up to 1: update Omokage"):
        exchange.read(path)
    exchange.export(gallery, path, key=KEY)
    with pytest.raises(InputError, match="is sealed: give the key"):
        exchange.read(path)
    with pytest.raises(StoredError, match="sealed with another key, or has changed"):
        exchange.read(path, bytes(32))
    changed = bytearray(path.read_bytes())
    changed[-1] ^= 1
    path.write_bytes(changed)
    with pytest.raises(StoredError, match="sealed with another key, or has changed"):
        exchange.read(path, KEY)
    with pytest.raises(InputError, match=r"cannot write .*is a folder"):
        exchange.export(gallery, tmp_path)


def test_a_backup_is_a_whole_gallery_in_one_file(gallery, tmp_path):
    path = tmp_path / "copies" / "copy.db"
    exchange.backup(gallery, path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and [file.name for file in path.parent.iterdir()] == ["copy.db"]
    gallery.remove("Ada")
    with Gallery(path) as copy:
        assert [person.name for person in copy.people()] == ["Ada", "Zoë/🙂 O'Brien"]
    exchange.backup(gallery, path)  # in place of the older one
    with Gallery(path) as copy:
        assert content(copy) == content(gallery)
        assert [change.verb for change in copy.audit()][-2:] == ["remove", "backup"]
    with pytest.raises(InputError, match="is the gallery itself"):
        exchange.backup(gallery, gallery.path)
