"""The rounds of every sharing strategy, by its name."""

from __future__ import annotations

from .averaged import average_devices
from .base import Round
from .groups import train_groups

ROUNDS: dict[str, Round] = {"slicenet": train_groups, "alone": train_groups, "fedavg": average_devices}
