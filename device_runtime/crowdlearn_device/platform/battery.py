"""When a device's battery is too low for it to take part."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

SUPPLIES = "CROWDLEARN_POWER_SUPPLY"
"""Names the folder of power supplies where it is not the kernel's; virtual phones have their own."""
LOWEST_PERCENT = 15
"""Below Android's own warning a phone should save what it has."""


class Condition(Protocol):
    """A reason of the device's own not to take part."""

    def low(self) -> str:
        """Return why this device should not take part now; nothing if it should."""
        ...


@dataclass(frozen=True)
class Battery:
    """The battery as the kernel shows it under `supplies`; a device without one is never low."""

    lowest: int = LOWEST_PERCENT
    supplies: Path = Path("/sys/class/power_supply")

    @classmethod
    def of_this_device(cls, lowest: int) -> Battery:
        given = os.environ.get(SUPPLIES)
        return cls(lowest, Path(given)) if given else cls(lowest)

    def low(self) -> str:
        """Why this device should not take part now: at most `lowest` percent are left and it is not charged;
        or nothing.
        """
        for supply in sorted(self.supplies.glob("*")):
            try:
                kind, status, capacity = (
                    (supply / name).read_text().strip() for name in ("type", "status", "capacity")
                )
                percent = int(capacity)
            except (OSError, ValueError):
                continue  # a charger, or a battery that tells nothing
            if kind == "Battery" and percent <= self.lowest and status not in ("Charging", "Full"):
                return f"battery at {percent} %"
        return ""
