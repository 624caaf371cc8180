"""Rotations: what moves when the dominator changes."""

from __future__ import annotations

from typing import Literal

Rotation = Literal["full", "minimal"]
DEFAULT_ROTATION: Rotation = "minimal"
"""The rotation of training, simulation and planning by default."""
