"""The events of a group: all that can happen to it. `handlers/table.py` has the function that handles each.

What only feeds the sense of time (`group.pace.heard`, `group.pace.restart`) is no event: nothing follows
from it before the next tick.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

from crowdlearn_device.protocol import wire_pb2 as pb

from .restore_points import Device, Place


@dataclass(slots=True)
class Joined:
    """A device connected, for the first time or again."""

    device: Device


@dataclass(slots=True)
class Left:
    """A device's connection ended."""

    device: int
    reason: str


@dataclass(slots=True)
class Received:
    """A frame came from a device: any but envelopes, snapshots and what the hub answers itself."""

    device: int
    frame: pb.Frame


@dataclass(slots=True)
class Stored:
    """A piece's snapshot is on the server's disk; these devices can read it."""

    generation: int
    boundary: int
    piece: int
    heirs: frozenset[int]


@dataclass(slots=True)
class Ticked:
    """Time has passed: it is `now`, in seconds of any clock that never goes back."""

    now: float


@dataclass(slots=True)
class Owing:
    """A secure sum waits for these devices, of any group, and for no others."""

    devices: Set[int]


@dataclass(slots=True)
class Summed:
    """The secure sum of the round that began at `place` is over."""

    place: Place


@dataclass(slots=True)
class Stopped:
    """The run ends for all devices, and can be resumed."""

    reason: str


@dataclass(slots=True)
class Drawn:
    """The first weights, which the group waited for, are the global model's."""


@dataclass(slots=True)
class Chosen:
    """Validation has chosen an epoch of the run, whose model devices are to keep."""


@dataclass(slots=True)
class Barred:
    """A device may take no further part."""

    device: int
    reason: str


Event = Joined | Left | Received | Stored | Ticked | Owing | Summed | Stopped | Drawn | Chosen | Barred
