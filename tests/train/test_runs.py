import json
import sys
from dataclasses import dataclass, replace

import pytest
import tensorflow as tf

from device.program import InputError, Parser, StoredError
from train import runs


@dataclass(frozen=True)
class Told:
    """A training's settings, of every kind that there is."""

    crops: tuple[str, ...] = ("faces of Zoë.zip", 'C:\\"more"')
    init: str | None = None
    batch: int = 4
    epochs: int = 2
    warmup: float = 0.0
    weight_decay: float = 1e-4
    rate: float = 1.0
    precision: str = "float32"
    seed: int = 0
    save_every: float = 5.0
    predictor: bool = True


def asked(*words):
    parser = Parser("")
    runs.add_arguments(parser, Told)
    return runs.asked(parser.parse_args(list(map(str, words))), Told)


def test_settings_are_kept_as_a_person_would_write_them(tmp_path):
    run = runs.Run.create(tmp_path / "run", Told(seed=3))
    assert runs.Run.open(tmp_path / "run").settings(Told) == Told(seed=3)
    lines = (run.path / "config.toml").read_text("utf-8").splitlines()
    assert {"seed = 3", "rate = 1.0", "weight_decay = 0.0001", "predictor = true"} <= set(lines)
    assert not any(line.startswith("init") for line in lines), "what is not set is not there"
    with pytest.raises(InputError, match="is in use"):
        runs.Run.create(tmp_path / "run", Told())


def test_a_resumed_run_has_its_own_settings_but_for_how_it_is_kept(tmp_path):
    told, out = asked("--out", tmp_path / "run", "--batch", 8)
    assert told == Told(batch=8) and out == tmp_path / "run"
    runs.Run.create(out, replace(told, save_every=1.0))
    assert asked("--resume", out, "--batch", 99)[0] == Told(batch=8, save_every=1.0)
    assert asked("--resume", out, "--save-every", 0.5)[0] == Told(batch=8, save_every=0.5)


def test_what_is_said_meanwhile_is_in_the_log_too(tmp_path, capsys):
    run = runs.Run.create(tmp_path / "run", Told())
    with pytest.raises(InputError), run.logged():
        print("half way", file=sys.stderr)
        raise InputError("too few crops", "add some")
    assert capsys.readouterr().err == "half way\n"
    begun, said, how, ended = (run.path / "log").read_text().splitlines()
    assert begun.startswith("begun 2") and begun.endswith(tf.__version__) and ended.startswith("ended 2")
    assert (said, how) == ("half way", "InputError too few crops: add some")
    with run.logged():
        print("again", file=sys.stderr)
    assert "again" in (run.path / "log").read_text() and "half way" in (run.path / "log").read_text()


def test_a_log_that_cannot_be_written_stops_nothing(tmp_path, capsys):
    run = runs.Run.create(tmp_path / "run", Told())
    (run.path / "log").mkdir()
    with run.logged():
        print("said", file=sys.stderr)
    assert capsys.readouterr().err == "said\n"


def test_figures_that_cannot_be_read_are_told(tmp_path):
    run = runs.Run.create(tmp_path / "run", Told())
    assert run.epochs() == []
    run.record([{"epoch": 1, "loss": 0.5}])
    assert run.epochs() == [{"epoch": 1, "loss": 0.5}]
    (run.path / "metrics.jsonl").write_text('{"epoch": 1')
    with pytest.raises(StoredError, match=r"metrics\.jsonl is damaged"):
        run.epochs()


def stage(folder, init, *losses):
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(f'crops = ["/home/somebody/faces.zip"]\ninit = "{init}"\nrate = 0.1\n')
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
    (stage(tmp_path / "run", None) / "config.toml").write_text("{")
    with pytest.raises(StoredError, match="is damaged"):
        runs.history(tmp_path / "run" / "encoder.keras")
