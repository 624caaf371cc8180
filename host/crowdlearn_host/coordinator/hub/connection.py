"""The connection of one device, and what goes over it, counted."""

from __future__ import annotations

from dataclasses import dataclass

from crowdlearn_device.protocol.sizes import websocket_bytes
from crowdlearn_device.transport.message_stream import MessageStream

from crowdlearn_host.coordinator.group.restore_points import Device

from .traffic import Ledger


@dataclass
class Attached:
    """`dialled`: it was this side that did, and masks its frames therefore. `up` and `down` count what comes
    and what goes.
    """

    device: Device
    line: MessageStream
    up: Ledger
    down: Ledger
    dialled: bool

    def took(self, purpose: str, size: int) -> None:
        """A frame of so many bytes came."""
        self.up.count(purpose, websocket_bytes(size, masked=not self.dialled))

    def put(self, data: bytes, purpose: str, *, express: bool = False) -> None:
        """Send a frame as soon as there is room."""
        self.down.count(purpose, websocket_bytes(len(data), masked=self.dialled))
        self.line.put(data, express=express)
