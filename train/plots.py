"""ROC and DET curves of encoders side by side, as PNG files."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from scipy.stats import norm

from device.program import MissingError, replacing

RATES = (0.001, 0.01, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.95)  # ticks of the DET curve


def roc(curves: Mapping[str, np.ndarray], pairs: int, path: Path) -> None:
    """Accepted same pairs over accepted different pairs. `curves`: name to [2, K] (metrics.Verification.curve).

    The abscissa is logarithmic and ends where a single one of `pairs` different pairs is accepted. Raises MissingError
    where matplotlib is not installed, InputError where `path` cannot be written.
    """
    figure, axes = _figure("ROC", "false-accept rate (FMR)", "true-accept rate (1 - FNMR)")
    for name, (far, tar) in curves.items():
        axes.step(np.maximum(far, 1 / pairs), tar, where="post", label=name)
    axes.set_xscale("log")
    axes.set_xlim(1 / pairs, 1)
    axes.set_ylim(0, 1.005)
    axes.legend()
    _save(figure, path)


def det(curves: Mapping[str, np.ndarray], path: Path) -> None:
    """The two error rates over each other on normal deviates, on which normally distributed scores give straight lines
    (Martin et al. 1997, "The DET curve in assessment of detection task performance")."""
    figure, axes = _figure("DET", "false match rate (FMR)", "false non-match rate (FNMR)")
    for name, (far, tar) in curves.items():
        inside = (far > 0) & (tar < 1)
        axes.plot(norm.ppf(far[inside]), norm.ppf(1 - tar[inside]), label=name)
    ticks, words = norm.ppf(RATES), [f"{100 * rate:g} %" for rate in RATES]
    axes.set_xticks(ticks, words)
    axes.set_yticks(ticks, words)
    axes.set_xlim(ticks[0], ticks[-1])
    axes.set_ylim(ticks[0], ticks[-1])
    axes.legend()
    _save(figure, path)


def _figure(title: str, across: str, up: str):
    try:
        from matplotlib.figure import Figure  # pyplot would ask for a screen
    except ImportError as error:
        raise MissingError("matplotlib is not installed", "pip install matplotlib") from error
    figure = Figure(figsize=(6, 5), layout="constrained")
    axes = figure.add_subplot(title=title, xlabel=across, ylabel=up)
    axes.grid(alpha=0.3)
    return figure, axes


def _save(figure, path: Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150)
