"""Meters of a phone over adb, in the order in which they are trusted."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from crowdlearn_device.energy.meters import readable

from .base import AdbMeter, Phone
from .battery import DumpsysBattery, SysfsBattery
from .perfetto import PerfettoBattery, PerfettoRails
from .power_monitor import PowerMonitor
from .rails import IioRails
from .stats import BatteryStats, ShellStats
from .virtual import VirtualModel

METERS: Mapping[str, type[AdbMeter]] = {
    meter.name: meter
    for meter in (
        VirtualModel,
        PerfettoRails,
        PowerMonitor,
        IioRails,
        PerfettoBattery,
        SysfsBattery,
        DumpsysBattery,
        BatteryStats,
        ShellStats,
    )
}
"""Every meter by its name. A virtual phone's own model goes first, for the others round it."""


async def readable_of(
    phone: Phone, maker: str = "", *, virtual: bool = False
) -> tuple[list[AdbMeter], dict[str, str]]:
    """Return the meters of a phone that can be read now, and of the others why not, by name."""
    made = {name: partial(meter, phone, maker, virtual=virtual) for name, meter in METERS.items()}
    found, why = await readable(made)
    return [meter for meter in found if isinstance(meter, AdbMeter)], why
