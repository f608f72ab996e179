import numpy as np
import pytest

from device.gallery import Gallery, Template
from device.program import InputError, StoredError
from device.vault import Broken, Vault, find_key, read_key

KEY, OTHER = bytes(range(32)), bytes(range(1, 33))
NAME, SOURCE = "Margarethe von Sorgenfrei", "sorgenfrei.jpg"


def template(seed: int = 0, crop: bool = True) -> Template:
    row = np.random.default_rng(seed).normal(size=128).astype(np.float32)
    picture = np.random.default_rng(seed).integers(0, 256, (112, 112, 3), np.uint8) if crop else None
    return Template(row / np.linalg.norm(row), "0" * 16, 1, "mtcnn", 0.9, SOURCE, crop=picture)


@pytest.fixture
def path(tmp_path):
    """An encrypted gallery, one person in it."""
    path = tmp_path / "folder" / "gallery.db"
    with Gallery(path, create=True, key=KEY) as gallery:
        gallery.add(NAME, [template(1), template(2)])
    return path


def test_what_was_sealed_opens_with_the_key_and_where_it_belongs_alone():
    vault = Vault(KEY, b"salt")
    sealed = vault.seal(b"plain", "here")
    assert vault.unseal(sealed, "here") == b"plain" and b"plain" not in sealed
    assert vault.seal(b"plain", "here") != sealed  # another nonce
    changed = [sealed[:place] + bytes([sealed[place] ^ 1]) + sealed[place + 1 :] for place in range(len(sealed))]
    for wrong, about in [
        (sealed, "there"),
        (sealed[:-1], "here"),
        (sealed[:5], "here"),
        (b"", "here"),
        *((one, "here") for one in changed),
    ]:
        with pytest.raises(Broken):
            vault.unseal(wrong, about)
    for other in (Vault(OTHER, b"salt"), Vault(KEY, b"pepper")):
        with pytest.raises(Broken):
            other.unseal(sealed, "here")
        assert other.tag("Ada") != vault.tag("Ada") == Vault(KEY, b"salt").tag("Ada")


@pytest.mark.parametrize("content", [KEY, KEY.hex().encode(), KEY.hex().upper().encode() + b"\n"])
def test_a_key_is_bytes_or_hexadecimal_digits(tmp_path, content):
    (tmp_path / "key").write_bytes(content)
    assert read_key(tmp_path / "key") == KEY


@pytest.mark.parametrize("content", [b"", b"secret", KEY + b"\n" + KEY, KEY.hex().encode()[:-2], b"\xff" * 64])
def test_what_is_no_key_is_told(tmp_path, content):
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(InputError, match=r"is not a key.*openssl rand"):
        read_key(tmp_path / "key")
    with pytest.raises(InputError, match=r"none cannot be read .*--key-file"):
        read_key(tmp_path / "none")


def test_a_key_is_found_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.delenv("OMOKAGE_KEY_FILE", raising=False)
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    assert find_key() is None
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert find_key() is None  # a service without this credential
    (tmp_path / "omokage-key").write_bytes(KEY)
    assert find_key() == KEY
    (tmp_path / "mine").write_bytes(OTHER)
    monkeypatch.setenv("OMOKAGE_KEY_FILE", str(tmp_path / "mine"))
    assert find_key() == OTHER
    assert find_key(tmp_path / "omokage-key") == KEY


def test_an_encrypted_gallery_shows_neither_names_nor_embeddings_nor_crops(path):
    traces = [NAME.encode(), SOURCE.encode(), template(1).embedding[:4].tobytes(), b"\x89PNG"]
    with Gallery(path, key=KEY) as gallery:
        gallery.rename(NAME, "Ada")
        gallery.rename("Ada", NAME)
        content = b"".join(file.read_bytes() for file in path.parent.iterdir())
        assert [trace for trace in traces if trace in content] == []
        first, second = gallery.entries(NAME, crops=True)
        assert [person.name for person in gallery.people()] == [NAME] and first.template.source == SOURCE
        for entry, seed in ((first, 1), (second, 2)):
            np.testing.assert_array_equal(entry.template.embedding, template(seed).embedding)
            np.testing.assert_array_equal(entry.template.crop, template(seed).crop)


def test_a_wrong_key_a_lost_one_and_one_too_many_are_told(path, tmp_path):
    with pytest.raises(StoredError, match="was encrypted with another key: give the right one"):
        Gallery(path, key=OTHER)
    with pytest.raises(StoredError, match="is encrypted: give its key with --key-file"):
        Gallery(path)
    Gallery(tmp_path / "plain.db", create=True).close()
    with Gallery(tmp_path / "plain.db") as plain:
        plain.add("Ada", [template()])
    with pytest.raises(InputError, match="is not encrypted, but a key was given: encrypt it with"):
        Gallery(tmp_path / "plain.db", key=KEY)


def test_a_key_of_the_environment_is_used_everywhere(path, tmp_path, monkeypatch):
    (tmp_path / "key").write_text(KEY.hex())
    monkeypatch.setenv("OMOKAGE_KEY_FILE", str(tmp_path / "key"))
    with Gallery(path) as gallery:
        assert gallery.encrypted and [person.templates for person in gallery.people()] == [2]


@pytest.mark.parametrize("table, column", [("person", "sealed"), ("person", "name"), *(("template", name) for name in (
    "embedding", "source", "person", "encoder", "preprocessing")), ("crop", "picture")])  # fmt: skip
def test_a_changed_byte_is_told_and_never_taken_for_a_face(path, table, column):
    with Gallery(path, key=KEY) as gallery:
        gallery.add("Ada", [template(3)])
        value = gallery._db.execute(f"SELECT {column} FROM {table} WHERE rowid = 1").fetchone()[0]
        changed = {"name": "00", "person": 2, "encoder": "1" * 16, "preprocessing": 7}.get(column)
        if changed is None:
            changed = value[:20] + bytes([value[20] ^ 1]) + value[21:]
        gallery._db.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = 1", (changed,))
        with pytest.raises(StoredError, match=r"damaged .what is sealed in it has changed"):
            for person in gallery.people():
                gallery.entries(person.name, crops=True)


def test_a_plain_gallery_becomes_encrypted_changes_its_key_and_becomes_plain(tmp_path):
    path = tmp_path / "gallery.db"
    traces = [NAME.encode(), SOURCE.encode(), template(1).embedding[:4].tobytes(), b"\x89PNG"]

    def found() -> int:
        return sum(trace in b"".join(file.read_bytes() for file in tmp_path.iterdir()) for trace in traces)

    with Gallery(path, create=True) as gallery:
        gallery.add("Ada", [template(1)])
        gallery.rename("Ada", NAME)
        assert found() == len(traces)
        gallery.encrypt(KEY)
        assert found() == 0 and gallery.entries(NAME)[0].template.source == SOURCE
        with pytest.raises(InputError, match="nothing to undo"):
            gallery.undo()
    with Gallery(path, key=KEY) as gallery:
        gallery.encrypt(OTHER)
        gallery.add("Ada", [template(2)])
    with pytest.raises(StoredError, match="another key"):
        Gallery(path, key=KEY)
    with Gallery(path, key=OTHER) as gallery:
        gallery.encrypt(None)
    with Gallery(path) as gallery:
        assert [person.name for person in gallery.people()] == ["Ada", NAME] and not gallery.encrypted
        np.testing.assert_array_equal(gallery.entries(NAME, crops=True)[0].template.crop, template(1).crop)


def test_all_verbs_work_on_an_encrypted_gallery(path):
    with Gallery(path, key=KEY) as gallery:
        gallery.split(NAME, "Ada", [gallery.entries(NAME)[0].number])
        gallery.deny("Ada", [template(9, crop=False)])
        assert gallery.merge("Ada", NAME) == 2
        gallery.undo()
        assert [(person.name, person.templates) for person in gallery.people()] == [("Ada", 1), (NAME, 1)]
        gallery.keep("threshold", gallery.change(), b"0.4")
        assert gallery.derived("threshold") == (gallery.change(), b"0.4")
        assert gallery.remove(NAME) == 1 and gallery.derived("threshold") is None
        np.testing.assert_array_equal(gallery.entries("Ada")[0].template.embedding, template(1).embedding)
