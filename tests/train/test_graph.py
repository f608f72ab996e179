"""Baselines of clustering, what is chosen by people, and labelled embeddings."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from device import bundle, linker
from device.agglomerate import by_size
from device.linker import Shape
from device.program import InputError
from train import embedded, evaluate, link, meta
from train.embedded import Embedded, Place
from train.graph import baselines, training
from train.graph.agreement import agreement

CHAIN = np.array([[1, 2], [0, 2], [1, 3], [2, 4], [3, 5], [4, 3]])  # two groups of three, joined by one doubtful link
SURE = np.array([[0.9, 0.8], [0.9, 0.9], [0.9, 0.6], [0.6, 0.9], [0.9, 0.9], [0.9, 0.8]])


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def people(count: int, pictures: int, noise: float, seed: int = 0) -> Embedded:
    rng = np.random.default_rng(seed)
    who = np.repeat(np.arange(count), pictures)
    rows = unit(rng.standard_normal((count, 16))[who] + noise * rng.standard_normal((len(who), 16)))
    return Embedded(rows, [f"set/{n}" for n in range(len(who))], who.astype(np.int32))


def test_components_follow_the_links_that_are_sure_enough():
    assert baselines.connected(CHAIN, SURE, 0.5).max() == 0
    assert by_size(baselines.connected(CHAIN, SURE, 0.7)).tolist() == [0, 0, 0, 1, 1, 1]
    assert baselines.connected(CHAIN, SURE, 0.95).tolist() == list(range(6))


def test_propagation_cuts_clusters_that_are_too_large():
    assert by_size(baselines.propagated(CHAIN, SURE, 0.5, 6)).tolist() == [0] * 6
    assert by_size(baselines.propagated(CHAIN, SURE, 0.5, 3, 0.1)).tolist() == [0, 0, 0, 1, 1, 1]
    assert len(set(baselines.propagated(CHAIN, SURE, 0.5, 1, 0.1).tolist())) == 6


@pytest.mark.parametrize("make", [baselines.average_linkage, baselines.dbscan, baselines.components])
def test_every_baseline_finds_people_who_are_far_apart(make):
    given = people(6, 5, 0.1)
    threshold, score = training.best(make(given.rows), given.identities, training.cosines(given.rows))
    assert score == 1
    assert agreement(make(given.rows)(threshold), given.identities).found == 6


def test_noise_of_dbscan_is_alone():
    given = people(2, 4, 0.05)
    rows = np.concatenate([given.rows, unit(-given.rows.sum(axis=0, keepdims=True))])
    found = baselines.dbscan(rows)(0.9)
    assert len(set(found.tolist())) == 3


def test_purities():
    assert training.purities(np.array([0, 0, 0, 1]), np.array([5, 5, 6, 7])) == pytest.approx([2 / 3, 1])


@pytest.mark.slow
def test_a_linker_is_trained_and_chosen_and_runs_on_the_device(tmp_path):
    everybody, others = people(40, 6, 0.6), people(12, 6, 0.6, seed=9)
    trained = training.train(everybody, training.Settings(shape=Shape(8, 2, 3), units=16, epochs=6, batch=16, rate=0.01))
    assert trained.losses[-1] < 0.8 * trained.losses[0]
    chosen = training.choose(trained.likeness, others)
    assert chosen.linker_from >= training.FEWEST
    assert max(chosen.scores, key=int) == str(len(others))
    assert chosen.methods["linker"].slope is not None
    trained.linker("e" * 16, chosen).save(tmp_path / "linker.npz")
    neighbours, likeness = trained.likeness(others.rows)
    again = linker.read(tmp_path / "linker.npz", "e" * 16, 16)
    np.testing.assert_allclose(again.likeness(others.rows, neighbours), likeness, atol=0.02)


def test_labelled_embeddings_are_parted_by_person():
    everybody = people(10, 4, 0.5)
    first, second = embedded.parted(everybody)
    assert (len(set(first.identities)), len(set(second.identities))) == (7, 3)
    assert not {*first.names} & {*second.names}
    assert len(everybody.of_people(4, 4)) == 40
    assert len(everybody.of_people(5, 9)) == 0


def test_embeddings_are_made_once_for_each_encoder(tmp_path: Path):
    (tmp_path / "crops").mkdir()
    for number in range(2):
        cv2.imwrite(str(tmp_path / "crops" / f"{number}.png"), np.full((112, 112, 3), 100 * number, np.uint8))
    asked = []

    def embed(crops: np.ndarray) -> np.ndarray:
        asked.append(len(crops))
        return crops[:, 0, 0].astype(np.float32)

    encoder = evaluate.Encoder("some/encoder", embed)
    for _ in range(2):
        rows, names = embedded.embed(encoder, [tmp_path / "crops"], tmp_path / "cache")
        assert names == ["crops/0", "crops/1"]
        assert rows[:, 0].tolist() == [0, 100]
    assert asked == [2]
    with pytest.raises(InputError, match="nowhere is not there: name the shared data with --data"):
        embedded.embed(encoder, [tmp_path / "nowhere"], tmp_path / "cache")


def test_celeba_holds_nobody_of_the_cohort_and_no_picture_twice(data: Path, tmp_path: Path, monkeypatch):
    names = {"celeba_id.zip": ["celeba_id/7201/001085", "celeba_id/7201/007710"], "celeba10k.zip": ["celeba10k/001085", "celeba10k/000001"]}
    cohort = next(name for name in sorted(embedded.data.read_list(data / "crops" / "cohort.txt")) if name.startswith("celeba10k"))
    names["celeba10k.zip"].append(cohort)
    every = [name for source in embedded.CELEBA for name in names[source]]
    monkeypatch.setattr(embedded, "embed", lambda *_: (np.eye(5, dtype=np.float32), every))
    found = embedded.celeba(evaluate.Encoder("e", lambda crops: crops), data, tmp_path)
    assert found.names == [*names["celeba_id.zip"], "celeba10k/000001"]
    assert found.identities[0] == found.identities[1] != found.identities[2]


def test_what_belongs_to_an_encoder_goes_into_its_bundle_once(copied_shipped: Path):
    encoder = evaluate.Encoder("e", lambda crops: crops, bundle.load(copied_shipped))
    place = Place.of(None, encoder, "new.npz")
    place.write(lambda path: path.write_bytes(b"content"))
    assert (copied_shipped / "new.npz").read_bytes() == b"content"
    assert "new.npz" in bundle.load(copied_shipped).manifest["files"]
    with pytest.raises(InputError, match=r"holds a new\.npz, and a bundle is never changed in place: name a file with --out"):
        Place.of(None, evaluate.Encoder("e", lambda crops: crops, bundle.load(copied_shipped)), "new.npz")
    with pytest.raises(InputError, match=r"holds a new\.npz"):
        bundle.add(copied_shipped, copied_shipped / "new.npz")


@pytest.fixture
def copied_shipped(bundle_path: Path, tmp_path: Path) -> Path:
    import shutil

    return Path(shutil.copytree(bundle_path, tmp_path / "bundle"))


def test_without_a_bundle_a_file_is_asked_for(tmp_path: Path):
    encoder = evaluate.Encoder("e", lambda crops: crops)
    with pytest.raises(InputError, match="the encoder is in no bundle: name a file with --out"):
        Place.of(None, encoder, "head.npz")
    with pytest.raises(InputError, match=r"give it the suffix \.npz"):
        Place.of(tmp_path / "head.txt", encoder, "head.npz")


@pytest.mark.parametrize("program", [link, meta])
def test_without_the_data_the_programs_say_so(program, tmp_path: Path, bundle_path: Path, capsys):
    words = ["--encoder", str(bundle_path), "--data", str(tmp_path), "--out", str(tmp_path / "x.npz")]
    assert program.main(words) == 2
    assert "celeba_id.zip is not there: name the shared data with --data" in capsys.readouterr().err
