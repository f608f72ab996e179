"""What a training shows of itself."""

from dataclasses import dataclass

import cv2
import numpy as np
import pytest
import tensorflow as tf

from device.program import InputError
from train import encoders, probes, watch
from train.views import Views


@dataclass(frozen=True)
class Told:
    """A training's settings, as far as probes look at them."""

    epochs: int = 5
    seed: int = 0
    probe_every: int = 2
    probe_crops: str | None = None
    probe_pairs: str | None = None
    knn_crops: str | None = None
    knn_labels: str | None = None


def row(epoch, std, healthy=0.1):
    return {"epoch": epoch, "loss": 1.0 / epoch, "std": std, "std_healthy": healthy}


def test_two_epochs_running_under_a_fifth_are_a_collapse():
    for stds, collapsed in [
        ([0.019], False),
        ([0.019, 0.019], True),
        ([0.019, 0.021], False),
        ([0.019, 0.021, 0.019], False),
        ([0.1, 0.019, 0.0], True),
    ]:
        rows = [row(epoch, std) for epoch, std in enumerate(stds, 1)]
        assert (watch.collapse(rows) is not None) == collapsed, stds
    assert watch.collapse([{"epoch": 1, "loss": 0.0}, {"epoch": 2, "loss": 0.0}]) is None, "not every training has such a figure"
    assert watch.collapse([]) is None


@pytest.fixture(scope="module")
def crops(astronaut):
    photo, rng = cv2.imread(str(astronaut))[..., ::-1], np.random.default_rng(0)
    corners = rng.integers(0, 400, size=(30, 2))
    return np.stack([photo[y : y + 112, x : x + 112] for y, x in corners])


def test_probes_are_asked_now_and_then_and_at_the_end(crops, tmp_path):
    for person, crop in enumerate(crops[:2]):
        (tmp_path / "people" / str(person)).mkdir(parents=True)
        for shade in range(3):
            cv2.imwrite(str(tmp_path / "people" / str(person) / f"{shade}.png"), cv2.convertScaleAbs(crop, beta=10.0 * shade))
    views, encoder = Views(size=32), encoders.build("fused", size=32, dimension=8, width=0.25)
    ask = watch.Probes(Told(knn_crops=str(tmp_path / "people")), crops, views)
    told = {epoch: ask(epoch, encoder) for epoch in range(1, 6)}
    assert [epoch for epoch, figures in told.items() if figures] == [2, 4, 5]
    assert told[2] == told[4], "the same crops and views each time"
    assert told[2].keys() == {"effective_rank", "alignment", "uniformity", "knn"}
    embedded = encoders.embed(encoder, crops)
    assert told[2]["effective_rank"] == pytest.approx(probes.effective_rank(embedded))
    assert told[2]["uniformity"] == pytest.approx(probes.uniformity(embedded))
    flat = encoders.whitened(encoder, crops, shrink=0.01)
    assert ask(2, flat, encoder)["effective_rank"] == told[2]["effective_rank"], "whitening would hide the rank"
    assert 0 < told[2]["alignment"] < 4


def test_views_that_change_nothing_are_aligned(crops):
    still = Views(size=112, area=(1, 1), ratio=(1, 1), flip=0, jitter=0, grey=0, blur=0)
    encoder = encoders.build("fused", size=32, dimension=8, width=0.25)
    assert watch.Probes(Told(), tf.constant(crops), still)(2, encoder)["alignment"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"probe_crops": "lfw.zip"}, "give both --probe-crops and --probe-pairs"),
        ({"knn_labels": "who.csv"}, "add --knn-crops"),
        ({"probe_every": 0}, "--probe-every is 0"),
        ({"knn_crops": "nowhere"}, "nowhere"),
    ],
)
def test_probes_that_cannot_be(crops, wrong, said):
    with pytest.raises(InputError, match=said):
        watch.Probes(Told(**wrong), crops, Views(size=32))


def test_figures_are_drawn_and_told_to_tensorboard(tmp_path):
    events = tf.summary.create_file_writer(str(tmp_path / "tensorboard"))
    rows = [row(1, 0.09) | {"accuracy": 0.6, "auc": 0.7}, row(2, 0.08), row(3, 0.085) | {"accuracy": 0.7, "auc": 0.8, "knn": 0.2}]
    watch.show(rows[:2], tmp_path, events)
    small = cv2.imread(str(tmp_path / "curves.png"))
    watch.show(rows, tmp_path, events)
    large = cv2.imread(str(tmp_path / "curves.png"))
    assert (small != 255).mean() > 0.01 and large.shape[0] == 2 * small.shape[0], "a second row of panels, for nearest neighbours"
    (file,) = (tmp_path / "tensorboard").iterdir()
    told = {}
    for record in tf.data.TFRecordDataset(str(file)):
        event = tf.compat.v1.Event.FromString(record.numpy())
        for value in event.summary.value:
            assert value.metadata.plugin_data.plugin_name == "scalars"
            told.setdefault(event.step, {})[value.tag] = float(tf.make_ndarray(value.tensor))
    assert told == {2: pytest.approx(rows[1]), 3: pytest.approx(rows[2])}
