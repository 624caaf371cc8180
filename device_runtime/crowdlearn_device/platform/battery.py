"""When a device's battery is too low for it to take part, and the state that it tells its host."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from .heat import Heat

SUPPLIES = "CROWDLEARN_POWER_SUPPLY"
"""The variable with the folder of power supplies, if it is not the kernel's; virtual phones have their
own.
"""
LOWEST_PERCENT = 15
"""Below Android's own warning a phone should save what it has."""


@dataclass(frozen=True)
class DeviceState:
    """The state that a device reports of itself: Android's thermal status (0: not throttled), charge in
    percent, and whether it is charged; whether its network may cost money, and its owner uses it. A device
    without a battery is full.
    """

    thermal: int = 0
    percent: int = 100
    charging: bool = True
    metered: bool = False
    in_use: bool = False


class Condition(Protocol):
    """A reason of the device's own not to take part, and the state that it is in."""

    def state(self) -> DeviceState:
        """Return the state now; it may take a second to find out."""
        ...

    def low(self) -> str:
        """Return why this device should not take part now; nothing if it should."""
        ...


@dataclass(frozen=True)
class Battery:
    """The battery as the kernel shows it under `supplies`; a device without one is never low."""

    lowest: int = LOWEST_PERCENT
    supplies: Path = Path("/sys/class/power_supply")
    heat: Heat = field(default_factory=Heat)

    @classmethod
    def of_this_device(cls, lowest: int) -> Battery:
        given, heat = os.environ.get(SUPPLIES), Heat.of_this_device()
        return cls(lowest, Path(given), heat) if given else cls(lowest, heat=heat)

    def state(self) -> DeviceState:
        """Return heat, charge, and whether it is charged."""
        percent, charging = self._charge() or (100, True)
        return DeviceState(self.heat.status(), percent, charging)

    def low(self) -> str:
        """Return why this device should not take part now: at most `lowest` percent are left and it is not
        charged; or nothing.
        """
        percent, charging = self._charge() or (100, True)
        return f"battery at {percent} %" if percent <= self.lowest and not charging else ""

    def _charge(self) -> tuple[int, bool] | None:
        """Return percent, and whether it is charged, of the first battery that reports them."""
        for supply in sorted(self.supplies.glob("*")):
            try:
                kind, status, capacity = (
                    (supply / name).read_text().strip() for name in ("type", "status", "capacity")
                )
                percent = int(capacity)
            except (OSError, ValueError):
                continue  # a charger, or a battery that tells nothing
            if kind == "Battery":
                return percent, status in ("Charging", "Full")
        return None
