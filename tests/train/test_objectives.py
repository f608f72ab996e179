"""Every loss against its definition in slow loops, and what it does with batches that hold nothing to compare."""

import itertools
import math

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from device.program import InputError
from train import objectives
from train.objectives.arcface import margined
from train.objectives.base import Objective

LABELS = np.array([0, 0, 0, 1, 1, 2, 2, 3], np.int32)  # person 3 has one picture
ALL = sorted(name for name, make in objectives.OBJECTIVES.items() if make.needs == "labels")
HEADS = ["arcface", "softmax"]


def batch(seed: int = 0, n: int = len(LABELS)) -> np.ndarray:
    """Raw embeddings of all lengths."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, 5)) * rng.uniform(0.1, 9, (n, 1))).astype(np.float32)


def make(name: str, **settings) -> Objective:
    keras.utils.set_random_seed(0)
    [(_, objective)] = objectives.parse(name, people=4, **settings)
    return objective


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Euclidean distance of two rows, normalised."""
    a, b = (row.astype(float) / math.sqrt(sum(float(x) ** 2 for x in row)) for row in (a, b))
    return math.sqrt(sum((x - y) ** 2 for x, y in zip(a, b, strict=True)))


def triplets(labels):
    indices = range(len(labels))
    for a, p, n in itertools.product(indices, repeat=3):
        if a != p and labels[a] == labels[p] and labels[a] != labels[n]:
            yield a, p, n


def slow_contrastive(rows, labels, margin):
    losses = []
    for i, j in itertools.combinations(range(len(rows)), 2):
        y, d = float(labels[i] == labels[j]), distance(rows[i], rows[j])
        losses.append(y * d**2 / 2 + (1 - y) * max(margin - d, 0) ** 2 / 2)
    return np.mean(losses)


def slow_batch_all(rows, labels, margin):
    losses = [max(distance(rows[a], rows[p]) ** 2 - distance(rows[a], rows[n]) ** 2 + margin, 0) for a, p, n in triplets(labels)]
    return np.mean([loss for loss in losses if loss > 0])


def slow_batch_hard(rows, labels, margin):
    losses = []
    for anchor in {a for a, _, _ in triplets(labels)}:
        far = max(distance(rows[a], rows[p]) ** 2 for a, p, _ in triplets(labels) if a == anchor)
        near = min(distance(rows[a], rows[n]) ** 2 for a, _, n in triplets(labels) if a == anchor)
        losses.append(max(far - near + margin, 0))
    return np.mean(losses)


def slow_semi_hard(rows, labels, margin):
    losses = []
    for anchor, positive in {(a, p) for a, p, _ in triplets(labels)}:
        far = distance(rows[anchor], rows[positive]) ** 2
        others = [distance(rows[a], rows[n]) ** 2 for a, p, n in triplets(labels) if (a, p) == (anchor, positive)]
        farther = [other for other in others if other > far]
        losses.append(max(far - (min(farther) if farther else max(others)) + margin, 0))
    return np.mean(losses)


SLOW_TRIPLET = {"batch-all": slow_batch_all, "batch-hard": slow_batch_hard, "semi-hard": slow_semi_hard}


def slow_second_term(rows, labels, margin):
    pairs = list(itertools.combinations(range(len(rows)), 2))
    losses = []
    for (i, j), (k, m) in itertools.product(pairs, pairs):
        if labels[i] == labels[j] and labels[k] != labels[m] and labels[i] not in (labels[k], labels[m]):
            losses.append(max(distance(rows[i], rows[j]) ** 2 - distance(rows[k], rows[m]) ** 2 + margin, 0))
    return np.mean([loss for loss in losses if loss > 0])


def slow_cross_entropy(logits, labels):
    return np.mean(
        [math.log(sum(math.exp(x - max(row)) for x in row)) - (row[y] - max(row)) for row, y in zip(logits, labels, strict=True)]
    )


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("margin", [0.5, 1.0, 1.8])
def test_contrastive_is_its_definition(seed, margin):
    loss, figures = make("contrastive", margin=margin)(batch(seed), LABELS)
    assert float(loss) == pytest.approx(slow_contrastive(batch(seed), LABELS, margin), rel=1e-4)
    others = [distance(a, b) for (a, x), (b, y) in itertools.combinations(zip(batch(seed), LABELS, strict=True), 2) if x != y]
    assert float(figures["contrastive_active"]) == pytest.approx(np.mean([d < margin for d in others]))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("mining", objectives.MINING)
def test_triplet_is_its_definition(mining, seed):
    loss, _ = make("triplet", margin=0.3, mining=mining)(batch(seed), LABELS)
    assert float(loss) == pytest.approx(SLOW_TRIPLET[mining](batch(seed), LABELS, 0.3), rel=1e-4)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("mining", objectives.MINING)
def test_quadruplet_is_its_definition(mining, seed):
    rows = batch(seed)
    loss, _ = make("quadruplet", margin=0.3, second=0.2, mining=mining)(rows, LABELS)
    slow = SLOW_TRIPLET[mining](rows, LABELS, 0.3) + slow_second_term(rows, LABELS, 0.2)
    assert float(loss) == pytest.approx(slow, rel=1e-4)


def test_softmax_is_its_definition():
    objective, rows = make("softmax"), batch()
    loss, figures = objective(rows, LABELS)
    logits = rows @ objective.head.kernel.numpy() + objective.head.bias.numpy()
    assert float(loss) == pytest.approx(slow_cross_entropy(logits, LABELS), rel=1e-4)
    assert float(figures["softmax_accuracy"]) == pytest.approx(
        np.mean([max(range(4), key=row.__getitem__) == y for row, y in zip(logits, LABELS, strict=True)])
    )


def test_arcface_is_its_definition():
    objective, rows = make("arcface", margin=0.4, scale=10.0), batch()
    loss, _ = objective(rows, LABELS)
    centres = objective.centres.numpy()
    logits = np.empty((len(rows), 4))
    for (i, row), (j, centre) in itertools.product(enumerate(rows), enumerate(centres)):
        angle = math.acos(1 - distance(row, centre) ** 2 / 2)
        assert LABELS[i] != j or angle + 0.4 < math.pi, "this batch stays in the range of the paper's equation"
        logits[i, j] = 10.0 * math.cos(angle + 0.4 * (LABELS[i] == j))
    assert float(loss) == pytest.approx(slow_cross_entropy(logits, LABELS), rel=1e-4)


def test_arcface_never_rewards_a_wider_angle():
    """Beyond pi - margin the plain equation rises again; at both ends its slope must stay finite."""
    angles = np.linspace(0, math.pi, 1001)
    cosines = tf.constant(np.cos(angles), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(cosines)
        values = margined(cosines, 0.5)
    inside = angles < math.pi - 0.5 - 1e-3
    np.testing.assert_allclose(values.numpy()[inside], np.cos(angles[inside] + 0.5), atol=2e-3)
    assert np.all(np.diff(values) <= 1e-6)
    slopes = tape.gradient(values, cosines).numpy()
    assert np.all(np.isfinite(slopes)) and np.all(slopes > 0)


@pytest.mark.parametrize("name", [n for n in ALL if n != "softmax"])
def test_length_and_order_do_not_matter(name):
    objective, rows = make(name), batch()
    loss, _ = objective(rows, LABELS)
    order = np.random.default_rng(0).permutation(len(rows))
    for other, labels in ((3 * rows, LABELS), (rows[order], LABELS[order])):
        assert float(objective(other, labels)[0]) == pytest.approx(float(loss), rel=1e-4)


@pytest.mark.parametrize("name", ALL)
def test_gradient_steps_lower_the_loss_and_part_the_people(name):
    objective = make(name)
    labels = tf.constant(np.repeat(np.arange(4), 4), tf.int32)
    rows = tf.Variable(batch(n=16))
    optimiser = keras.optimizers.Adam(0.1)
    losses = []
    for _ in range(60):
        with tf.GradientTape() as tape:
            loss, _ = objective(rows, labels)
        variables = [rows, *objective.trainable_variables]
        optimiser.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        losses.append(float(loss))
    assert losses[-1] < 0.5 * losses[0]
    assert (len(objective.trainable_variables) > 0) == (name in HEADS), "a head trains with the encoder"
    unit = tf.math.l2_normalize(rows, axis=1).numpy()
    same = labels[:, None].numpy() == labels[None].numpy()
    cosines = unit @ unit.T
    assert cosines[same].mean() > cosines[~same].mean() + 0.5


DEGENERATE = {
    "no positive pair": (batch(), np.arange(8, dtype=np.int32) % 8),
    "all the same person": (batch(), np.zeros(8, np.int32)),
    "all embeddings equal": (np.ones((8, 5), np.float32), LABELS),
    "all embeddings zero": (np.zeros((8, 5), np.float32), LABELS),
    "opposite embeddings": (np.outer((-1.0) ** np.arange(8), np.ones(5)).astype(np.float32), LABELS),
    "the same picture twice": (np.repeat(batch(n=4), 2, axis=0), np.repeat(np.arange(4), 2).astype(np.int32)),
    "one row": (batch(n=1), np.zeros(1, np.int32)),
}


@pytest.mark.parametrize("case", DEGENERATE)
@pytest.mark.parametrize(("name", "settings"), [(n, {}) for n in ALL] + [("triplet", {"mining": m}) for m in objectives.MINING])
def test_degenerate_batches_have_finite_gradients(name, settings, case):
    rows, labels = DEGENERATE[case]
    [(_, objective)] = objectives.parse(name, people=8, **settings)
    rows = tf.Variable(rows)
    with tf.GradientTape() as tape:
        loss, figures = objective(rows, labels)
    assert math.isfinite(float(loss))
    assert all(math.isfinite(float(value)) for value in figures.values())
    gradient = tape.gradient(loss, rows)
    assert np.isfinite(gradient).all()
    if case in ("no positive pair", "all the same person") and name in ("triplet", "quadruplet"):
        assert float(loss) == 0 and not np.any(gradient), "there is no triplet"


@pytest.mark.parametrize("name", ALL)
def test_nan_is_not_hidden(name):
    rows = batch()
    rows[0] = np.nan
    assert math.isnan(float(make(name, **({"mining": "batch-hard"} if name == "triplet" else {}))(rows, LABELS)[0]))


@pytest.mark.parametrize("name", ALL)
def test_objectives_compute_in_float32_whatever_the_policy(name):
    rows = batch()
    expected = float(make(name)(rows, LABELS)[0])
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        loss, _ = make(name)(rows, LABELS)
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert loss.dtype == tf.float32
    assert float(loss) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", ALL)
def test_a_graph_gives_what_eager_gives(name):
    objective, rows = make(name), batch()
    expected = float(objective(rows, LABELS)[0])
    graph = tf.function(lambda rows, labels: objective(rows, labels)[0])
    assert float(graph(tf.constant(rows), tf.constant(LABELS))) == pytest.approx(expected, rel=1e-5)


def test_a_sum_adds_up_with_its_weights():
    rows, targets = batch(), {"labels": tf.constant(LABELS)}
    parts = {name: float(make(name)(rows, LABELS)[0]) for name in ("contrastive", "triplet")}
    added = objectives.parse("contrastive + 0.5*triplet")
    assert [weight for weight, _ in added] == [1.0, 0.5]
    loss, figures = objectives.total(added, rows, targets)
    assert float(loss) == pytest.approx(parts["contrastive"] + 0.5 * parts["triplet"], rel=1e-5)
    assert {name: pytest.approx(float(figures[name]), rel=1e-5) for name in parts} == parts
    assert {"contrastive_active", "triplet_active", "distance_positive", "distance_negative"} <= figures.keys()
    alone, figures = objectives.total(objectives.parse("triplet"), rows, targets)
    assert float(alone) == pytest.approx(parts["triplet"])
    assert "triplet" not in figures, "that is the loss itself"


@pytest.mark.parametrize(
    ("text", "settings", "said"),
    [
        ("triplets", {}, "no objective is called triplets: .*arcface.*added up"),
        ("triplet+", {}, "no objective is called nothing"),
        ("", {}, "no objective is called nothing"),
        ("0*triplet", {}, "the weight of triplet is 0"),
        ("-1*triplet", {}, "the weight of triplet is -1"),
        ("nan*triplet", {}, "the weight of triplet is nan"),
        ("much*triplet", {}, "the weight of triplet is much"),
        ("triplet+2*triplet", {}, "names one twice"),
        ("softmax", {"people": 3, "mining": "batch-all"}, r"softmax has no mining: .*\(triplet, quadruplet\)"),
        ("softmax", {"people": 1}, "there is 1 person to tell apart: give crops of two"),
        ("arcface", {"people": 1}, "there is 1 person to tell apart"),
        ("triplet", {"mining": "lucky"}, "no mining is called lucky: choose one of batch-all, batch-hard, semi-hard"),
        ("triplet", {"margin": 0.0}, "the triplet margin is 0.0"),
        ("quadruplet", {"second": -1.0}, "the second margin is -1.0"),
        ("contrastive", {"margin": float("nan")}, "the contrastive margin is nan"),
    ],
)
def test_what_is_no_objective(text, settings, said):
    with pytest.raises(InputError, match=said):
        objectives.parse(text, **settings)


def test_settings_reach_who_knows_them():
    added = objectives.parse("softmax+quadruplet", people=7, margin=None, mining="batch-hard", second=0.05)
    softmax, quadruplet = (objective for _, objective in added)
    assert softmax.head.units == 7
    assert (quadruplet.margin, quadruplet.second) == (0.2, 0.05)
