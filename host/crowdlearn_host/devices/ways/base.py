"""The base of ways to phones."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import ClassVar

from crowdlearn_host.adb.carriers.server import ServerDevice, server_devices, server_port
from crowdlearn_host.adb.services.device import AdbDevice
from crowdlearn_host.emulator.manager import list_phones
from crowdlearn_host.errors import FleetError


class Surroundings:
    """The phones around this computer, each kind looked for once, when it is asked for. `home` is the folder
    of virtual phones, if not the user's.
    """

    def __init__(self, home: Path | None = None) -> None:
        self._home = home

    @cached_property
    def served(self) -> Sequence[ServerDevice]:
        """Return the devices of the adb server. Raises FleetError if another program stands in its place."""
        return server_devices(server_port())

    @cached_property
    def cabled(self) -> Sequence[str]:
        """Return the serials on USB. An adb server holds the USB devices, so there are none beside one.

        Raises FleetError if USB cannot be searched.
        """
        if self.served:
            return ()
        try:
            usb = import_module("adb_shell.transport.usb_transport")
        except (ImportError, OSError):
            return ()
        try:
            return [str(transport.serial_number) for transport in usb.UsbTransport.find_all_adb_devices()]
        except Exception as error:
            raise FleetError(
                f"USB cannot be searched: {error}; pass addresses, or start an adb server"
            ) from error

    @cached_property
    def virtual(self) -> Sequence[str]:
        """Return the serials of virtual phones that run."""
        return [info.serial for info in list_phones(self._home)]


class Way(ABC):
    """A way to phones. `name` is what `crowdlearn devices` shows; `uses_radio` says whether bytes that go
    this way cost the phone's radio, which a cable and an adb server's do not.
    """

    name: ClassVar[str]
    uses_radio: ClassVar[bool] = False

    @abstractmethod
    def serials(self, around: Surroundings) -> Sequence[str]:
        """Return the serials of the phones that are found this way."""

    @abstractmethod
    def leads_to(self, serial: str, around: Surroundings) -> bool:
        """Return True if a phone that the user names is reached this way now."""

    @abstractmethod
    async def connect(self, serial: str, *, key: Path | None = None) -> AdbDevice:
        """Connect to a phone with the private key at `key`. Raises FleetError that says what to do."""
