"""A sharing strategy: how what devices learn becomes one global model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar


class SharingStrategy(ABC):
    """The numbers of a strategy, alike on devices and in simulation.

    `shares` tells whether devices exchange weights at all; if not, the global model is the mean of the
    groups. `windowed` tells whether it is the average of a window of uploads.
    """

    name: ClassVar[str]
    shares: ClassVar[bool]
    windowed: ClassVar[bool]

    @abstractmethod
    def members(self, group: int) -> int:
        """Return how many devices train one copy of the network together, of groups of `group` devices."""

    @abstractmethod
    def copies(self, devices: int, group: int) -> int:
        """Return how many copies of the network are kept from round to round."""

    @abstractmethod
    def rounds_an_epoch(self, group: int, every: int) -> int:
        """Return how many rounds an epoch has if groups share after `every` passes (0: after all)."""

    def alone(self) -> SharingStrategy:
        """Return the strategy of the same devices if sharing is switched off."""
        return self
