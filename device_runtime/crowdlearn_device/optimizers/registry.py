"""Optimizers by name, and in JSON."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any, Literal

from .adam import Adam, AdamW
from .base import Optimizer
from .sgd import Sgd

Kind = Literal["sgd", "adam", "adamw"]
"""The names of optimizers in configurations."""
OPTIMIZERS: dict[str, type[Optimizer]] = {each.kind: each for each in (Sgd, Adam, AdamW)}
SLOTS = frozenset({"momentum", *Adam().slots, *AdamW().slots})
"""The names of all arrays that some optimizer keeps."""


def typical(kind: str, *, momentum: bool) -> Optimizer:
    """Return the optimizer of this name as far as memory and messages are concerned."""
    return Sgd(momentum=0.9 * momentum) if kind == Sgd.kind else OPTIMIZERS[kind]()


def described(optimizer: Optimizer) -> dict[str, Any]:
    """Return the manifest's words for it: `kind`, and the options by name."""
    return {"kind": optimizer.kind, **asdict(optimizer)}


def read_optimizer(described: Any) -> Optimizer:
    """Return the optimizer that `described` gave. Raises ValueError, TypeError or KeyError if it is none."""
    options = dict(described)
    kind = OPTIMIZERS[options.pop("kind")]
    kinds = {field.name: field.type for field in fields(kind)}
    for name, value in options.items():
        wanted = (bool,) if kinds[name] in ("bool", bool) else (int, float)
        if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
            raise TypeError(f"{name} of {kind.kind} is {str(value)[:40]!r}")
    return kind(**options)
