"""Virtual phones: processes with an adb daemon of their own, good enough to stand in for phones in CI."""

from crowdlearn_host.emulator.hardware.profiles import PROFILES, DeviceProfile
from crowdlearn_host.emulator.hardware.radio_link import LINKS, LinkModel
from crowdlearn_host.emulator.manager import (
    accept,
    down,
    drain,
    kept,
    kill,
    list_phones,
    plug,
    power_off,
    power_on,
    running,
    unplug,
    up,
    waiting,
)
from crowdlearn_host.emulator.settings import PhoneInfo

__all__ = [
    "LINKS",
    "PROFILES",
    "DeviceProfile",
    "LinkModel",
    "PhoneInfo",
    "accept",
    "down",
    "drain",
    "kept",
    "kill",
    "list_phones",
    "plug",
    "power_off",
    "power_on",
    "running",
    "unplug",
    "up",
    "waiting",
]
