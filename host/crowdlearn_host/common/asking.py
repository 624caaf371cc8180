"""Questions that a person answers elsewhere, while a command waits."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar

ASKED: ContextVar[Callable[[str], None]] = ContextVar("asked", default=lambda text: None)
"""Called with what is to be done, as soon as something waits for it. Commands print it."""
