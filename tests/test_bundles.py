"""What is promised of every shipped bundle, on the bundle itself."""

import json
from pathlib import Path

import numpy as np
import pytest

from convert import check
from device import bundle
from device.embed import Encoder
from train import data as crops_data
from train import encoders, evaluate, metrics, probes

BUNDLES = sorted(path.parent for path in bundle.MODELS.glob("*/manifest.json"))


@pytest.fixture(params=BUNDLES, ids=lambda path: path.name, scope="module")
def shipped(request) -> bundle.Bundle:
    return bundle.load(request.param)


def test_one_ships():
    assert bundle.find(None).path in BUNDLES


def test_the_manifest_follows_the_contract(shipped, validate):
    validate(shipped.manifest, "manifest")
    assert shipped.name == shipped.path.name


def test_it_is_small(shipped):
    sizes = {name: (shipped.path / name).stat().st_size for name in (bundle.ENCODER, "encoder.keras")}
    assert sum(sizes.values()) < 8e6


def test_everything_maps(shipped, validate):
    report = check.check(shipped.path / bundle.ENCODER)
    validate(report, "check")
    assert report["maps"] == "all"


def test_input_and_output_are_what_the_manifest_says(shipped):
    encoder = Encoder(shipped.path / bundle.ENCODER)
    assert (encoder.dimension, encoder.output) == (shipped.dimension, shipped.output)
    assert vars(encoder.input) == {key: shipped.manifest["input"][key] for key in ("scale", "zero_point")}


def test_the_cohort_keeps_the_thresholds(shipped):
    """The stored cohort, int8, gives the manifest's rates again."""
    rows = np.load(shipped.path / "cohort.npz")["embeddings"].astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = (rows @ rows.T)[np.triu_indices(len(rows), 1)]
    for entry in shipped.manifest["thresholds"]:
        assert np.mean(cosines >= entry["threshold"]) == pytest.approx(entry["far"], rel=0.1)


def test_the_card_tells_the_report(shipped):
    card = (shipped.path / "CARD.md").read_text("utf-8")
    report = json.loads((shipped.path / "report.json").read_text())
    assert shipped.encoder in card
    assert f"{report['lfw']['int8']['accuracy']['mean']:.2%}" in card
    assert f"{report['parity']['mean']:.4f}" in card


@pytest.mark.slow
def test_int8_keeps_the_embeddings_of_float(shipped, data: Path):
    names = sorted(crops_data.read_list(data / "crops" / "cohort.txt"))[::40]
    images = crops_data.read_crops([data / "crops" / name for name in shipped.manifest["made"]["data"]], only=set(names)).images
    float_ = encoders.embed(encoders.load(str(shipped.path / "encoder.keras")), images)
    mean, first = metrics.parity(float_, Encoder(shipped.path / bundle.ENCODER).embed(images))
    assert mean >= 0.98
    assert first >= 0.95


@pytest.mark.slow
def test_int8_loses_less_than_a_point_on_lfw(shipped, data: Path):
    probe = probes.VerificationProbe.read(data / "lfw" / "crops.zip", data / "lfw" / "pairs.txt")
    model = encoders.load(str(shipped.path / "encoder.keras"))
    float_ = evaluate.verify(lambda crops: encoders.embed(model, crops), probe)
    int8 = evaluate.verify(Encoder(shipped.path / bundle.ENCODER).embed, probe)
    assert (int8.pairs, int8.missing) == (6000, 0)
    assert evaluate.compare(int8, float_)["high"] <= 0.01
    report = json.loads((shipped.path / "report.json").read_text())
    assert int8.result.accuracy == pytest.approx(report["lfw"]["int8"]["accuracy"]["mean"], abs=0.003), "another CPU may round otherwise"
