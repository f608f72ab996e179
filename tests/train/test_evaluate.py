import json
import shutil

import cv2
import numpy as np
import pytest

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
        return evaluate.Verified(Verification(correct, folds, np.zeros(1), 1.0, 0.0, {}), len(correct), 0)

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


def test_a_tflite_that_is_no_encoder(tmp_path):
    (tmp_path / "x.tflite").write_bytes(b"nothing")
    with pytest.raises(InputError):
        evaluate.open_encoder(tmp_path / "x.tflite")
