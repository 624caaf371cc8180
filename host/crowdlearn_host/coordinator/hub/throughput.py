"""How fast a run trains since this process started."""

from __future__ import annotations

import time
from typing import Any

from .traffic_ledger import TrafficLedger

TOTALS = ("samples_per_second", "bytes_per_sample", "bytes")
"""The figures of the whole run so far that are logged after a mini-batch."""
TOTALS_SECONDS = 1.0
"""The least seconds between two of them in a run's log."""


class Throughput:
    """The rates of a run, measured from the end of the first mini-batch on."""

    def __init__(self, traffic: TrafficLedger) -> None:
        self.samples = 0
        self._traffic = traffic
        self._totals_at = -TOTALS_SECONDS
        self._began = 0.0
        self._first_rows = self._exchanged = 0

    def logged(self, fields: dict[str, Any]) -> dict[str, Any]:
        """Return the record of a mini-batch: the totals now and then, and at the end of a pass. A long run's
        log is a third as long.
        """
        now = time.monotonic()
        if fields.get("pass_done") or now - self._totals_at >= TOTALS_SECONDS:
            self._totals_at = now
            return fields
        return {key: value for key, value in fields.items() if key not in TOTALS}

    def trained(self, rows: int) -> dict[str, Any]:
        """Return the totals after a mini-batch of `rows`: samples a second, bytes of sums and errors a
        sample, all bytes.
        """
        sent, exchanged = self._traffic.by_purpose(), self._traffic.exchanged
        if self.samples == 0:
            self._began, self._exchanged = time.monotonic(), exchanged
            self.samples = self._first_rows = rows
            return {"bytes": sent}  # nothing to measure by before the first mini-batch is over
        self.samples += rows
        measured = self.samples - self._first_rows
        return {
            "samples_per_second": round(measured / max(time.monotonic() - self._began, 1e-6), 1),
            "bytes_per_sample": round((exchanged - self._exchanged) / measured, 1),
            "bytes": sent,
        }
