import numpy as np
import tensorflow as tf

from train import encoders
from train.objectives import distill


def targets(n=40, d=16, seed=0):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n, d)) * rng.uniform(0.2, 1, d) + 2 * rng.normal(size=d)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_the_loss_against_loops():
    wanted, rng = targets(), np.random.default_rng(1)
    embeddings = rng.normal(size=wanted.shape).astype(np.float32)
    mean, deviation = distill.statistics(wanted)
    loss, told = distill.Distill(mean, deviation, relation=3.0)(tf.constant(embeddings), tf.constant(wanted))
    standard = (wanted - wanted.mean(0)) / wanted.std(0)
    regression = np.mean([(e - t) ** 2 for row, goal in zip(embeddings, standard, strict=True) for e, t in zip(row, goal, strict=True)])

    def cosine(a, b):
        return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    pairs = [(i, j) for i in range(40) for j in range(40)]
    relation = np.mean([(cosine(embeddings[i], embeddings[j]) - cosine(standard[i], standard[j])) ** 2 for i, j in pairs])
    np.testing.assert_allclose(loss, regression + 3 * relation, rtol=1e-4)
    expected = np.mean([cosine(e, t) for e, t in zip(embeddings, standard, strict=True)])
    np.testing.assert_allclose(told["distill_cosine"], expected, atol=1e-5)


def test_a_perfect_student_has_no_loss_and_gives_the_teachers_embeddings_less_half_their_mean():
    wanted = targets(d=8)
    mean, deviation = distill.statistics(wanted)
    objective = distill.Distill(mean, deviation)
    standard = (wanted - mean) / deviation
    assert float(objective(tf.constant(standard), tf.constant(wanted))[0]) < 1e-6

    encoder = encoders.build("fused", size=32, dimension=8, width=0.25)
    crops = np.random.default_rng(0).integers(0, 256, (5, 112, 112, 3), np.uint8)
    before, after = (encoders.outputs(model, crops) for model in (encoder, objective.calibrated(encoder)))
    np.testing.assert_allclose(after, before * deviation + mean / 2, atol=1e-5)


def test_a_number_that_the_teacher_never_changes_is_no_division_by_zero():
    wanted = targets()
    wanted[:, 3] = 0.5
    mean, deviation = distill.statistics(wanted)
    assert np.isfinite(distill.Distill(mean, deviation)(tf.zeros(wanted.shape), tf.constant(wanted))[0])
