"""Whatever keeps a virtual phone from sleeping: wake locks of its shell, and the owner's settings."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from crowdlearn_host.emulator.settings import read_json, write_json
from crowdlearn_host.errors import FleetError

LOCKS = ("PARTIAL_WAKE_LOCK", "SCREEN_DIM_WAKE_LOCK", "SCREEN_BRIGHT_WAKE_LOCK", "FULL_WAKE_LOCK")
MOST_SETTINGS = 1000


class Wakefulness:
    """The state of a phone's wake locks, counted by kind in `locks`, which end with it, and of its settings,
    which last in a file.
    """

    def __init__(self, path: Path) -> None:
        self.locks: Counter[str] = Counter()
        self._path = path

    def setting(self, name: str) -> str | None:
        """Return a global setting; None if there is none."""
        return self._load().get(name)

    def set(self, name: str, value: str | None) -> None:
        """Set a global setting, or remove it. Raises FleetError if there are too many."""
        kept = {**self._load(), name: value}
        if len(kept) > MOST_SETTINGS:
            raise FleetError(f"more than {MOST_SETTINGS} settings")
        write_json(self._path, {key: text for key, text in kept.items() if text is not None})

    def _load(self) -> dict[str, str | None]:
        return dict(read_json(self._path)) if self._path.exists() else {}
