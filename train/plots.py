"""Drawings as PNG files: ROC and DET curves of encoders side by side, the curves of a training."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy.stats import norm

from device.program import MissingError, replacing

RATES = (0.001, 0.01, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.95)  # ticks of the DET curve

# What a training's curves show together, and the panel's title; any other figure has a panel of its own.
PANELS = {
    ("std", "std_healthy"): "std of unit outputs",
    ("accuracy", "auc"): "verification",
    ("knn",): "nearest neighbours",
    ("images_per_second",): "images/s",
}


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


def curves(epochs: Sequence[Mapping[str, float]], path: Path) -> None:
    """The figures of a training over its epochs, panel by panel; what was measured now and then is drawn from point to point."""
    names = dict.fromkeys(name for row in epochs for name in row if name != "epoch")
    panels = list(dict.fromkeys(next((group for group in PANELS if name in group), (name,)) for name in names))
    across, down = min(len(panels), 3), -(-len(panels) // 3)
    figure = _drawing((4 * across, 2.8 * down))
    for place, group in enumerate(panels, 1):
        title = PANELS.get(group, group[0].replace("_", " "))
        axes = figure.add_subplot(down, across, place, title=title, xlabel="epoch")
        axes.grid(alpha=0.3)
        for name in group:
            points = [(row["epoch"], row[name]) for row in epochs if name in row]
            axes.plot(*zip(*points, strict=True), label=name, marker=".", linestyle="--" if name == "std_healthy" else "-")
        axes.xaxis.get_major_locator().set_params(integer=True)
        if group[0] in ("std", "images_per_second"):  # how far they are from nothing matters
            axes.set_ylim(0, 1.1 * axes.dataLim.y1)
        if len(group) > 1:
            axes.legend()
    _save(figure, path)


def _figure(title: str, across: str, up: str):
    figure = _drawing((6, 5))
    axes = figure.add_subplot(title=title, xlabel=across, ylabel=up)
    axes.grid(alpha=0.3)
    return figure, axes


def _drawing(size: tuple[float, float]):
    try:
        from matplotlib.figure import Figure  # pyplot would ask for a screen
    except ImportError as error:
        raise MissingError("matplotlib is not installed", "pip install matplotlib") from error
    return Figure(figsize=size, layout="constrained")


def _save(figure, path: Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150)
