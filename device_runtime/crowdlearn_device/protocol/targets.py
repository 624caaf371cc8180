"""Targets: what a loss compares scores with."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TargetSpec:
    """The target with which a loss compares the scores of one sample: classes from 0 (int64), or numbers
    (float32) of this shape from `least` to `most`.
    """

    dtype: str = "int64"
    shape: tuple[int, ...] = ()
    least: float | None = None
    most: float | None = None

    @property
    def are_classes(self) -> bool:
        """True if a target is a class."""
        return self.dtype == "int64"


CLASSES = TargetSpec()
