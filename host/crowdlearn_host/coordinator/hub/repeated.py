"""What happens again and again is counted, so that no device fills the disk with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

EACH = 20
"""Times that an event of a device is written down, before it is only counted."""
MAX_DEVICES = 10_000
"""The most names that are distinguished: a stranger may draw a new one for every connection."""
ALWAYS = frozenset(
    {"progress", "pass", "epoch", "evaluated", "not_evaluated", "assigned", "committed", "done"}
)
"""Events of which there are as many as the run is long."""


class Repeated:
    """The count of events by their kind and device."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()

    def times(self, event: str, fields: Mapping[str, Any]) -> int:
        """Count an event; return how often it was to be told by now, or 0 if it is not to be told again.

        Beyond EACH an event is told when it has happened twice as often as when it was told last.
        """
        if event in ALWAYS or "device" not in fields:
            return 1
        key = event, str(fields["device"])
        if key not in self._counts and len(self._counts) >= MAX_DEVICES:
            key = event, ""
        self._counts[key] += 1
        count = self._counts[key]
        if count <= EACH:
            return 1
        return count if count % EACH == 0 and (count // EACH).bit_count() == 1 else 0
