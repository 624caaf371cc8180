"""Android's PowerMonitor (API 35), through the app: the shell itself cannot ask it.

The app provides `content://org.crowdlearn.device.energy/monitors`, a file of lines `NAME TAB TYPE TAB
MICROJOULES TAB MILLISECONDS`; TYPE is `consumer` or `measurement`, time is since the phone started.
"""

from __future__ import annotations

import re

from crowdlearn_device.errors import MeterError

from crowdlearn_host.adb.deployment.app import PACKAGE

from .rails import MICROJOULE, RailsMeter

MONITORS = f"content://{PACKAGE}.energy/monitors"
_LINE = re.compile(r"^([^\t\n]+)\t(consumer|measurement)\t(\d+)\t(\d+)$", re.M)


class PowerMonitor(RailsMeter):
    """The rails that PowerMonitor measures; its estimates by consumer, of the same rails, are left out."""

    name = "PowerMonitor"

    async def _rails(self) -> dict[str, float]:
        found = _LINE.findall(await self._ask(f"content read --uri {MONITORS}"))
        if not found:
            raise MeterError(
                f"{self.name}: the app is not there, or this is an Android before 15; install the app, or "
                "use another meter"
            )
        return {name: int(joules) * MICROJOULE for name, kind, joules, _ in found if kind == "measurement"}
