"""How hot a device is, on Android's scale of thermal status."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

THERMAL = "CROWDLEARN_THERMAL"
"""The variable with the folder of the file `status`, if there is no Android to report it; virtual phones have
one.
"""
STATUSES = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")
ZONE_CELSIUS = (60.0, 75.0, 90.0)
"""The temperatures of light, moderate and severe heat (assumed), of the hottest zone of a device without
Android's thermal service.
"""
ASK_SECONDS, ASK_EVERY = 5.0, 30.0
"""Patience with Android's thermal service, and how often it is asked: that takes energy, too."""
_STATUS = re.compile(r"^Thermal Status: (\d+)", re.M)


@dataclass
class Heat:
    """The thermal status as Android's service, a virtual phone or the kernel's zones tell it."""

    folder: Path | None = None
    zones: Path = Path("/sys/class/thermal")
    _last: int = 0
    _asked: float = -ASK_EVERY

    @classmethod
    def of_this_device(cls) -> Heat:
        given = os.environ.get(THERMAL)
        return cls(Path(given) if given else None)

    def status(self) -> int:
        """Return Android's thermal status, 0 (none) to 6 (shutdown); from 1 on the device computes slower
        than it could. 0 if it is not known.
        """
        if self.folder is not None:
            return _number(self.folder / "status") or 0
        if shutil.which("dumpsys"):
            if time.monotonic() - self._asked >= ASK_EVERY:
                self._asked, self._last = time.monotonic(), _ask() or 0
            return self._last
        hottest = max(
            (value / 1000 for zone in self.zones.glob("thermal_zone*") if (value := _number(zone / "temp"))),
            default=0.0,
        )
        return sum(hottest >= limit for limit in ZONE_CELSIUS)


def _ask() -> int | None:
    try:
        output = subprocess.run(
            ["dumpsys", "thermalservice"], capture_output=True, text=True, timeout=ASK_SECONDS, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return None
    found = _STATUS.search(output.stdout)
    return min(int(found[1]), len(STATUSES) - 1) if found else None


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None
