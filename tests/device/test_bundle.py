import contextlib
import json
import shutil
from pathlib import Path

import pytest

from device import bundle
from device.program import InputError, StoredError


def test_the_shipped_bundle_loads_and_follows_its_contract(bundle_path, validate):
    shipped = bundle.load(bundle_path)
    validate(shipped.manifest, "manifest")
    assert shipped.encoder == bundle.sha256(bundle_path / "encoder.tflite")[:16]
    assert 0 < shipped.threshold() < 1
    assert shipped.output.scale > 0


def test_a_bundle_is_found_by_name_by_folder_and_as_the_newest(bundle_path, copied_bundle, monkeypatch):
    assert bundle.find(bundle_path.name).path == bundle_path
    assert bundle.find(str(bundle_path)).path == bundle_path
    made = bundle.load(bundle_path).manifest["made"]
    older = copied_bundle("older", made=made | {"time": "2001-01-01T00:00:00Z"})
    newer = copied_bundle("newer", made=made | {"time": "2999-01-01T00:00:00Z"})
    monkeypatch.setattr(bundle, "MODELS", newer.parent)
    assert bundle.find(None).path == newer
    assert bundle.find("older").path == older


def test_what_is_no_bundle_is_told(tmp_path, astronaut, bundle_path, monkeypatch):
    for path in (tmp_path, tmp_path / "none", astronaut, bundle_path / "encoder.tflite"):
        with pytest.raises(InputError, match=r"is not a bundle \(it holds no manifest.json\)"):
            bundle.load(path)
    with pytest.raises(InputError, match="is not a bundle"):
        bundle.find("no-such-name")
    monkeypatch.setattr(bundle, "MODELS", tmp_path)
    with pytest.raises(StoredError, match="holds no bundle"):
        bundle.find(None)


@pytest.mark.parametrize("missing", ["schema", "name", "encoder", "dimension", "files", "output", "preprocessing", "thresholds", "made"])
def test_a_manifest_without_what_is_needed_is_damaged(copied_bundle, missing):
    path = copied_bundle()
    manifest = json.loads((path / "manifest.json").read_text())
    del manifest[missing]
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(StoredError, match=r"manifest.json is damaged"):
        bundle.load(path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"schema": "1"}', b'{"schema": 1, "files": 3}'])
def test_a_manifest_that_is_none_is_damaged(copied_bundle, content):
    path = copied_bundle()
    (path / "manifest.json").write_bytes(content)
    with pytest.raises(StoredError, match=r"manifest.json is damaged"):
        bundle.load(path)


@pytest.mark.parametrize("told", [3, [], {"models": 3}, {"models": {"CARD.md": 3}}, {"models": {"CARD.md": {"source": []}}}])
def test_a_manifest_that_does_not_tell_what_was_compiled_is_damaged(copied_bundle, told):
    with pytest.raises(StoredError, match=r"manifest.json is damaged"):
        bundle.load(copied_bundle(edgetpu=told))


def test_a_compiled_model_is_that_of_its_source_alone(copied_bundle, own_detector, bundle_path):
    digest = bundle.sha256(own_detector.model)
    told = {"models": {"CARD.md": {"source": digest}, "encoder.tflite": {"runtime": "14"}}}
    used = bundle.load(copied_bundle(edgetpu=told))
    assert used.compiled(own_detector.model) == used.path / "CARD.md"
    assert used.compiled(used.path / bundle.ENCODER) is None
    elsewhere = {"models": {"../CARD.md": {"source": digest}}}
    assert bundle.load(copied_bundle("elsewhere", edgetpu=elsewhere)).compiled(own_detector.model) is None
    assert bundle.load(bundle_path).compiled(own_detector.model) is None


def test_a_changed_file_is_found(copied_bundle):
    path = copied_bundle()
    content = bytearray((path / "encoder.tflite").read_bytes())
    content[len(content) // 2] ^= 1
    (path / "encoder.tflite").write_bytes(content)
    with pytest.raises(StoredError, match=r"encoder.tflite is damaged"):
        bundle.load(path)
    (path / "encoder.tflite").unlink()
    with pytest.raises(StoredError, match=r"encoder.tflite is missing"):
        bundle.load(path)


def test_a_manifest_of_another_encoder_is_found(copied_bundle):
    with pytest.raises(StoredError, match="names another encoder"):
        bundle.load(copied_bundle(encoder="0123456789abcdef"))


def test_a_newer_schema_is_told(copied_bundle):
    with pytest.raises(StoredError, match="schema 2, this program reads up to 1: update Omokage"):
        bundle.load(copied_bundle(schema=2))


def test_a_manifest_may_not_name_files_elsewhere(copied_bundle, bundle_path):
    files = bundle.load(bundle_path).manifest["files"]
    outside = {"../copy/encoder.tflite": files["encoder.tflite"]}
    with pytest.raises(StoredError, match="a file outside the bundle"):
        bundle.load(copied_bundle(files=files | outside))


def test_a_rate_that_nobody_measured_is_told_with_those_that_are(bundle_path):
    with pytest.raises(InputError, match=r"no threshold for the false-accept rate 0.5: choose one of .*0.001"):
        bundle.load(bundle_path).threshold(0.5)


def facts(path: Path) -> dict:
    """What `bundle.write` wants to know, taken from the bundle `path`."""
    return {key: value for key, value in bundle.load(path).manifest.items() if key not in ("schema", "encoder", "files")}


def test_a_written_bundle_loads(bundle_path, tmp_path, validate):
    written = bundle.write(tmp_path / "new" / "mine", [bundle_path / "encoder.tflite"], facts(bundle_path))
    assert written.path == tmp_path / "new" / "mine"
    assert written.encoder == bundle.load(bundle_path).encoder
    validate(written.manifest, "manifest")
    with pytest.raises(InputError, match="exists, and a bundle is never changed in place"):
        bundle.write(tmp_path / "new" / "mine", [bundle_path / "encoder.tflite"], facts(bundle_path))
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["mine"]


def test_a_bundle_that_would_not_load_is_not_written(bundle_path, tmp_path):
    incomplete = facts(bundle_path)
    del incomplete["dimension"]
    with pytest.raises(StoredError):
        bundle.write(tmp_path / "new" / "mine", [bundle_path / "encoder.tflite"], incomplete)
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize("step", ["copyfile", "copy2"])
def test_a_bundle_appears_whole_or_not_at_all(bundle_path, tmp_path, monkeypatch, step):
    """Whatever step of writing it a full disk stops."""
    monkeypatch.setattr(shutil, step, lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with contextlib.suppress(OSError):
        bundle.write(tmp_path / "new" / "mine", [bundle_path / "encoder.tflite"], facts(bundle_path))
    for path in (tmp_path / "new").iterdir():
        bundle.load(path)


def test_a_written_bundle_may_be_read_by_others(bundle_path, tmp_path):
    written = bundle.write(tmp_path / "mine", [bundle_path / "encoder.tflite"], facts(bundle_path))
    (tmp_path / "ordinary").mkdir()
    assert written.path.stat().st_mode == (tmp_path / "ordinary").stat().st_mode
