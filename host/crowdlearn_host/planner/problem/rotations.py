"""Rotations: what moves when the dominator changes."""

from __future__ import annotations

from typing import Literal

Rotation = Literal["full", "minimal"]
DEFAULT_ROTATION: Rotation = "minimal"
"""What training, simulation and planning take unless they are told otherwise."""
