"""The bytes and joules that a device has spent for hosts today: HOME/today.json, for its owner's bounds."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path

from crowdlearn_device.platform.files import write_atomically

log = logging.getLogger("crowdlearn")

FILE = "today.json"
UNSAVED = 8 << 20
"""Bytes that may be missing on disk: a device that dies forgets no more."""


def _today() -> str:
    return time.strftime("%Y-%m-%d")


class DailyUse:
    """The count of one device. A damaged file begins anew: the bound is the owner's own wish."""

    def __init__(self, home: Path, today: Callable[[], str] = _today) -> None:
        self._path, self._today = home / FILE, today
        self._day, self._bytes, self._saved = today(), 0, 0
        self._joules = 0.0
        self.metered = True
        """False if no meter here can be read."""
        try:
            content = json.loads(self._path.read_text())
            if content["day"] == self._day:
                self._bytes = self._saved = int(content["bytes"])
                self._joules = float(content.get("joules", 0.0))
        except (OSError, ValueError, KeyError, TypeError):
            pass

    def count(self, size: int) -> None:
        """Count the bytes of a message, sent or received."""
        self._bytes += size
        if self._bytes - self._saved >= UNSAVED:
            self.save()

    def spend(self, joules: float | None) -> None:
        """Count joules; None if no meter here can be read."""
        self.metered = joules is not None
        if joules:
            self._turn()
            self._joules += joules
            self.save()

    @property
    def bytes(self) -> int:
        """Return the bytes of today."""
        self._turn()
        return self._bytes

    @property
    def joules(self) -> float:
        """Return the joules of today."""
        self._turn()
        return self._joules

    def _turn(self) -> None:
        """Begin anew on another day."""
        if (today := self._today()) != self._day:
            self._day, self._bytes, self._joules = today, 0, 0.0

    def save(self) -> None:
        """Write the count to disk."""
        self._saved = self.bytes
        fields = {"day": self._day, "bytes": self._saved, "joules": self._joules}
        try:
            write_atomically(self._path, json.dumps(fields).encode())
        except OSError as error:  # what it cannot write next is told of; the bounds hold meanwhile
            log.warning("what is used today cannot be written down: %s", error)
