"""The model of a virtual phone, as it counts."""

from __future__ import annotations

import re

from crowdlearn_device.energy.gauge import Gauge
from crowdlearn_device.energy.readings import Covers, Provenance, Reading
from crowdlearn_device.errors import MeterError

from .base import AdbMeter

_USED = re.compile(r"^\s*modelled energy used \(mJ\): (\d+)", re.M)


class VirtualModel(AdbMeter):
    """The energy that a virtual phone's model has counted; no real phone has this meter."""

    name = "virtual phone's model"

    async def _read(self, gauge: Gauge, output: str) -> Reading:
        found = _USED.search(output)
        if found is None:
            raise MeterError(f"{self.name}: this is no virtual phone; use another meter")
        return self._reading(int(found[1]) * 1e-3, 1e-3, Covers.PHONE, gauge, Provenance.MODELLED)
