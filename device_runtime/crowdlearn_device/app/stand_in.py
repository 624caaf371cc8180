"""The app's Java half where there is no Android: facts from the kernel's power supplies, the status as lines.

Virtual phones run it when `am` starts the app, so that hosts reach an app as they would on a phone.
"""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

from crowdlearn_device.energy.meters import SUPPLIES as KERNEL
from crowdlearn_device.energy.meters import BatteryMeter
from crowdlearn_device.errors import MeterError
from crowdlearn_device.platform.battery import SUPPLIES

from .service import Service


class StandIn:
    """A phone whose state is read from files of this computer."""

    def __init__(self) -> None:
        self._supplies = Path(os.environ.get(SUPPLIES, KERNEL))

    def facts(self) -> str:
        battery = self._supplies / "battery"
        fields: dict[str, object] = {"unmetered": True, "idle": False, "thermal": 0, "charging": True}
        try:
            fields["percent"] = int((battery / "capacity").read_text())
            fields["charging"] = (battery / "status").read_text().strip() in ("Charging", "Full")
        except (OSError, ValueError):
            pass  # a computer without a battery is on the mains
        return json.dumps(fields)

    def meters(self) -> str:
        try:
            gauge = BatteryMeter(self._supplies).gauge()
        except MeterError:
            return "{}"
        volts, amperes = gauge.volts * 1e6, (gauge.amperes or 0) * 1e6
        return json.dumps({"battery": {"voltage_now": volts, "current_now": amperes, "status": gauge.status}})

    def show(self, status: str) -> None:
        print(status, flush=True)

    def program(self, descriptor: int) -> int:
        return 0

    def endProgram(self, number: int) -> None:
        pass


def run(home: Path, inbox: Path, arguments: str, socket_name: str) -> None:
    """Be the app until SIGTERM or SIGINT. Raises DeviceError if another one runs."""
    service = Service(StandIn(), str(home), str(inbox), arguments, socket_name)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: service.stop())
    service.run()
