"""Losses by name."""

from __future__ import annotations

from typing import Any

from .base import Loss
from .classes import CrossEntropy
from .numbers import AbsoluteError, BinaryCrossEntropy, HuberError, SquaredError
from .own import OwnLoss

LOSSES: dict[str, type[Loss]] = {
    each.kind: each for each in (CrossEntropy, SquaredError, AbsoluteError, HuberError, BinaryCrossEntropy)
}
CROSS_ENTROPY = CrossEntropy()
"""The loss by default."""


def make_loss(kind: str, **options: Any) -> Loss:
    """Return the loss called `kind`; "own" is a user's."""
    return OwnLoss(**options) if kind == OwnLoss.kind else LOSSES[kind](**options)
