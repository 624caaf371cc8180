"""What secure sums ask their shell to do, in this order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from crowdlearn_device.privacy.aggregation.messages import Revealed
from crowdlearn_device.protocol import wire_pb2 as pb
from numpy import int64
from numpy.typing import NDArray

from crowdlearn_host.coordinator.group.restore_points import Place
from crowdlearn_host.privacy.aggregation.aggregator import Aggregator

from .norms import Norms


@dataclass(frozen=True)
class SendStep:
    """Send a device a step of a sum, if it is connected."""

    device: int
    step: pb.SumStep


@dataclass(frozen=True)
class Keep:
    """Write `state` to disk, and the total of the attempt under way, if there is one."""

    state: Mapping[str, Any]
    attempt: Aggregator | None = None


@dataclass(frozen=True)
class Release:
    """Unmask the sum, and let its mean at these `positions`, int64 [n], enter the global model together with
    `state`; then `released` is to be called. What is summed are weights, or how they `moved` from those of
    the global model. If it has other projections than `norms`, `contradicted` is to be called in place of
    `released`, and nothing is released.
    """

    state: Mapping[str, Any]
    attempt: Aggregator
    revealed: tuple[Revealed, ...]
    positions: NDArray[int64]
    place: Place
    moved: bool = False
    norms: Norms | None = None
    """The projections that the sum must have."""


@dataclass(frozen=True)
class SendReference:
    """Send a device the global model's weights at these `positions`, int64 [n]: how its own moved from them
    is what it adds to the sum.
    """

    device: int
    generation: int
    attempt: bytes
    positions: NDArray[int64]


@dataclass(frozen=True)
class Over:
    """Tell a group that the round which began at `place` is over for it."""

    group: int
    place: Place


@dataclass(frozen=True)
class Stop:
    """End the run."""

    reason: str


@dataclass(frozen=True)
class Tell:
    """Something the run's event log should tell."""

    event: str
    fields: dict[str, Any] = field(default_factory=dict)


SumEffect = SendStep | SendReference | Keep | Release | Over | Stop | Tell
