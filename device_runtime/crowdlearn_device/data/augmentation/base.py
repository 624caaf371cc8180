"""The base of every augmentation: a random change of samples that leaves what they show."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]
MOST_OPTION = 1_000_000


@dataclass(frozen=True)
class Augmentation(ABC):
    """A change that is drawn anew for each sample of a mini-batch. Its fields are its options, all numbers.

    Raises ValueError if an option is not a number from 0 to MOST_OPTION.
    """

    kind: ClassVar[str]
    """The name in configurations and assignments."""
    axes: ClassVar[int] = 0
    """The least number of axes that a sample has."""
    takes: ClassVar[str] = "samples of any shape"

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0 <= value <= MOST_OPTION:
                raise ValueError(
                    f"{field.name} of {self.kind} is {value}; give a number from 0 to {MOST_OPTION}"
                )
            if field.type == "int" and value != int(value):
                raise ValueError(f"{field.name} of {self.kind} is {value}; give a whole number")

    def misfit(self, sample: tuple[int, ...]) -> str:
        """Return why samples of this shape cannot be changed so; empty if they can."""
        return "" if len(sample) >= self.axes else f"{self.kind} takes {self.takes}"

    @abstractmethod
    def applied(self, samples: Samples, draw: np.random.Generator) -> Samples:
        """Return the samples, changed: float32 [rows, ...] as they came. Those that came stay as they are."""
