"""Meters of the battery's gauge, by Android's service and by the kernel's files."""

from __future__ import annotations

from crowdlearn_device.energy.gauge import Gauge, read_dumpsys, read_uevent
from crowdlearn_device.energy.readings import Power, Reading
from crowdlearn_device.errors import MeterError

from .base import GaugeMeter

SUPPLIES = ("battery", "bms", "maxfg", "BAT0")
"""Names that makers give to the battery's supply, the commonest first."""


class DumpsysBattery(GaugeMeter):
    """The gauge as `dumpsys battery` tells it, which updates every few seconds to a minute."""

    name = "dumpsys battery"

    async def _read(self, gauge: Gauge, output: str) -> Reading | Power:
        return self._state(read_dumpsys(output, self.maker), gauge)


class SysfsBattery(GaugeMeter):
    """The gauge as the kernel tells it in /sys/class/power_supply, where the shell may read that."""

    name = "sysfs power supply"

    async def _read(self, gauge: Gauge, output: str) -> Reading | Power:
        why: MeterError | None = None
        for supply in SUPPLIES:
            try:
                text = await self._ask(f"cat /sys/class/power_supply/{supply}/uevent")
                return self._state(read_uevent(text, self.maker), gauge)
            except MeterError as error:
                why = why or error
        raise why or MeterError(f"{self.name}: the phone does not have it; use another meter")
