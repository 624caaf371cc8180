"""Phones behind an adb server."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from crowdlearn_host.adb.services.device import AdbDevice

from .base import Surroundings, Way


class AdbServer(Way):
    """The user's adb server, with the phones that it holds."""

    name = "server"

    def serials(self, around: Surroundings) -> Sequence[str]:
        return [device.serial for device in around.served]

    def leads_to(self, serial: str, around: Surroundings) -> bool:
        """Return True if the server has the phone; an address only while the server can use it."""
        return any(
            device.serial == serial and (device.usable or ":" not in serial) for device in around.served
        )

    async def connect(self, serial: str, *, key: Path | None = None) -> AdbDevice:
        return await AdbDevice.connect_server(serial)
