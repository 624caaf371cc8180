"""Energy constants of a device, as they were measured, with where they come from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Constants:
    """The spending of a device: watts at rest, and beyond it joules for a MAC, a byte sent, and one received.

    What could not be told is None, for the reason `why`. `provenance` is measured or modelled, "" if there is
    nothing; `source` names the meter and what it covers.
    """

    idle_watts: float | None
    joules_per_mac: float | None
    joules_per_byte_sent: float | None
    joules_per_byte_received: float | None
    provenance: str
    source: str
    why: str = ""

    @property
    def complete(self) -> bool:
        """Return True if a plan can be reckoned with them."""
        each = (self.joules_per_mac, self.joules_per_byte_sent, self.joules_per_byte_received)
        return all(value is not None for value in each)
