"""Phones that are dialled at an address of the network."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path

from crowdlearn_host.adb.services.device import AdbDevice
from crowdlearn_host.errors import FleetError

from .base import Surroundings, Way


class Tcp(Way):
    """An address, HOST:PORT, that the user names."""

    name = "tcp"
    uses_radio = True

    def serials(self, around: Surroundings) -> Sequence[str]:
        """Return none: an address is named, not found."""
        return ()

    def leads_to(self, serial: str, around: Surroundings) -> bool:
        """Return True: any name may be an address."""
        return True

    async def connect(self, serial: str, *, key: Path | None = None) -> AdbDevice:
        if serial.isdigit():  # a serial number, which the system would take for an address
            raise FleetError(_gone(serial))
        try:
            return await AdbDevice.connect(serial, key=key)
        except FleetError as error:
            if ":" in serial or not isinstance(error.__cause__, socket.gaierror):
                raise
            raise FleetError(_gone(serial)) from error


class Virtual(Tcp):
    """A virtual phone of this computer, which is found, and dialled at its address."""

    name = "virtual"

    def serials(self, around: Surroundings) -> Sequence[str]:
        return around.virtual

    def leads_to(self, serial: str, around: Surroundings) -> bool:
        """Return False: a virtual phone that is named is dialled like any other."""
        return False


def _gone(serial: str) -> str:
    return (
        f"{serial} is gone: no USB cable and no adb server has it, and it is no name in the network; "
        "plug it in, and see that debugging is on"
    )
