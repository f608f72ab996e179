import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from convert import calibration

VALUES = arrays.arrays(np.float32, st.integers(1, 200), elements=st.floats(-100, 100, width=32))


def seen(*batches: np.ndarray) -> calibration.Reached:
    watch = calibration.Watch(len(batches))
    for batch in batches:
        watch.see(batch)
    return watch.reached()


def squared_error(values: np.ndarray, low: float, high: float) -> float:
    """Of storing `values` in 256 steps from low to high, one by one."""
    step = (high - low) / 255
    stored = [round(min(max(value, low), high) / step) * step for value in values.astype(float)]
    return float(np.mean([(a - b) ** 2 for a, b in zip(stored, values, strict=True)]))


@settings(deadline=None, max_examples=40)
@given(VALUES, VALUES)
def test_least_and_greatest_are_those_of_all_batches(first, second):
    reached = seen(first, second.reshape(-1, 1))
    both = np.concatenate([first, second])
    assert (reached.low, reached.high) == (both.min(), both.max())
    assert sorted(reached.sample) == sorted(both), "few values are kept whole"


def test_of_many_values_a_sample_is_kept():
    rng = np.random.default_rng(0)
    reached = seen(*(rng.normal(size=(8, 50, 50, 10)).astype(np.float32) for _ in range(4)))
    assert calibration.SAMPLE <= len(reached.sample) <= calibration.SAMPLE + 4
    assert abs(reached.sample.mean()) < 0.02
    assert reached.sample.std() == pytest.approx(1, abs=0.02)


@settings(deadline=None, max_examples=40)
@given(VALUES, st.sampled_from(sorted(calibration.METHODS)))
def test_every_range_holds_zero_and_reaches_no_farther_than_the_values(values, method):
    reached = seen(values)
    low, high = calibration.bounds(reached, method)
    assert min(reached.low, 0) - 1e-4 <= low <= 0 <= high <= max(reached.high, 0) + 1e-4


def test_one_far_value_widens_min_max_alone():
    rng = np.random.default_rng(1)
    reached = seen(np.append(rng.normal(size=20_000), 300).astype(np.float32))
    assert calibration.bounds(reached, "min-max")[1] == 300
    assert calibration.bounds(reached, "percentile-99.9")[1] < 5
    assert calibration.bounds(reached, "percentile-99.9")[1] < calibration.bounds(reached, "percentile-99.99")[1] < 300
    assert calibration.bounds(reached, "mse")[1] < 300


@pytest.mark.parametrize("tail", [0.0, 30.0])
def test_mse_leaves_no_more_error_than_min_max(tail):
    rng = np.random.default_rng(2)
    values = np.append(rng.normal(size=3000), tail).astype(np.float32)
    reached = seen(values)
    errors = {method: squared_error(values, *calibration.bounds(reached, method)) for method in ("min-max", "mse")}
    assert errors["mse"] <= errors["min-max"] * (1 + 1e-6)


@pytest.mark.parametrize("method", calibration.METHODS)
def test_an_activation_that_is_always_zero(method):
    assert calibration.bounds(seen(np.zeros(10, np.float32)), method) == (0.0, 0.0)
