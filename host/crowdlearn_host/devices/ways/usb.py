"""Phones on a USB cable."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from crowdlearn_host.adb.services.device import AdbDevice

from .base import Surroundings, Way


class Usb(Way):
    """A USB cable, without an adb server."""

    name = "usb"

    def serials(self, around: Surroundings) -> Sequence[str]:
        return around.cabled

    def leads_to(self, serial: str, around: Surroundings) -> bool:
        return ":" not in serial and serial in around.cabled

    async def connect(self, serial: str, *, key: Path | None = None) -> AdbDevice:
        return await AdbDevice.connect_usb(serial, key=key)
