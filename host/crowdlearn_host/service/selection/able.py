"""Devices that can spare it, in turn."""

from __future__ import annotations

from collections.abc import Sequence

from .base import Candidate, Selection

COOL = 1
"""The highest thermal status of Android at which a device is taken: light."""
ENOUGH_PERCENT = 80
"""Charge at which a device that is not charged is taken."""


class Able(Selection):
    """The selection of devices that hold samples, are charged or nearly full, cool, on a network that costs
    nothing, and not in use. Those that were not chosen for longest come first, and then those that wait for
    longest.
    """

    name = "able"

    def refusal(self, candidate: Candidate) -> str:
        state = candidate.state
        if not candidate.samples:
            return "holds no samples"
        if not state.charging and state.percent < ENOUGH_PERCENT:
            return f"is not charged, at {state.percent} %"
        if state.thermal > COOL:
            return f"is hot (thermal status {state.thermal})"
        if state.metered:
            return "is on a network that may cost money"
        if state.in_use:
            return "is in use"
        return ""

    def order(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        return sorted(candidates, key=lambda each: (-each.rested, -each.waited, each.name))
