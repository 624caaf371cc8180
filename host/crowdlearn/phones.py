"""Phones: virtual ones, which are processes on this computer, and all that adb reaches.

    from crowdlearn import phones

    with phones.running(3, home) as started:
        async with await phones.AdbDevice.connect(started[0].serial) as device:
            print((await device.shell("getprop ro.product.model")).stdout)

`make_bundle` makes the Python that a phone without an app runs. Power figures are those of the energy model
of virtual phones (docs/energy.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._lazy import lazily

if TYPE_CHECKING:
    from crowdlearn_host.adb import AdbDevice, RuntimeDeployment
    from crowdlearn_host.adb.carriers.connection import FullSendTransport, parse_address
    from crowdlearn_host.adb.carriers.keys import load_signer
    from crowdlearn_host.bundle import make_bundle
    from crowdlearn_host.emulator import (
        LINKS,
        PROFILES,
        DeviceProfile,
        LinkModel,
        PhoneInfo,
        accept,
        down,
        drain,
        kill,
        list_phones,
        plug,
        power_off,
        power_on,
        running,
        unplug,
        up,
    )
    from crowdlearn_host.emulator.hardware.power import RADIO_SOURCE, RADIOS, cpu_watts, idle_watts
    from crowdlearn_host.emulator.hardware.radio_link import DelayLine, Direction
    from crowdlearn_host.emulator.processes.program_file import runner

__all__ = [
    "LINKS",
    "PROFILES",
    "RADIOS",
    "RADIO_SOURCE",
    "AdbDevice",
    "DelayLine",
    "DeviceProfile",
    "Direction",
    "FullSendTransport",
    "LinkModel",
    "PhoneInfo",
    "RuntimeDeployment",
    "accept",
    "cpu_watts",
    "down",
    "drain",
    "idle_watts",
    "kill",
    "list_phones",
    "load_signer",
    "make_bundle",
    "parse_address",
    "plug",
    "power_off",
    "power_on",
    "runner",
    "running",
    "unplug",
    "up",
]

__getattr__, __dir__ = lazily(__name__, __file__)
