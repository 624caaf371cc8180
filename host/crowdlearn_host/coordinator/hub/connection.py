"""The connection of one device, and what goes over it, counted."""

from __future__ import annotations

from dataclasses import dataclass

from crowdlearn_device.protocol.sizes import websocket_bytes
from crowdlearn_device.transport.outbound_queue import Line

from crowdlearn_host.coordinator.group.restore_points import Device

from .traffic import Traffic


@dataclass
class Attached:
    """`dialled`: it was this side that did, and masks its frames therefore."""

    device: Device
    line: Line
    traffic: Traffic
    dialled: bool

    def took(self, purpose: str, size: int) -> None:
        """A frame of so many bytes came."""
        wire = websocket_bytes(size, masked=not self.dialled)
        self.traffic.count(self.device.name, "up", purpose, wire)

    def put(self, data: bytes, purpose: str, *, express: bool = False) -> None:
        """Send a frame as soon as there is room."""
        wire = websocket_bytes(len(data), masked=self.dialled)
        self.traffic.count(self.device.name, "down", purpose, wire)
        self.line.put(data, express=express)
