"""Memory that a program needs, by the neurons that a piece owns; for the planner, which compiles nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

MemoryUse = Literal["least", "balanced", "fastest"]
"""A program's weighing of memory against time; the one with the least memory comes first."""
USUAL: MemoryUse = "balanced"
"""The weighing of runs and plans that name none."""


@dataclass(frozen=True)
class Line:
    """A linear bound: `each` bytes, and `neuron` for every neuron that a piece owns of a layer."""

    each: float
    neuron: float

    def at(self, neurons: int) -> float:
        """Return bytes for so many neurons."""
        return self.each + self.neuron * neurons


Curve = tuple[Line, ...]
"""Bytes by neurons: the highest of these lines."""


@dataclass(frozen=True)
class Footprint:
    """Arena and workspace per layer. A piece needs the largest of each.

    `regions` has the bytes of arena and workspace that a piece's last layers take as one program, by the
    first of them; of some, since each takes as long to learn as to export. Where the whole network is one of
    them, `step` is what a training step in one call takes.
    """

    arenas: tuple[Curve, ...]
    workspaces: tuple[Curve, ...]
    regions: Mapping[int, float] = field(default_factory=dict)
    step: float = 0.0
