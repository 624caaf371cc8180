"""The ways to hold frozen weights by name."""

from __future__ import annotations

from collections.abc import Mapping

from .base import Held
from .floats import Float16, Float32
from .integers import Int8

HELD: Mapping[str, Held] = {held.kind: held for held in (Float32(), Float16(), Int8())}
LEFT_OUT = {
    "bfloat16": "NumPy on a device has no such type, and a program that looked its values up would take 14 "
    "nanoseconds for each weight in place of 2; choose float16, which is as small and rounds an eighth as "
    "coarsely"
}
"""Ways that users may expect, and why there is none."""
