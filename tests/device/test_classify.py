import numpy as np
import pytest

from device.classify import Neighbours, Planes, rehearse, strongest


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


PEOPLE = ["Ada", "Bob", "Cem", "Dan", "Eve"]


@pytest.fixture(scope="module")
def faces() -> tuple[np.ndarray, list[str], np.ndarray, np.ndarray]:
    """Templates of five people (4, 3, 3, 2 and 1 of them), their names, a new picture of each, and strangers."""
    rng = np.random.default_rng(0)
    common, own = 2 * np.ones(16), rng.normal(size=(5, 16))  # faces have much in common, as encoders see them
    counts = (4, 3, 3, 2, 1)
    names = [name for name, count in zip(PEOPLE, counts, strict=True) for _ in range(count)]
    templates = unit(common + np.repeat(own, counts, axis=0) + 0.2 * rng.normal(size=(len(names), 16)))
    return templates, names, unit(common + own + 0.2 * rng.normal(size=(5, 16))), unit(common + rng.normal(size=(200, 16)))


def test_neighbours_score_by_the_mean_of_the_nearest_templates(faces):
    templates, names, probes, _ = faces
    order = np.random.default_rng(1).permutation(len(names))
    nearest = Neighbours(templates[order], [names[i] for i in order])
    owners = np.array(names)
    expected = [[np.sort(templates[owners == name] @ probe)[-3:].mean() for name in PEOPLE] for probe in probes]
    np.testing.assert_allclose(nearest.scores(probes), expected, atol=1e-6)
    assert nearest.people == PEOPLE


@pytest.mark.parametrize("kind", ["knn", "svm"])
def test_the_best_people_are_those_who_score_highest(faces, kind):
    templates, names, probes, strangers = faces
    classifier = Neighbours(templates, names) if kind == "knn" else Planes.train(templates, names, strangers[:100])
    scores = classifier.scores(probes)
    assert kind == "svm" or abs(scores).max() <= 1
    assert [classifier.people[i] for i in scores.argmax(axis=1)] == PEOPLE
    for probe, row in zip(probes, scores, strict=True):
        (first, best), (second, next_best) = classifier.best(probe)
        assert (first, second) == tuple(np.array(PEOPLE)[np.argsort(-row)[:2]])
        assert (best, next_best) == (pytest.approx(row.max(), abs=1e-5), pytest.approx(np.sort(row)[-2], abs=1e-5))
    found, whose = strongest(classifier, np.concatenate([probes] * 300))  # in several blocks
    np.testing.assert_allclose(found, np.tile(scores.max(axis=1), 300), atol=1e-6)
    assert whose.tolist() == list(range(5)) * 300


def test_planes_tell_strangers_they_never_met_from_people(faces):
    templates, names, probes, strangers = faces
    planes = Planes.train(templates, names, strangers[:100])
    assert planes.scores(probes).max(axis=1).min() > np.quantile(strongest(planes, strangers[100:])[0], 0.95)


def test_planes_do_not_depend_on_how_much_faces_have_in_common(faces):
    """A shift and a scale of all embeddings change no score: training takes them away."""
    templates, names, probes, strangers = faces
    plain = Planes.train(templates, names, strangers).scores(probes)
    squeezed = [0.1 * rows + 3 for rows in (templates, strangers, probes)]
    np.testing.assert_allclose(Planes.train(squeezed[0], names, squeezed[1]).scores(squeezed[2]), plain, atol=1e-3)


def test_planes_are_stored_as_plain_arrays(faces):
    templates, names, probes, strangers = faces
    planes = Planes.train(templates, names, strangers)
    again = Planes.from_bytes(planes.to_bytes())
    assert again.people == planes.people
    np.testing.assert_array_equal(again.scores(probes), planes.scores(probes))


def test_bytes_that_are_no_planes_are_refused_and_nothing_in_them_is_executed(tmp_path):
    class Trap:
        def __reduce__(self):
            return (tmp_path.joinpath("sprung").touch, ())

    with (tmp_path / "trap.npz").open("wb") as file:
        np.savez(file, weights=np.array([Trap()], object), biases=np.zeros(1), people=np.array(["Ada"]))
    for stored in (b"", b"nothing", b"PK\x03\x04 and no more", (tmp_path / "trap.npz").read_bytes()):
        with pytest.raises(ValueError):
            Planes.from_bytes(stored)
    assert not (tmp_path / "sprung").exists()
    with pytest.raises(ValueError, match="2 planes, 2 biases and 1 people"):
        Planes(np.zeros((2, 4)), np.zeros(2), ["Ada"])


def test_nobody_can_be_trained_too(faces):
    planes = Planes.train(np.zeros((0, 16), np.float32), [], faces[3])
    assert planes.best(faces[2][0]) == []
    assert Neighbours(np.zeros((0, 16), np.float32), []).best(faces[2][0]) == []


def test_a_rehearsal_looks_for_everybody_without_the_template_itself(faces):
    templates, names, _, _ = faces
    genuine, own = rehearse(Neighbours, templates, names)
    assert len(genuine) == 12, "Eve's only template cannot be compared with herself"
    assert len(own) == 13
    assert genuine.max() < 1, "no template is compared with itself"
    assert np.median(genuine) > np.median(own)


def test_a_large_gallery_is_rehearsed_in_part_and_a_tiny_one_gives_nothing():
    rng = np.random.default_rng(0)
    rows = unit(rng.normal(size=(900, 16)))
    genuine, own = rehearse(Neighbours, rows, [f"{i // 3}" for i in range(900)])
    assert len(genuine) == len(own) <= 120
    assert [len(found) for found in rehearse(Neighbours, rows[:1], ["Ada"])] == [0, 0]
    assert [len(found) for found in rehearse(Neighbours, rows[:0], [])] == [0, 0]
