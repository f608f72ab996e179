import json

import pytest

from device.program import StoredError
from train import runs


def stage(folder, init, *losses):
    folder.mkdir(parents=True)
    config = {"crops": ["/home/somebody/faces.zip"], "init": init, "rate": 0.1}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "metrics.jsonl").write_text("".join(json.dumps({"loss": loss}) + "\n" for loss in losses))
    return folder


def test_the_history_follows_the_starts_and_names_no_folder(tmp_path):
    first = stage(tmp_path / "first", "random", 3.0)
    second = stage(tmp_path / "second", str(first), 2.0, 1.0)
    found = runs.history(second / "encoder.keras")
    assert [(entry["run"], [epoch["loss"] for epoch in entry["epochs"]]) for entry in found] == [("first", [3.0]), ("second", [2.0, 1.0])]
    assert found[1]["settings"] == {"crops": ["faces.zip"], "init": "first", "rate": 0.1}
    assert "somebody" not in json.dumps(found) and str(tmp_path) not in json.dumps(found)


def test_an_encoder_of_no_run_has_no_history(tmp_path):
    assert runs.history(tmp_path / "encoder.keras") == []


def test_a_damaged_run_is_told(tmp_path):
    (stage(tmp_path / "run", None) / "config.json").write_text("{")
    with pytest.raises(StoredError, match="is damaged"):
        runs.history(tmp_path / "run" / "encoder.keras")
