"""The base of meters that are read over adb."""

from __future__ import annotations

import re
import time
from abc import abstractmethod
from dataclasses import replace
from typing import Protocol

from crowdlearn_device.energy.gauge import Gauge, read_dumpsys
from crowdlearn_device.energy.meters import WHOLE_MICROAMPERE, Meter
from crowdlearn_device.energy.readings import Covers, Power, Provenance, Reading
from crowdlearn_device.errors import MeterError

from crowdlearn_host.adb.services.device import ShellResult

BATTERY = "dumpsys battery"
_CURRENT = re.compile(r"^\s*current now:.*\n", re.M | re.I)


class Phone(Protocol):
    """A phone whose shell answers and whose files can be fetched, as an AdbDevice."""

    serial: str

    async def shell(self, command: str, *, stdin: bytes = b"") -> ShellResult:
        """Run a command. Raises FleetError if the phone does not answer."""
        ...

    async def pull(self, remote: str) -> bytes:
        """Return a file. Raises FleetError."""
        ...


class AdbMeter(Meter):
    """A meter of a phone that is asked over adb; `maker` is ro.product.manufacturer.

    No meter is read while a charger is connected: it adds to the battery, warms the phone, and lets it run
    faster. What a `virtual` phone reports is modelled, whichever meter it imitates.
    """

    def __init__(self, phone: Phone, maker: str = "", *, virtual: bool = False) -> None:
        self.phone, self.maker, self._virtual = phone, maker, virtual

    async def read(self) -> Reading | Power:
        output = await self._ask(BATTERY)
        # Units of current differ, and a gauge of another meter may tell it: here the charger matters.
        gauge = read_dumpsys(_CURRENT.sub("", output), self.maker)
        gauge.check_unplugged()
        return await self._read(gauge, output)

    @abstractmethod
    async def _read(self, gauge: Gauge, output: str) -> Reading | Power:
        """Return the state of the meter; `gauge` is Android's view of the battery, `output` the shell's."""

    async def _ask(self, command: str) -> str:
        """Return what a command prints. Raises MeterError if the phone lacks it, or does not allow it."""
        result = await self.phone.shell(command)
        output = result.stdout.decode(errors="replace")
        complaint = (result.stderr.decode(errors="replace") or output).strip()
        if "Permission denied" in complaint or "Permission Denial" in complaint:
            raise MeterError(
                f"{self.name}: the phone's shell may not read it ({complaint[:100]}); use another meter, "
                "or a phone with root"
            )
        if result.exit_code or "not found" in complaint or "Can't find service" in complaint:
            raise MeterError(
                f"{self.name}: the phone does not have it ({complaint[:100]}); use another meter"
            )
        return output

    def _provenance(self, usual: Provenance = Provenance.MEASURED) -> Provenance:
        return Provenance.MODELLED if self._virtual else usual

    def _reading(
        self,
        joules: float,
        resolution: float,
        covers: Covers,
        gauge: Gauge,
        usual: Provenance = Provenance.MEASURED,
    ) -> Reading:
        return Reading(
            joules, time.monotonic(), self.name, self._provenance(usual), covers, resolution, gauge.celsius
        )


class GaugeMeter(AdbMeter):
    """A meter of the battery's gauge: the power that leaves it if it tells current, else the charge that has
    left it, times the voltage.
    """

    _joules = 0.0
    _last: Gauge | None = None

    def _state(self, gauge: Gauge, androids: Gauge) -> Reading | Power:
        """Raise MeterError if the gauge tells neither, or a charger that Android does not know."""
        gauge.check_unplugged()
        if gauge.celsius is None:
            gauge = replace(gauge, celsius=androids.celsius)
        if gauge.amperes is not None:
            step = gauge.volts * WHOLE_MICROAMPERE
            return Power(
                gauge.watts,
                time.monotonic(),
                self.name,
                self._provenance(),
                Covers.PHONE,
                step,
                gauge.celsius,
            )
        if gauge.coulombs is None or gauge.coulombs_step is None:
            raise MeterError(
                f"{self.name}: this battery reports neither current nor charge; use another meter"
            )
        if self._last is not None and self._last.coulombs is not None:
            self._joules += (self._last.coulombs - gauge.coulombs) * (self._last.volts + gauge.volts) / 2
        self._last = gauge
        return self._reading(self._joules, gauge.coulombs_step * gauge.volts, Covers.PHONE, gauge)
