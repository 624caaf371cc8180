"""The base of selections: which of the devices that wait a run gets."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from crowdlearn_device.platform.battery import DeviceState


@dataclass(frozen=True)
class Candidate:
    """A device that waits. `waited` is seconds; `rested` is seconds since it was last given to a run,
    infinite for a device that never was; `runs` is how many it was given to.
    """

    name: str
    samples: int
    state: DeviceState
    waited: float
    rested: float
    runs: int


class Selection(ABC):
    """A way to choose devices; `lots` are what it draws by."""

    name: ClassVar[str]

    def __init__(self, lots: random.Random) -> None:
        self.lots = lots

    @abstractmethod
    def refusal(self, candidate: Candidate) -> str:
        """Return why a device takes part in nothing now; "" if it may."""

    @abstractmethod
    def order(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Return these candidates, all of which may take part, those to be taken first in front."""

    def choose(self, candidates: Sequence[Candidate], most: int) -> list[Candidate]:
        """Return at most so many of the candidates that may take part."""
        return self.order([each for each in candidates if not self.refusal(each)])[:most]
