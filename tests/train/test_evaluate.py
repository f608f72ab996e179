import json
import shutil

import cv2
import numpy as np
import pytest

from device.bundle import sha256
from device.program import InputError
from train import evaluate, probes
from train.metrics import Verification


@pytest.fixture
def lfw(tmp_path):
    """A folder like LFW's: 8 people with 2 pictures each, which differ from the other people's by their colour."""
    folder, people = tmp_path / "lfw", tmp_path / "crops"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for person in range(8):
        colour = rng.integers(30, 226, 3)
        for picture in (1, 2):
            path = people / f"P{person}" / f"P{person}_{picture:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), np.clip(colour + rng.normal(0, 6, (112, 112, 3)), 0, 255).astype(np.uint8))
    shutil.make_archive(str(folder / "crops"), "zip", people)
    rows = ["2\t4"]
    for numbers in (range(4), range(4, 8)):
        rows += [f"P{p}\t1\t2" for p in numbers] + [f"P{p}\t1\tP{(p + 1) % 8}\t2" for p in numbers]
    (folder / "pairs.txt").write_text("\n".join(rows) + "\n")
    return folder


def colour_embedding(crops: np.ndarray) -> np.ndarray:
    rows = crops.reshape(len(crops), -1, 3).mean(1) - 128
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def probe(lfw) -> probes.VerificationProbe:
    return probes.VerificationProbe.read(lfw / "crops.zip", lfw / "pairs.txt")


def test_an_encoder_that_sees_the_difference_verifies(lfw, validate):
    verified = evaluate.verify(colour_embedding, probe(lfw))
    assert (verified.pairs, verified.missing) == (16, 0)
    assert verified.result.accuracy > 0.85
    validate(verified.as_json("colour", "pairs.txt"), "verify")


def test_missing_crops_are_counted_and_left_out(lfw, tmp_path):
    (tmp_path / "crops" / "P0" / "P0_0001.png").unlink()
    verified = evaluate.verify(colour_embedding, probes.VerificationProbe.read(tmp_path / "crops", lfw / "pairs.txt"))
    assert (verified.pairs, verified.missing) == (14, 2)


def test_comparing_is_paired():
    def verified(correct):
        folds = np.array([correct.mean()])
        return evaluate.Verified(Verification(correct, folds, np.zeros(1), 1.0, 0.0, {}, np.zeros((2, 0))), len(correct), 0)

    right, worse = np.ones(1000, bool), np.arange(1000) >= 20
    found = evaluate.compare(verified(worse), verified(right))
    assert found["difference"] == pytest.approx(0.02)
    assert 0.01 < found["low"] < 0.02 < found["high"] < 0.03


def test_the_effective_rank_counts_directions():
    rng = np.random.default_rng(0)
    flat = rng.normal(size=(500, 3)) @ rng.normal(size=(3, 32))
    assert 2 < probes.effective_rank(flat) < 3.2
    assert probes.effective_rank(rng.normal(size=(5000, 32))) > 31


@pytest.mark.slow
def test_the_program_on_the_shipped_bundle(lfw, bundle_path, validate, capsys):
    both = ["--encoder", str(bundle_path), "--against", str(bundle_path / "encoder.keras"), "--lfw", str(lfw)]
    assert evaluate.main(["verify", *both, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    validate(found, "verify")
    assert found["against"]["low"] <= found["against"]["difference"] <= found["against"]["high"]
    assert found["against"]["parity"]["mean"] > 0.9
    assert evaluate.main(["verify", "--encoder", str(bundle_path / "encoder.tflite"), "--lfw", str(lfw), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] == found["accuracy"], "a bundle is its .tflite"
    assert evaluate.main(["verify", *both]) == 0
    assert "accuracy" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--encoder", "nowhere.keras"], "nowhere.keras does not exist"),
        (["--encoder", "nowhere"], "nowhere is not a bundle"),
        (["--protocol", "nothing.txt"], "is not an LFW protocol file"),
    ],
)
def test_bad_input(lfw, capsys, arguments, said):
    assert evaluate.main(["verify", "--lfw", str(lfw), *arguments]) == 2
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_no_lfw_folder(tmp_path, capsys):
    assert evaluate.main(["verify", "--lfw", str(tmp_path / "nowhere")]) == 2
    assert "--lfw" in capsys.readouterr().err


@pytest.fixture
def colours(monkeypatch):
    """Encoders by their colours, so that the programs can be tried without a model."""

    def opened(path):
        return evaluate.Encoder(f"colour of {path}", colour_embedding if str(path) != "blind" else blind_embedding)

    monkeypatch.setattr(evaluate, "open_encoder", opened)


def blind_embedding(crops: np.ndarray) -> np.ndarray:
    rows = np.random.default_rng(0).normal(size=(len(crops), 8))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def people(tmp_path):
    """12 people with 5 crops each, which differ from the other people's by their colour; and a cohort of strangers."""
    rng = np.random.default_rng(0)
    for person in range(12):
        write(tmp_path / "people" / f"P{person:02}", rng.integers(0, 256, 3), 5, rng)
    for number in range(30):
        write(tmp_path / "cohort" / f"{number}", rng.integers(0, 256, 3), 1, rng)
    (tmp_path / "cohort.txt").write_text("\n".join(f"cohort/{number}/0" for number in range(30)))
    return tmp_path / "people"


def write(folder, colour: np.ndarray, count: int, rng) -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        cv2.imwrite(str(folder / f"{number}.png"), np.clip(colour + rng.normal(0, 6, (112, 112, 3)), 0, 255).astype(np.uint8))


def identify(people, *more: str) -> list[str]:
    source = ["--people", str(people), "--cohort", str(people.parent / "cohort.txt")]
    return ["identify", *source, "--encoder", "a", "--pictures", "5", "--seeds", "2", "--shots", "1", "3", *more]


def test_identify_as_json_is_one_line_a_result(people, colours, validate, capsys):
    assert evaluate.main(identify(people, "--json", "--against", "blind")) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["shots"], line["classifier"]) for line in lines] == [(1, "knn"), (1, "svm"), (3, "knn"), (3, "svm")]
    for line in lines:
        validate(line, "identify")
        validate(line["against"], "identify")
        assert line["encoder"] == "colour of a" and line["against"]["encoder"] == "colour of blind"
        ours, theirs, share = line["rank1"], line["against"]["rank1"], line["against"]["share"]["rank1"]
        assert ours["mean"] > theirs["mean"]
        assert share is None if theirs["low"] == 0 else share["mean"] == pytest.approx(ours["mean"] / theirs["mean"])


def test_identify_as_text(people, colours, capsys):
    assert evaluate.main(identify(people, "--classifier", "knn", "--known", "4", "--strangers", "5")) == 0
    heading, names, *rows = capsys.readouterr().out.splitlines()
    assert heading.startswith("4 known people, 5 strangers, 5 pictures each; 2 seeds")
    assert "rank-1" in names
    assert [row.split()[:2] for row in rows] == [["1", "knn"], ["3", "knn"]]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--known", "10", "--strangers", "10"], "12 of 12 people have 5 pictures, 10 known people and 10 strangers"),
        (["--shots", "5"], "5 of 5 pictures leave none"),
        (["--cohort", "nowhere.txt"], "cannot read the list nowhere.txt"),
    ],
)
def test_identify_with_bad_input(people, colours, capsys, more, said):
    assert evaluate.main(identify(people, *more)) == 2
    assert said in capsys.readouterr().err


def test_identify_with_an_empty_folder_of_a_person(people, colours, capsys):
    (people / "Empty").mkdir()
    assert evaluate.main(identify(people)) == 2
    assert "Empty is empty: add pictures of Empty, or remove it" in capsys.readouterr().err


def test_compare_writes_plots_and_json(lfw, people, colours, tmp_path, validate, capsys):
    out = tmp_path / "out"
    options = ["--lfw", str(lfw), "--people", str(people), "--pictures", "5", "--seeds", "2", "--out", str(out)]
    assert evaluate.main(["compare", "a", "blind", *options, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads((out / "compare.json").read_text())
    first, second = found["runs"]
    validate(first, "verify")
    validate(second["identify"][0], "identify")
    assert first["accuracy"]["mean"] > second["accuracy"]["mean"]
    assert second["minus_first"]["difference"] == pytest.approx(second["accuracy"]["mean"] - first["accuracy"]["mean"])
    for name in ("roc.png", "det.png"):
        image = cv2.imread(str(out / name))
        assert image.shape[0] > 400 and (image != 255).mean() > 0.01, "there is a drawing"
    assert evaluate.main(["compare", "a", "blind", *options]) == 0
    assert "| accuracy, pairs.txt |" in capsys.readouterr().out


def test_an_encoder_of_a_run_folder_is_its_keras_file(bundle_path, tmp_path):
    shutil.copy(bundle_path / "encoder.keras", tmp_path)
    (tmp_path / "config.toml").write_text("")
    assert evaluate.open_encoder(tmp_path).identity == sha256(bundle_path / "encoder.keras")[:16]


def test_groups(people, colours, tmp_path, capsys):
    """Crops of one person are all alike for this encoder, those of different people never."""
    rows = [f"people/P{person:02}/{number},{'one' if person == 0 else 'mixed'}" for person in range(4) for number in range(person > 0, 5)]
    (tmp_path / "groups.csv").write_text("\n".join(["picture,group", *rows, "people/P01/0,mixed"]))
    options = ["--crops", str(people), "--groups", str(tmp_path / "groups.csv"), "--threshold", "0.999"]
    assert evaluate.main(["groups", "--encoder", "a", *options, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    everybody, mixed, one = found["groups"]
    assert (one["group"], one["pictures"], one["pairs"], one["fmr"]["mean"]) == ("one", 5, 10, 1.0)
    assert everybody["fmr"]["low"] <= everybody["fmr"]["mean"] <= everybody["fmr"]["high"]
    assert one["times_all"] == pytest.approx(1 / everybody["fmr"]["mean"])
    assert mixed["fmr"]["mean"] < 1
    assert "false non-matches" in found["not_measured"]
    assert evaluate.main(["groups", "--encoder", "a", *options]) == 0
    assert "Not measured: false non-matches" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "cannot read the groups"),
        ("who,what\n", "is not a table of groups"),
        ("picture,group\nelsewhere/1,x\n", "names none of the 60 crops"),
    ],
)
def test_groups_of_a_table_that_fits_nothing(people, colours, tmp_path, capsys, text, said):
    if text is not None:
        (tmp_path / "groups.csv").write_text(text)
    assert evaluate.main(["groups", "--encoder", "a", "--crops", str(people), "--groups", str(tmp_path / "groups.csv")]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--far", "0"], "--far: 0 is not between 0 and 1"),
        (["--far", "x"], "--far: x is not between 0 and 1"),
        (["--limit", "1"], "a pair takes two"),
    ],
)
def test_groups_with_bad_numbers(people, colours, tmp_path, capsys, more, said):
    (tmp_path / "groups.csv").write_text("picture,group\npeople/P00/0,x\npeople/P01/0,x\n")
    try:
        status = evaluate.main(["groups", "--encoder", "a", "--crops", str(people), "--groups", str(tmp_path / "groups.csv"), *more])
    except SystemExit as stop:
        status = stop.code
    assert status == 2
    assert said in capsys.readouterr().err


def test_compare_tells_a_wrong_run_before_it_measures(lfw, people, tmp_path, capsys):
    assert evaluate.main(["compare", "nowhere.keras", "--lfw", str(lfw), "--people", str(people)]) == 2
    assert "nowhere.keras does not exist" in capsys.readouterr().err


def test_groups_need_names_or_a_table(people, colours, capsys):
    assert evaluate.main(["groups", "--encoder", "a", "--crops", str(people)]) == 2
    assert "--groups" in capsys.readouterr().err


def test_a_tflite_that_is_no_encoder(tmp_path):
    (tmp_path / "x.tflite").write_bytes(b"nothing")
    with pytest.raises(InputError):
        evaluate.open_encoder(tmp_path / "x.tflite")
