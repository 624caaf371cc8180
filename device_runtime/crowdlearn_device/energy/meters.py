"""Energy meters: the base of all, and those that a device has itself, in the order in which they are trusted.

A meter counts joules (`read`), or reports watts only, which its reader integrates. The error of one that
cannot be read states why, and what to do.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path

from crowdlearn_device.errors import MeterError

from .gauge import Gauge, from_sysfs
from .readings import Covers, Power, Provenance, Reading

SUPPLIES = Path("/sys/class/power_supply")
POWERCAP = Path("/sys/class/powercap")
WHOLE_MICROAMPERE = 1e-6
"""Amperes: the finest step in which a gauge tells current."""


class Meter(ABC):
    """A source of readings; `name` is its own among the meters.

    To read one may take a second (a trace is recorded), so it is awaited.
    """

    name: str

    @abstractmethod
    async def read(self) -> Reading | Power:
        """Return the state of the meter now. Raises MeterError, with what to do, if it cannot be read."""


class BatteryMeter(Meter):
    """The gauge of a battery under `supplies`: power, of the whole phone."""

    name = "sysfs power supply"

    def __init__(self, supplies: Path = SUPPLIES, maker: str = "") -> None:
        self._supplies, self._maker = supplies, maker

    def gauge(self) -> Gauge:
        """Return the gauge of the first battery that reports a voltage."""
        for folder in sorted(self._supplies.glob("*")):
            fields = {file.name: text for file in folder.glob("*") if (text := _text(file)) is not None}
            if fields.get("type", "").strip() == "Battery" and "voltage_now" in fields:
                return from_sysfs(fields, self._maker)
        raise MeterError(
            f"{self._supplies} has no battery that can be read; use adb's meters, or another device"
        )

    async def read(self) -> Power:
        gauge = self.gauge()
        provenance = Provenance.MODELLED if gauge.modelled else Provenance.MEASURED
        return Power(
            gauge.watts,
            time.monotonic(),
            self.name,
            provenance,
            Covers.PHONE,
            gauge.volts * WHOLE_MICROAMPERE,
            gauge.celsius,
        )


class RaplMeter(Meter):
    """The energy counter of an Intel or AMD processor package, through the kernel's powercap."""

    name = "RAPL"

    def __init__(self, powercap: Path = POWERCAP) -> None:
        self._powercap = powercap
        self._wrapped, self._last = 0.0, -1.0

    async def read(self) -> Reading:
        package = self._powercap / "intel-rapl:0"
        if not package.is_dir():
            raise MeterError(
                f"{self._powercap} has no RAPL counter; this processor, or this machine's host, has none"
            )
        try:
            counted = float((package / "energy_uj").read_text()) * 1e-6
            span = float((package / "max_energy_range_uj").read_text()) * 1e-6
        except PermissionError as error:
            raise MeterError(
                f"{package}/energy_uj may be read by root only; run: sudo chmod o+r {package}/energy_uj"
            ) from error
        except (OSError, ValueError) as error:
            raise MeterError(f"{package} cannot be read ({error}); use another meter") from error
        if counted < self._last:
            self._wrapped += span
        self._last = counted
        return Reading(
            self._wrapped + counted, time.monotonic(), self.name, Provenance.MEASURED, Covers.PACKAGE, 1e-6
        )


METERS: dict[str, Callable[[], Meter]] = {meter.name: meter for meter in (RaplMeter, BatteryMeter)}
"""The meters of this device, by name."""


async def readable(
    meters: Mapping[str, Callable[[], Meter]] = METERS,
) -> tuple[list[Meter], dict[str, str]]:
    """Return the meters that can be read now, and of the others why not, by name."""
    found, why = [], {}
    for name, make in meters.items():
        meter = make()
        try:
            await meter.read()
        except MeterError as error:
            why[name] = str(error)
        else:
            found.append(meter)
    return found, why


def _text(file: Path) -> str | None:
    try:
        return file.read_text(errors="replace") if file.is_file() else None
    except OSError:
        return None
