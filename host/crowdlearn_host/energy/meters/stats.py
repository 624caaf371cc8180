"""Android's own estimate of what was used, from the maker's power_profile.xml: a model, not a measurement."""

from __future__ import annotations

import re

from crowdlearn_device.energy.gauge import Gauge
from crowdlearn_device.energy.readings import Covers, Provenance, Reading
from crowdlearn_device.errors import MeterError

from .base import AdbMeter

_TOTAL = re.compile(r"Estimated power use \(mAh\):\s*\n\s*Capacity: [\d.,]+, Computed drain: ([\d.,]+)")
_SHELL = re.compile(r"^\s*UID (?:2000|shell): ([\d.,]+)", re.M | re.I)
JOULES_A_MILLIAMPERE_HOUR_AND_VOLT = 3.6


class BatteryStats(AdbMeter):
    """The estimate of `dumpsys batterystats` since the last full charge, for the whole phone."""

    name = "dumpsys batterystats"
    _pattern, _covers = _TOTAL, Covers.PHONE

    async def _read(self, gauge: Gauge, output: str) -> Reading:
        found = self._pattern.search(await self._ask("dumpsys batterystats --charged"))
        if found is None:
            raise MeterError(
                f"{self.name}: it has no estimate of this yet; unplug the phone, use it for a minute, and "
                "measure again"
            )
        number = found[1].rstrip(",.").replace(",", ".")  # some languages write a comma
        decimals = len(number.partition(".")[2])
        scale = JOULES_A_MILLIAMPERE_HOUR_AND_VOLT * gauge.volts
        return self._reading(
            float(number) * scale, 10.0**-decimals * scale, self._covers, gauge, Provenance.MODELLED
        )


class ShellStats(BatteryStats):
    """The part of the estimate that is the shell's, as which the device runtime runs without an app."""

    name = "dumpsys batterystats, shell"
    _pattern, _covers = _SHELL, Covers.PROCESS
