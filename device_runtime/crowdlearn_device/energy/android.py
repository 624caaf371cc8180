"""Meters inside an Android app: the rails of PowerMonitor and the battery's gauge, which Java reads.

Java's class Meters tells JSON: {"rails": [{"name", "microwatt_seconds", "milliseconds"}], "battery": {...}}
with the fields of the kernel's power supplies. Nobody has read them on a phone yet.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

from crowdlearn_device.errors import MeterError

from .gauge import from_sysfs
from .meters import WHOLE_MICROAMPERE, Meter
from .readings import Covers, Power, Provenance, Reading

Read = Callable[[], str]
"""Reads all meters of the phone, as JSON."""


class RailMeter(Meter):
    """The sum of all measured rails of Android's PowerMonitor (API 35): accumulated energy.

    Which rails there are differs by phone; together they need not be the whole phone.
    """

    name = "PowerMonitor"

    def __init__(self, read: Read) -> None:
        self._read = read

    async def read(self) -> Reading:
        rails = (await asyncio.to_thread(_object, self._read)).get("rails") or []
        try:
            joules = sum(float(rail["microwatt_seconds"]) for rail in rails) * 1e-6
            seconds = max((float(rail["milliseconds"]) for rail in rails), default=0.0) / 1000
        except (KeyError, TypeError, ValueError) as error:
            raise MeterError(
                f"PowerMonitor returned what cannot be read ({error}); use the battery"
            ) from error
        if not rails:
            raise MeterError(
                "this phone has no rails (Android 15 and hardware with ODPM do); use the battery"
            )
        return Reading(joules, seconds, self.name, Provenance.MEASURED, Covers.RAIL, 1e-6)


class AppBatteryMeter(Meter):
    """The battery's gauge through BatteryManager: power, of the whole phone."""

    name = "BatteryManager"

    def __init__(self, read: Read) -> None:
        self._read = read

    async def read(self) -> Power:
        battery = (await asyncio.to_thread(_object, self._read)).get("battery") or {}
        fields = {str(key): str(value) for key, value in battery.items()}
        gauge = from_sysfs(fields, fields.get("maker", ""))
        return Power(
            gauge.watts,
            time.monotonic(),
            self.name,
            Provenance.MEASURED,
            Covers.PHONE,
            gauge.volts * WHOLE_MICROAMPERE,
            gauge.celsius,
        )


def app_meters(read: Read) -> dict[str, Callable[[], Meter]]:
    """Return the meters of the app by name, best first."""
    return {RailMeter.name: lambda: RailMeter(read), AppBatteryMeter.name: lambda: AppBatteryMeter(read)}


def _object(read: Read) -> dict[str, Any]:
    try:
        found = json.loads(str(read()))
    except ValueError as error:
        raise MeterError(f"the phone's meters returned no JSON ({error}); use another meter") from error
    if not isinstance(found, dict):
        raise MeterError("the phone's meters returned no object; use another meter")
    return found
