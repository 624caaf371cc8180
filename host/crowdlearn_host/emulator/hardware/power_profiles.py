"""Current that parts of phones draw, from makers' power_profile.xml, in milliampere at the battery's voltage.

Facts are retyped. A vendor's profile is itself a model, fitted in a laboratory to its phone.
"""

from __future__ import annotations

from dataclasses import dataclass

Steps = tuple[tuple[int, float], ...]
"""Clock in MHz and milliampere of one core that computes at it, by rising clock."""


@dataclass(frozen=True)
class PowerProfile:
    """The currents of a processor, in milliampere: `idle` of the processor at rest, screen off; `active`
    while any core computes; of each cluster `shared` while one of its cores does, and its cores by clock.
    `source` tells whose they are.
    """

    idle: float
    active: float
    shared: tuple[float, ...]
    cores: tuple[Steps, ...]
    source: str

    def core(self, cluster: int, mhz: int) -> float:
        """Return milliampere of a core at a clock: of the nearest step that the profile lists."""
        return min(self.cores[cluster], key=lambda step: abs(step[0] - mhz))[1]


SHUSKY = PowerProfile(
    idle=10 + 28.6,
    active=12.37,
    shared=(0.24, 3.23, 5.94),
    cores=(
        ((324, 1.89), (820, 9.34), (1197, 21.98), (1475, 30.17), (1704, 48.36), (1950, 68.0), (2147, 98.0)),
        ((402, 3.71), (910, 12.73), (1328, 24.1), (1836, 58.09), (2130, 79.04), (2352, 104.0), (2450, 116.0)),
        (
            (500, 8.36),
            (1164, 19.44),
            (1745, 48.24),
            (2147, 128.49),
            (2556, 164.78),
            (2914, 227.98),
            (3015, 254.25),
        ),
    ),
    source="power_profile.xml of the Pixel 8 (LineageOS/android_device_google_shusky)",
)
ONCLITE = PowerProfile(
    idle=3 + 4,
    active=0,
    shared=(0, 0),
    cores=(
        ((614, 13), (883, 20), (1037, 38), (1363, 36), (1536, 45), (1670, 55), (1805, 65)),
        ((634, 13), (902, 23), (1094, 33), (1402, 44), (1555, 55), (1805, 68)),
    ),
    source="power_profile.xml of the Redmi 7 (LineageOS/android_device_xiaomi_onclite)",
)
A15 = PowerProfile(
    idle=5.8 + 21.5,
    active=0,
    shared=(0, 0),
    cores=(
        ((500, 20.2), (1000, 35.6), (1300, 41.6), (1500, 46.7), (1800, 62.2), (2000, 73.3)),
        ((750, 55.1), (1200, 89.1), (1600, 126.3), (1800, 149.1), (2000, 162.6), (2200, 178.8)),
    ),
    source="power_profile.xml of the Galaxy A15 (ahmedmoselhi/device_samsung_a15), whose cores are as many "
    "(2 and 6) and of like kinds and clocks",
)
