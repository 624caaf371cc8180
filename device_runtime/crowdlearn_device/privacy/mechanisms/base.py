"""The base of privacy mechanisms: steps of the chain that everything leaves a device by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from crowdlearn_device.errors import WireError
from crowdlearn_device.protocol.frames import Floats

Indices = NDArray[np.uint32]


@dataclass(frozen=True)
class Place:
    """The place in a run of a device that works on a piece. `secret` is the device's own, of this run."""

    generation: int = 0
    epoch: int = 0
    piece: int = -1
    secret: int = 0


@dataclass(frozen=True)
class SumsPlace:
    """The place of sums or errors: mini-batch `step`, micro-batch, edge, and the piece that they are for."""

    kind: Literal["sums", "errors"]
    step: int
    micro: int
    edge: int
    partner: int


@dataclass(frozen=True)
class Metrics:
    """The dominator's report of its samples: mean loss over `rows`, and how many were classified correctly.
    `last` is true at the end of its pass. `own` are means of a user's own metrics, by name.
    """

    rows: int
    loss: float
    correct: int
    last: bool = False
    own: Mapping[str, float] = field(default_factory=dict)


class Mechanism:
    """One step of the chain. It passes on what it does not change; subclasses override what they act on.

    A mechanism lives from an assignment to the next: after a recovery a new one begins.
    """

    name: ClassVar[str]
    settings: ClassVar[tuple[str, ...]] = ()
    """The settings that it takes, all of them numbers."""

    def __init__(self, settings: Mapping[str, float], place: Place) -> None:
        if unknown := sorted(set(settings) - set(self.settings)):
            known = ", ".join(self.settings) or "none"
            raise WireError(f"mechanism {self.name} has no setting {', '.join(unknown)}; it has {known}")
        self.place = place

    def sums(self, values: Floats, at: SumsPlace) -> Floats:
        """Return the sums or errors that leave, float32 [rows, neurons, ...] as they came."""
        return values

    def weights(self, indices: Indices, values: Floats, number: int) -> Floats:
        """Return the values that are uploaded in round `number`: float32 [weights], at uint32 `indices` of
        the model's flat vector.
        """
        return values

    def metrics(self, metrics: Metrics) -> Metrics | None:
        """Return the report that leaves after a mini-batch; None if none does."""
        return metrics
