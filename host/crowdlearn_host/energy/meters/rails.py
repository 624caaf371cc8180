"""Power rails that a phone meters itself (ODPM, Pixel 6 and later), by the kernel's files."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Mapping
from types import MappingProxyType

from crowdlearn_device.energy.gauge import Gauge
from crowdlearn_device.energy.readings import Covers, Reading
from crowdlearn_device.errors import MeterError

from .base import AdbMeter

MICROJOULE = 1e-6
FILES = "/sys/bus/iio/devices/iio:device*/energy_value"
_LINE = re.compile(r"^CH\d+\(T=\d+\)\[([^\]]+)\],\s*(\d+)\s*$", re.M)
_COMPUTE = re.compile(r"CPU|VDD_INT|VDD_MIF|MEM|G3D|TPU|SLC", re.I)
_RADIO = re.compile(r"WLAN|WIFI|MODEM|RFFE|RADIO|MMWAVE|CELL", re.I)


def read_rails(text: str) -> dict[str, float]:
    """Return joules by rail of `energy_value` files, as in `CH3(T=473848)[S2M_VDD_CPUCL2], 28071872`
    (microjoules since the phone started); empty if there are none.
    """
    return {name: int(value) * MICROJOULE for name, value in _LINE.findall(text)}


def apart(rails: dict[str, float]) -> tuple[float, float, float]:
    """Return joules of rails for computing, of rails for the radio, and of all others, by the rails'
    names.
    """
    compute = sum(joules for name, joules in rails.items() if _is_compute(name))
    radio = sum(joules for name, joules in rails.items() if _RADIO.search(name))
    return compute, radio, sum(rails.values()) - compute - radio


def _is_compute(name: str) -> bool:
    return bool(_COMPUTE.search(name)) and not _RADIO.search(name)


class RailsMeter(AdbMeter):
    """A meter of rails, all of them together; `rails` holds the joules of each at the last reading."""

    rails: Mapping[str, float] = MappingProxyType({})

    @abstractmethod
    async def _rails(self) -> dict[str, float]:
        """Return joules by rail, empty if the phone meters none. Raises MeterError if they cannot be read."""

    async def _read(self, gauge: Gauge, output: str) -> Reading:
        self.rails = await self._rails()
        if not self.rails:
            raise MeterError(
                f"{self.name}: this phone meters no rails (Pixel 6 and later do); use another meter"
            )
        return self._reading(sum(self.rails.values()), MICROJOULE, Covers.RAIL, gauge)


class IioRails(RailsMeter):
    """Rails by the files of the kernel's driver, which most phones let only root read."""

    name = "power rails (iio)"

    async def _rails(self) -> dict[str, float]:
        return read_rails(await self._ask(f"cat {FILES}"))
