"""From the values that an activation reaches to the range that its 8 bits cover: what is cut off against how fine the steps are.

TensorFlow Lite's converter knows the least and the greatest value only, and tensorflow-model-optimization a moving average
of them; so quantize.py sets the ranges itself, and these are the ways (Wu et al. 2020, arXiv:2004.09602, section 4.2).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

SAMPLE = 2**16  # values kept of an activation
STEPS = 255


@dataclass(frozen=True)
class Reached:
    """What an activation reached: its least and greatest value, and a `sample` float32 [N] of all."""

    low: float
    high: float
    sample: np.ndarray


class Watch:
    """Collects what one activation reaches, batch by batch; at most about SAMPLE values of all `batches` are kept."""

    def __init__(self, batches: int, seed: int = 0):
        self.low, self.high = np.inf, -np.inf
        self.each = -(-SAMPLE // batches)
        self.kept: list[np.ndarray] = []
        self.rng = np.random.default_rng(seed)

    def see(self, values: np.ndarray) -> None:
        """One batch of the activation, of any shape."""
        flat = values.reshape(-1)
        self.low, self.high = min(self.low, float(flat.min())), max(self.high, float(flat.max()))
        self.kept.append(flat[self.rng.integers(0, flat.size, self.each)] if flat.size > self.each else flat)

    def reached(self) -> Reached:
        return Reached(self.low, self.high, np.concatenate(self.kept))


def _percentile(share: float) -> Callable[[Reached], tuple[float, float]]:
    def bounds(reached: Reached) -> tuple[float, float]:
        low, high = np.percentile(reached.sample, (100 - share, share))
        return float(low), float(high)

    return bounds


def _least_error(reached: Reached) -> tuple[float, float]:
    """The range, of those between a quarter and the whole of what is reached, that leaves the least squared error."""

    def error(share: float) -> float:
        low, high = share * min(reached.low, 0.0), share * max(reached.high, 0.0)
        step = max((high - low) / STEPS, np.finfo(np.float32).tiny)
        stored = np.round(np.clip(reached.sample, low, high) / step) * step
        return float(((stored - reached.sample) ** 2).mean())

    best = min(np.linspace(1.0, 0.25, 31), key=error)
    return best * reached.low, best * reached.high


METHODS: dict[str, Callable[[Reached], tuple[float, float]]] = {
    "min-max": lambda reached: (reached.low, reached.high),
    "percentile-99.99": _percentile(99.99),
    "percentile-99.9": _percentile(99.9),
    "mse": _least_error,
}


def bounds(reached: Reached, method: str) -> tuple[float, float]:
    """The range (low, high) of 8 bits for an activation, by one of METHODS; it holds 0, which padding and ReLU need."""
    low, high = METHODS[method](reached)
    return min(low, 0.0), max(high, 0.0)
