"""All selections by name."""

from __future__ import annotations

from .able import Able
from .anyone import Anyone
from .base import Selection

SELECTIONS: dict[str, type[Selection]] = {each.name: each for each in (Able, Anyone)}
