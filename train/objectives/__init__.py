"""Objectives of fine-tuning: one loss a module, chosen by name and added up with weights."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from device.program import InputError
from train.objectives.arcface import ArcFace
from train.objectives.base import Figures, Objective
from train.objectives.contrastive import Contrastive
from train.objectives.distill import Distill
from train.objectives.mining import MINING, stuck
from train.objectives.quadruplet import Quadruplet
from train.objectives.softmax import Softmax
from train.objectives.triplet import Triplet

__all__ = ["MINING", "OBJECTIVES", "Objective", "parse", "stuck", "terms", "total"]

OBJECTIVES: dict[str, type[Objective]] = {
    "contrastive": Contrastive,
    "triplet": Triplet,
    "quadruplet": Quadruplet,
    "softmax": Softmax,
    "arcface": ArcFace,
    "distill": Distill,
}


def terms(text: str) -> list[tuple[float, str]]:
    """(weight, name) of each summand of e.g. distill+0.5*triplet; a summand without a weight weighs 1.

    Raises InputError if an objective does not exist, occurs twice, or has no weight above 0.
    """
    found = []
    for part in text.split("+"):
        factor, star, name = part.strip().rpartition("*")
        try:
            weight = float(factor) if star else 1.0
        except ValueError:
            weight = 0.0
        name = name.strip()
        if name not in OBJECTIVES:
            raise InputError(f"no objective is called {name or 'nothing'}", f"{', '.join(OBJECTIVES)} can be added up: softmax+0.5*triplet")
        if not 0 < weight < float("inf"):
            raise InputError(f"the weight of {name} is {factor}", "give a number above 0, like 0.5*triplet")
        found.append((weight, name))
    names = [name for _, name in found]
    if len(set(names)) < len(names):
        raise InputError(f"the objective {text} names one twice", "name each once, with its weight")
    return found


def parse(text: str, **settings: Any) -> list[tuple[float, Objective]]:
    """Weights and objectives of e.g. distill+0.5*triplet.

    Each objective takes of `settings` (people, margin, mining, ...) what it knows; None stands for its own default.
    Raises InputError for what `terms` refuses and for a setting that none of the objectives knows.
    """
    given = {setting: value for setting, value in settings.items() if value is not None}
    chosen = [(weight, OBJECTIVES[name]) for weight, name in terms(text)]
    for setting in given:
        if setting != "people" and not any(setting in _settings(make) for _, make in chosen):
            takers = ", ".join(name for name, make in OBJECTIVES.items() if setting in _settings(make))
            raise InputError(f"{text} has no {setting}", f"leave it out, or choose an objective that has it ({takers or 'none'})")
    return [(weight, make(**{k: given[k] for k in given.keys() & _settings(make)})) for weight, make in chosen]


def _settings(make: type[Objective]) -> set[str]:
    return set(inspect.signature(make).parameters) - {"name"}


def total(
    objectives: Sequence[tuple[float, Objective]], embeddings: tf.Tensor, targets: Mapping[str, tf.Tensor]
) -> tuple[tf.Tensor, Figures]:
    """The weighted sum, a scalar, and all figures; of several objectives each one's own loss too, under its name.

    `targets` holds what the objectives need: "labels" int32 [B] and "teacher" float32 [B, T].
    """
    loss: tf.Tensor = tf.zeros(())
    figures: Figures = {}
    for weight, objective in objectives:
        part, told = objective(embeddings, targets[objective.needs])
        loss += weight * part
        figures |= told | ({objective.name: part} if len(objectives) > 1 else {})
    return loss, figures
