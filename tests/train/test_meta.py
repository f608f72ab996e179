"""Meta-learning: every algorithm against finite differences on a tiny model, and the device's head against TensorFlow's."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from device import adapt
from device.adapt import Adapted, Head
from device.program import InputError, StoredError
from train import meta
from train.embedded import Embedded
from train.episodes import Batch, Cosines, Inner, draw, fomaml, maml, reptile

D, E, PEOPLE, SHOTS = 4, 3, 3, 2
SHARPNESS, INNER = 3.0, Inner(3, (0.1, 0.4))


def batch(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((PEOPLE * SHOTS, D)), np.eye(PEOPLE).repeat(SHOTS, axis=0)


THETA = np.random.default_rng(0).standard_normal((D, E))
SUPPORT, QUERY = batch(1), batch(2)


def tensors(pair: tuple[np.ndarray, np.ndarray]) -> Batch:
    return Batch(*map(tf.constant, pair))


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def start(theta: np.ndarray, support) -> np.ndarray:
    turned = unit(support[0] @ theta)
    return np.stack([turned[support[1][:, person] == 1].mean(axis=0) for person in range(PEOPLE)])


def loss(matrix: np.ndarray, people: np.ndarray, given) -> float:
    total = 0.0
    for x, truth in zip(*given, strict=True):
        logits = [SHARPNESS * float(unit((x @ matrix)[None])[0] @ unit(person[None])[0]) for person in people]
        total += np.log(np.sum(np.exp(logits))) - logits[int(truth.argmax())]
    return total / len(given[0])


def differences(function, at: np.ndarray, step: float = 1e-5) -> np.ndarray:
    found = np.empty_like(at)
    for place in np.ndindex(at.shape):
        moved = np.zeros_like(at)
        moved[place] = step
        found[place] = (function(at + moved) - function(at - moved)) / (2 * step)
    return found


def descended(theta: np.ndarray, given, steps_taken: list | None = None, fixed: list | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The inner loop with gradients by finite differences; `fixed` steps are taken as they are."""
    matrix, people = theta, start(theta, given)
    for number in range(INNER.steps):
        if fixed is None:
            by_matrix = differences(lambda m, p=people: loss(m, p, given), matrix)
            by_people = differences(lambda p, m=matrix: loss(m, p, given), people)
        else:
            by_matrix, by_people = fixed[number]
        if steps_taken is not None:
            steps_taken.append((by_matrix, by_people))
        matrix, people = matrix - INNER.rates[0] * by_matrix, people - INNER.rates[1] * by_people
    return matrix, people


def test_maml_is_the_gradient_through_the_adaptation():
    (found,), value = maml(Cosines(SHARPNESS), INNER, [tf.constant(THETA)], tensors(SUPPORT), tensors(QUERY))
    expected = differences(lambda theta: loss(*descended(theta, SUPPORT), QUERY), THETA, 1e-3)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-4)
    assert float(value) == pytest.approx(loss(*descended(THETA, SUPPORT), QUERY), abs=1e-6)


def test_first_order_maml_takes_the_steps_for_constants():
    taken: list = []
    descended(THETA, SUPPORT, taken)
    (found,), _ = fomaml(Cosines(SHARPNESS), INNER, [tf.constant(THETA)], tensors(SUPPORT), tensors(QUERY))
    expected = differences(lambda theta: loss(*descended(theta, SUPPORT, fixed=taken), QUERY), THETA)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)
    (second,), _ = maml(Cosines(SHARPNESS), INNER, [tf.constant(THETA)], tensors(SUPPORT), tensors(QUERY))
    assert np.abs(found.numpy() - second.numpy()).max() > 1e-3


def test_reptile_goes_where_plain_descent_goes():
    both = np.concatenate([SUPPORT[0], QUERY[0]]), np.concatenate([SUPPORT[1], QUERY[1]])
    (found,), _ = reptile(Cosines(SHARPNESS), INNER, [tf.constant(THETA)], tensors(SUPPORT), tensors(QUERY))
    np.testing.assert_allclose(found.numpy(), THETA - descended(THETA, both)[0], atol=1e-6)


def test_the_devices_gradients_are_tensorflows():
    matrix, people = tf.constant(THETA), tf.constant(start(THETA, SUPPORT))
    with tf.GradientTape() as tape:
        tape.watch([matrix, people])
        value = Cosines(SHARPNESS).loss([matrix, people], tensors(QUERY))
    ours = adapt.gradients(THETA, people.numpy(), SHARPNESS, *QUERY)
    for mine, theirs in zip(ours, tape.gradient(value, [matrix, people]), strict=True):
        np.testing.assert_allclose(mine, theirs.numpy(), atol=1e-10)


def head(**facts) -> Head:
    return Head(THETA.astype(np.float32), np.full(D, 0.1, np.float32), SHARPNESS, INNER.rates, INNER.steps, facts)


def test_the_device_adapts_as_it_was_taught():
    used = head()
    x = (SUPPORT[0] + used.centre).astype(np.float32)
    found = adapt.adapted(used, x, SUPPORT[1].argmax(axis=1))
    expected = INNER.descend(Cosines(SHARPNESS), [tf.constant(THETA)], tensors(SUPPORT), second_order=False)
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine, theirs.numpy(), atol=1e-5)


def test_an_adapted_classifier_scores_cosines():
    rows = unit(SUPPORT[0]).astype(np.float32)
    found = Adapted(head(), rows, [name for name in "cab" for _ in range(SHOTS)])
    assert found.people == ["a", "b", "c"]
    scores = found.scores(rows)
    assert scores.shape == (6, 3)
    assert np.abs(scores).max() <= 1 + 1e-6
    name, score = found.best(rows[0])[0]
    assert score == pytest.approx(scores[0].max())
    assert name == found.people[scores[0].argmax()]
    assert [person for person, _ in found.best(rows[0], 3)] == [found.people[i] for i in np.argsort(-scores[0])]


@pytest.mark.parametrize("names", [[], ["a"]])
def test_nobody_and_somebody_alone_are_no_fault(names):
    found = Adapted(head(), np.ones((len(names), D), np.float32), names)
    assert found.scores(np.ones((2, D), np.float32)).shape == (2, len(names))
    assert len(found.best(np.ones(D, np.float32))) == len(names)


def test_a_head_is_read_as_it_was_written(tmp_path: Path):
    head(encoder="e" * 16).save(tmp_path / "head.npz")
    again = adapt.read(tmp_path / "head.npz", "e" * 16, D)
    np.testing.assert_array_equal(again.matrix, head().matrix)
    assert (again.sharpness, again.rates, again.steps) == (SHARPNESS, INNER.rates, INNER.steps)
    with pytest.raises(StoredError, match="belongs to encoder eeeeeeeeeeeeeeee, the bundle's is ffffffffffffffff"):
        adapt.read(tmp_path / "head.npz", "f" * 16, D)
    (tmp_path / "head.npz").write_bytes(b"PK\x03\x04")
    with pytest.raises(StoredError, match=r"head\.npz is damaged"):
        adapt.read(tmp_path / "head.npz", "e" * 16, D)


def people(count: int = 40, pictures: int = 8, noise: float = 1.0) -> Embedded:
    """Identity is in four of eight directions, the others are noise, and stronger."""
    rng = np.random.default_rng(5)
    who = np.repeat(np.arange(count), pictures)
    rows = np.concatenate(
        [rng.standard_normal((count, 4))[who] + 0.3 * rng.standard_normal((len(who), 4)), rng.normal(0, 1.5, (len(who), 4))], 1
    )
    return Embedded(unit(rows).astype(np.float32), [str(row) for row in range(len(who))], who)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["maml", "fomaml", "reptile"])
def test_learning_to_learn_finds_the_directions_that_matter(algorithm):
    everybody = people()
    untaught = meta.learn(everybody, meta.Settings(algorithm, rounds=0, rates=(0.2, 0.5)))
    taught = meta.learn(everybody, meta.Settings(algorithm, rounds=40, tasks=2, rate=0.02, rates=(0.2, 0.5)))
    before, after = (meta.accuracy(lambda rows, names, h=h: Adapted(h, rows, names), everybody, 5, 1, 60, 1) for h in (untaught, taught))
    assert after > before + 0.03


def test_episodes_hold_different_pictures_of_different_people():
    identities = np.repeat(np.arange(12), [9, 2, 9, 9, 9, 9, 1, 9, 9, 9, 9, 9])
    support, query = draw(identities, 5, 3, 2, np.random.default_rng(0))
    assert support.shape == (5, 3)
    assert query.shape == (5, 2)
    assert len({*support.ravel().tolist(), *query.ravel().tolist()}) == 25
    assert (identities[query] == identities[support][:, :1]).all()
    assert len(set(identities[support[:, 0]])) == 5
    with pytest.raises(InputError, match="10 people have 5 pictures, an episode wants 11"):
        draw(identities, 11, 3, 2, np.random.default_rng(0))


def test_an_unknown_algorithm_is_refused():
    with pytest.raises(InputError, match="no algorithm is called anil: choose one of maml, fomaml, reptile"):
        meta.learn(people(), meta.Settings("anil"))
