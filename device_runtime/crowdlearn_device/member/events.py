"""The events of a member: all that can happen to it. `handlers/table.py` has the handler of each."""

from __future__ import annotations

from dataclasses import dataclass

from crowdlearn_device.platform.battery import DeviceState
from crowdlearn_device.protocol import wire_pb2 as pb


@dataclass(slots=True)
class Connected:
    """The connection to the host is open."""


@dataclass(slots=True)
class Received:
    """A frame came from the host."""

    frame: pb.Frame


@dataclass(slots=True)
class Turn:
    """The processor is free for one piece of computation. Without `room` the connection is busy: what is for
    other pieces waits, and travels together.
    """

    room: bool = True


@dataclass(slots=True)
class StateRead:
    """The device's heat and charge were read."""

    state: DeviceState


@dataclass(slots=True)
class Leaving:
    """The device has to go: its user, its battery or its owner's limits want it."""

    reason: str


Event = Connected | Received | Turn | StateRead | Leaving
