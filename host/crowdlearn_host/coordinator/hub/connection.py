"""The connection of one device, and what goes over it, counted."""

from __future__ import annotations

from dataclasses import dataclass

from crowdlearn_host.coordinator.group.group import Group
from crowdlearn_host.coordinator.group.restore_points import Device

from .arrival import FrameStream
from .ledger import Ledger


@dataclass(eq=False, slots=True)
class Attached:
    """A device's connection. `up` and `down` count what comes and what goes. It `counts` until another
    connection of the device takes its place, or the device is hung up on.
    """

    device: Device
    number: int
    group: Group
    stream: FrameStream
    up: Ledger
    down: Ledger
    counts: bool = True

    def put(self, data: bytes, purpose: int, *, express: bool = False) -> None:
        """Send a frame as soon as there is room."""
        self.down.count(purpose, len(data))
        self.stream.put(data, express=express)
