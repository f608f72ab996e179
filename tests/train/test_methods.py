"""What all self-supervised methods must do, and the losses of SimSiam's siblings against slow references."""

import math

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from tiny import encoder, views

from device.program import InputError
from train import encoders
from train.methods import METHODS, Method, options
from train.methods.byol import regression
from train.methods.moco import info_nce
from train.methods.simclr import nt_xent
from train.methods.swav import sinkhorn, swapped
from train.pretrain import Settings

SMALL = {
    "simsiam": {"projection": 32, "rate": 0.3},
    "simclr": {"projection": 16, "hidden": 32},
    "byol": {"projection": 16, "hidden": 32},
    "swav": {"projection": 16, "hidden": 32, "prototypes": 24},
    "moco": {"projection": 16, "hidden": 32, "queue": 256, "rate": 0.3, "target_momentum": 0.99},
}
RNG = np.random.default_rng(0)


def made(method: str, steps: int = 10**9, **more) -> Method:
    keras.utils.set_random_seed(0)
    model = METHODS[method](encoder(), options(method, SMALL[method] | more))
    model.ready(batch=256, steps=steps)
    return model


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def random(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("method", METHODS)
def test_training_lowers_the_loss_and_moves_weights_and_statistics(method):
    model = made(method)
    norm = model.encoder.get_layer("norm")
    kernel, before = model.encoder.get_layer("conv").kernel, model.encoder.get_weights()[0]
    step = tf.function(model.train_step)
    losses = []
    for seed in range(40):
        model.reset_metrics()
        losses.append(float(step(views(seed))["loss"]))
    first = losses[:3] if method != "moco" else losses[2:5]  # its queue holds random rows at first, which are easily told
    assert np.mean(losses[-3:]) < np.mean(first) - 0.1
    assert np.abs(kernel.numpy() - before).max() > 1e-3
    assert np.abs(norm.moving_mean.numpy()).max() > 1e-3, "training=True reaches BatchNorm"
    assert 0.2 < float(model.std_mean.result()) / model.healthy_std < 1.1, "not collapsed"


@pytest.mark.parametrize("method", METHODS)
def test_weight_decay_decays(method):
    """Where the loss has no gradient, one step of SGD shrinks a weight by rate x decay."""
    model = made(method, rate=0.1, weight_decay=0.5)
    kernels = [model.encoder.get_layer("conv").kernel, model.projector.layers[0].kernel]
    before = [kernel.numpy().copy() for kernel in kernels]
    model._descend([tf.zeros_like(v) for _, own in model.groups() for v in own])
    for kernel, was in zip(kernels, before, strict=True):
        np.testing.assert_allclose(kernel.numpy(), was * (1 - 0.1 * 0.5), rtol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_in_bfloat16(method):
    with encoders.precision("mixed_bfloat16"):
        model = made(method)
    told = model.train_step(views(n=8))
    assert all(math.isfinite(float(value)) for value in told.values())
    assert model.encoder(views()[0]).dtype == tf.bfloat16
    assert model(views()[0]).dtype == tf.float32, "losses are computed exactly"
    assert {v.dtype for v in model.trainable_variables} == {tf.float32}, "weights stay exact"


@pytest.mark.parametrize("method", METHODS)
def test_a_checkpoint_holds_the_whole_method(method, tmp_path):
    """Queue, target and optimisers too: what comes next is the same."""
    model, again = made(method, steps=20), made(method, steps=20)
    for seed in range(3):
        model.train_step(views(seed))
    path = tf.train.Checkpoint(model=model, **model.optimizers).save(str(tmp_path / "all"))
    tf.train.Checkpoint(model=again, **again.optimizers).restore(path)
    losses = []
    for one in (model, again):
        for seed in range(3, 5):
            one.reset_metrics()
            told = one.train_step(views(seed))
        losses.append(float(told["loss"]))
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    for mine, theirs in zip(model.variables, again.variables, strict=True):
        np.testing.assert_allclose(mine.numpy(), theirs.numpy(), atol=1e-6, err_msg=mine.name)


@pytest.mark.parametrize("method", ["byol", "moco"])
def test_the_target_is_a_moving_average_and_gets_no_gradient(method):
    model = made(method, steps=8, target_momentum=0.9)
    pairs = [(model.target, model.encoder), (model.target_projector, model.projector)]
    for target, online in pairs:
        for a, b in zip(target.get_weights(), online.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b, err_msg="a copy at first")
    with tf.GradientTape() as tape:
        loss, *_ = model.compare(*views())
    assert tape.gradient(loss, [v for target, _ in pairs for v in target.trainable_variables]) == [None] * len(model.pairs())
    assert not {id(v) for _, own in model.groups() for v in own} & {id(target) for target, _ in model.pairs()}
    expected = [target.numpy() for target, _ in model.pairs()]
    for seed in range(4):
        model.train_step(views(seed))
        k = seed + 1  # steps done
        kept = 0.9 if method == "moco" else 1 - (1 - 0.9) * (math.cos(math.pi * k / 8) + 1) / 2
        expected = [kept * was + (1 - kept) * online.numpy() for was, (_, online) in zip(expected, model.pairs(), strict=True)]
    for was, (target, _) in zip(expected, model.pairs(), strict=True):
        np.testing.assert_allclose(target.numpy(), was, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_the_encoder_of_another_method_is_a_start(method):
    other = made("simclr" if method != "simclr" else "byol")
    other.train_step(views())
    model = made(method)
    heads = [weight for head in model.heads for weight in head.get_weights()]
    model.begin_at(other, other.encoder)
    for mine, theirs in zip(model.encoder.get_weights(), other.encoder.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    for mine, was in zip((w for head in model.heads for w in head.get_weights()), heads, strict=True):
        np.testing.assert_array_equal(mine, was, err_msg="heads of its own")
    if method in ("byol", "moco"):
        np.testing.assert_array_equal(model.target.get_weights()[0], model.encoder.get_weights()[0])


@pytest.mark.parametrize("method", METHODS)
def test_the_same_method_takes_the_heads_too(method):
    other, model = made(method), made(method)
    other.train_step(views())
    model.begin_at(other, other.encoder)
    for mine, theirs in zip(model.heads, other.heads, strict=True):
        np.testing.assert_array_equal(mine.get_weights()[0], theirs.get_weights()[0])


@pytest.mark.parametrize("method", ["simclr", "byol", "swav", "moco"])
def test_without_a_projector_the_embedding_itself_is_compared(method):
    model = made(method, projection=0)
    images = views()[0]
    np.testing.assert_allclose(model(images), model.encoder(images), rtol=1e-6)
    assert model.healthy_std == pytest.approx(6**-0.5)
    model.train_step(views())


def test_nt_xent_is_its_definition():
    """arXiv:2002.05709, equation 1, summed over both orders of every pair."""
    z1, z2, temperature = random(5, 7), random(5, 7), 0.3
    rows = unit(np.concatenate([z1, z2]))
    total = 0.0
    for i in range(10):
        j = (i + 5) % 10
        others = sum(math.exp(float(rows[i] @ rows[k]) / temperature) for k in range(10) if k != i)
        total -= math.log(math.exp(float(rows[i] @ rows[j]) / temperature) / others)
    assert float(nt_xent(z1, z2, temperature)) == pytest.approx(total / 10, rel=1e-5)
    assert float(nt_xent(3 * z1, 0.1 * z2, temperature)) == pytest.approx(total / 10, rel=1e-5), "lengths do not matter"


def test_regression_is_its_definition():
    """arXiv:2006.07733, equation 2."""
    p, z = random(5, 7), random(5, 7)
    expected = sum(float(((a - b) ** 2).sum()) for a, b in zip(unit(p), unit(z), strict=True)) / 5
    assert float(regression(p, z)) == pytest.approx(expected, rel=1e-5)
    assert float(regression(p, 2 * p)) == pytest.approx(0.0, abs=1e-6)


def test_byol_looks_both_ways():
    model = made("byol")
    view1, view2 = views()
    loss, z1, z2 = model.compare(view1, view2)
    p1, p2 = model.predictor(z1, training=True), model.predictor(z2, training=True)
    expected = regression(p1, model.aim(view2)) + regression(p2, model.aim(view1))
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)


def test_info_nce_is_its_definition():
    """arXiv:1911.05722, equation 1."""
    q, k, queue, temperature = unit(random(4, 6)), unit(random(4, 6)), unit(random(9, 6)), 0.2
    total = 0.0
    for query, key in zip(q, k, strict=True):
        positive = math.exp(float(query @ key) / temperature)
        total -= math.log(positive / (positive + sum(math.exp(float(query @ row) / temperature) for row in queue)))
    assert float(info_nce(q, k, queue, temperature)) == pytest.approx(total / 4, rel=1e-5)


def test_the_queue_forgets_the_oldest_first():
    model = METHODS["moco"](encoder(), options("moco", SMALL["moco"] | {"queue": 10}))
    keys = unit(random(12, 16))
    for start in (0, 4, 8):
        model._enqueue(keys[start : start + 4])
    np.testing.assert_array_equal(model.queue.numpy(), keys[[10, 11, *range(2, 10)]])
    assert int(model.oldest) == 2


def test_the_keys_of_a_step_are_the_negatives_of_the_next():
    model = made("moco")
    _, view2 = views()
    keys = unit(model.aim(view2).numpy())
    before = model.queue.numpy()
    model.compare(*views())
    np.testing.assert_allclose(model.queue.numpy()[:128], keys, atol=1e-5)
    np.testing.assert_array_equal(model.queue.numpy()[128:], before[128:])


def test_sinkhorn_shares_the_batch_out_evenly():
    """Against alternate normalisation in slow loops; the limits are arXiv:2006.09882, equation 4."""
    scores, epsilon = random(6, 4).clip(-1, 1), 0.2
    q = [[math.exp(float(s) / epsilon) for s in row] for row in scores]
    for _ in range(3):
        for k in range(4):
            total = sum(q[n][k] for n in range(6))
            for n in range(6):
                q[n][k] /= total * 4
        for n in range(6):
            total = sum(q[n])
            for k in range(4):
                q[n][k] /= total
    np.testing.assert_allclose(sinkhorn(scores, epsilon), q, rtol=1e-4)
    codes = sinkhorn(scores, epsilon, iterations=200).numpy()
    np.testing.assert_allclose(codes.sum(1), 1, atol=1e-4)
    np.testing.assert_allclose(codes.sum(0), 6 / 4, atol=1e-3)


def test_swapped_prediction_is_its_definition():
    """arXiv:2006.09882, equation 2, both ways; codes are targets only."""
    scores, temperature, epsilon = [random(6, 4).clip(-1, 1) for _ in range(2)], 0.1, 0.05
    total = 0.0
    for mine, other in ((0, 1), (1, 0)):
        codes = sinkhorn(scores[other], epsilon).numpy()
        for n in range(6):
            exponentials = [math.exp(float(s) / temperature) for s in scores[mine][n]]
            total -= sum(q * math.log(e / sum(exponentials)) for q, e in zip(codes[n], exponentials, strict=True)) / 6
    variables = [tf.Variable(s) for s in scores]
    with tf.GradientTape() as tape:
        loss = swapped(*variables, temperature, epsilon)
    assert float(loss) == pytest.approx(total / 2, rel=1e-4)
    gradient = tape.gradient(loss, variables[0]).numpy()
    expected = (tf.nn.softmax(scores[0] / temperature).numpy() - sinkhorn(scores[1], epsilon).numpy()) / temperature / 12
    np.testing.assert_allclose(gradient, expected, atol=1e-5, err_msg="of the prediction alone")


def test_prototypes_are_normalised():
    model = made("swav")
    z = random(5, 16)
    kernel = model.prototypes.get_weights()[0]
    expected = unit(z) @ (kernel / np.linalg.norm(kernel, axis=0))
    np.testing.assert_allclose(model.prototypes(z), expected, atol=1e-5)


def test_a_run_knows_the_figures_it_was_made_with():
    settings = Settings(crops=("a",), method="simclr", temperature=0.5)
    assert (settings.temperature, settings.rate, settings.weight_decay) == (0.5, 0.3, 1e-6)
    assert (settings.queue, settings.stop_gradient) == (None, None), "not simclr's"
    settings = Settings(crops=("a",))
    assert (settings.rate, settings.weight_decay, settings.momentum, settings.projection) == (0.05, 1e-4, 0.9, 2048)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"temperature": 0.1}, "simsiam has no --temperature: leave it out, or choose a method that has it (simclr, swav, moco)"),
        ({"method": "simclr", "stop_gradient": False}, "simclr has no --no-stop-gradient: "),
        ({"method": "byol", "predictor": False}, "byol has no --no-predictor: "),
        ({"method": "moco", "prototypes": 9}, "moco has no --prototypes: "),
        ({"method": "dino"}, "no method is called dino: choose one of simsiam, simclr, byol, swav, moco"),
        ({"views": "dino"}, "no views are called dino"),
        ({"method": "simclr", "temperature": 0.0}, "--temperature is 0.0: give a number above 0"),
        ({"method": "byol", "target_momentum": 1.5}, "--target-momentum is 1.5"),
        ({"projection": 0}, "--projection is 0: SimSiam needs a projector"),
        ({"weight_decay": -1.0}, "--weight-decay is -1.0"),
    ],
)
def test_options_that_a_method_does_not_have_are_refused(given, said):
    with pytest.raises(InputError) as error:
        Settings(crops=("a",), **given)
    assert str(error.value).startswith(said)


def test_a_queue_shorter_than_a_batch_is_refused():
    with pytest.raises(InputError, match="--queue 256 holds less than a batch of 512"):
        made("moco").ready(batch=512, steps=1)
