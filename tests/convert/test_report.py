import re
from html.parser import HTMLParser

import numpy as np
import pytest

from convert import report


def layer(name: str, lost: float) -> dict:
    cosines = {"mean": 0.99, "first_percentile": 0.98}
    return {"name": name, "fake_quant": cosines, "int8": cosines, "lost": lost}


def verified(accuracy: float) -> dict:
    return {"accuracy": {"mean": accuracy, "std": 0.01}, "tar": {"0.01": 0.5, "0.001": 0.25}, "auc": 0.9}


@pytest.fixture
def found() -> dict:
    parity = {"mean": 0.98765, "first_percentile": 0.95, "crops": 40}
    return {
        "method": "distill",
        "calibration": {"crops": 512, "ranges": "min-max"},
        "parity": parity,
        "parity_centred": parity,
        "layers": [layer("stem", 0.001), layer("<b>widen", 0.02), layer("embedding", -0.01)],
        "worst_layer": "<b>widen",
    }


@pytest.fixture
def crops() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    cosines = rng.uniform(0.9, 1, 40)
    return rng.integers(0, 256, (40, 112, 112, 3)).astype(np.uint8), cosines, cosines - 0.05


class Parsed(HTMLParser):
    """Counts tags, and keeps what marked rows and captions say and what is pointed at."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[str] = []
        self.pointed: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.pointed += [value for name, value in attrs if name in ("src", "href")]


def test_the_page_is_whole_and_needs_nothing_else(found, crops):
    text = report.page("mine", found, *crops)
    parsed = Parsed(text)
    assert parsed.tags.count("figure") == report.SHOWN
    assert parsed.tags.count("table") == 2
    assert all(target.startswith("data:image/") for target in parsed.pointed)
    assert "script" not in parsed.tags
    assert "<td>0.9877</td>" in text


def test_names_do_not_become_markup(found, crops):
    text = report.page("<i>mine", found, *crops)
    assert "<i>" not in text
    assert "<b>widen" not in text
    assert "&lt;b&gt;widen</b> loses most" in text
    assert re.search(r'<tr class="worst"><td>&lt;b&gt;widen</td>', text)


def test_the_crops_that_suffer_most_come_first(found, crops):
    images, plain, centred = crops
    told = [float(value) for value in re.findall(r"<figcaption>(-?[\d.]+) \(", report.page("mine", found, images, plain, centred))]
    assert told == pytest.approx(np.sort(centred)[: report.SHOWN], abs=1e-4)


def test_fewer_crops_than_places(found, crops):
    few = [part[:3] for part in crops]
    assert Parsed(report.page("mine", found, *few)).tags.count("figure") == 3


def test_what_was_measured_besides_is_shown(found, crops):
    found["lfw"] = {kind: verified(accuracy) for kind, accuracy in (("float", 0.9), ("ptq", 0.8), ("int8", 0.89))}
    for kind, loss in (("ptq", 0.1), ("int8", 0.01)):
        found["lfw"][f"float_minus_{kind}"] = {"difference": loss, "low": loss - 0.005, "high": loss + 0.005}
    figures = {"mean": 0.97, "first_percentile": 0.9}
    found["epochs"] = [{"epoch": 0, **figures}, {"epoch": 1, "loss": 0.5, **figures, "mean": 0.99}, {"epoch": 2, "loss": 0.4, **figures}]
    found["sweep"] = [{"crops": size, "ranges": ranges, **figures} for size in (16, 64) for ranges in ("min-max", "mse")]
    text = report.page("mine", found, *crops)
    assert "+10.00 (+9.50 to +10.50)" in text
    assert "+1.00 (+0.50 to +1.50)" in text
    assert "epoch 1 was kept" in text
    assert "epoch 2 was kept" in report.page("mine", {**found, "method": "qat"}, *crops)
    assert Parsed(text).tags.count("table") == 5
