"""Self-supervised methods, chosen by name: one module each."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from device.program import InputError
from train.methods.base import Method, Options, option
from train.methods.byol import BYOL
from train.methods.moco import MoCo
from train.methods.simclr import SimCLR
from train.methods.simsiam import SimSiam
from train.methods.swav import SwAV

__all__ = ["METHODS", "OPTIONS", "Method", "Options", "options"]

METHODS: dict[str, type[Method]] = {"simsiam": SimSiam, "simclr": SimCLR, "byol": BYOL, "swav": SwAV, "moco": MoCo}


def _names(method: str) -> set[str]:
    return {field.name for field in fields(METHODS[method].takes)}


OPTIONS = frozenset().union(*map(_names, METHODS))  # all that any of them has


def options(method: str, given: Mapping[str, Any]) -> Options:
    """The options of `method`: what is `given`, and its paper's figure where None is.

    Raises InputError for a method that does not exist and for an option that it does not have.
    """
    if method not in METHODS:
        raise InputError(f"no method is called {method}", f"choose one of {', '.join(METHODS)}")
    chosen = {name: value for name, value in given.items() if value is not None}
    for name in chosen.keys() - _names(method):
        takers = ", ".join(other for other in METHODS if name in _names(other))
        raise InputError(f"{method} has no {option(name, chosen[name])}", f"leave it out, or choose a method that has it ({takers})")
    return METHODS[method].takes(**chosen)
