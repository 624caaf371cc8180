"""All carriers. A run goes by each that its fleet names, in this order."""

from __future__ import annotations

from .adb import Adb
from .base import Carrier
from .dial_in import DialIn

CARRIERS: tuple[Carrier, ...] = (DialIn(), Adb())
