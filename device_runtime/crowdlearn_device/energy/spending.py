"""The joules that a device spends while it takes part, by the first of its meters that can be read."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from crowdlearn_device.errors import MeterError

from .meters import METERS, BatteryMeter, Meter
from .readings import Power, Reading, integrated, used


class Spending:
    """The spending since the last look. On a charger a battery spends nothing."""

    def __init__(self, meters: Mapping[str, Callable[[], Meter]] = METERS) -> None:
        self._meters = [make() for make in meters.values()]
        self._last: Reading | Power | None = None

    async def since(self) -> float | None:
        """Return the joules since the last look; None if no meter can be read here."""
        for meter in self._meters:
            try:
                now = await meter.read()
            except MeterError:
                if isinstance(meter, BatteryMeter) and _is_there(meter):
                    self._last = None
                    return 0.0
                continue
            last, self._last, self._meters = self._last, now, [meter]
            if isinstance(now, Reading) and isinstance(last, Reading):
                return used(last, now).joules
            if isinstance(now, Power) and isinstance(last, Power):
                return integrated([last, now]).joules
            return 0.0
        return None


def _is_there(battery: BatteryMeter) -> bool:
    try:
        battery.gauge()
    except MeterError:
        return False
    return True
