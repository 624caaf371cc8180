"""All ways to phones, in the order in which phones are looked for; the last takes whatever is named."""

from __future__ import annotations

from .adb_server import AdbServer
from .base import Way
from .tcp import Tcp, Virtual
from .usb import Usb

WAYS: dict[str, Way] = {way.name: way for way in (Virtual(), AdbServer(), Usb(), Tcp())}
