"""Rounds, which end in sharing: when one is over, and where a group stands after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .restore_points import RestorePoint, Schedule
from .settings import Settings


def is_fresh(schedule: Schedule, boundary: int) -> bool:
    """Return whether no mini-batch of the round is done."""
    return boundary == schedule.round_boundary and not schedule.sharing


def is_full(schedule: Schedule, every: int) -> bool:
    """Return whether the round has all its passes: `every`, or the rest of the epoch's (0)."""
    return 0 < every <= len(schedule.finished) - schedule.shared


def next_round(schedule: Schedule, boundary: int) -> Schedule:
    """Return the schedule once a round is shared, within the same epoch."""
    begins = {"shared": len(schedule.finished), "round": schedule.round + 1, "round_boundary": boundary}
    return replace(schedule, **begins, sharing=False)  # type: ignore[arg-type]


def next_epoch(schedule: Schedule) -> Schedule:
    """Return the schedule when an epoch is over whose passes are all shared."""
    return Schedule(schedule.epoch + 1, round=schedule.round, round_boundary=schedule.round_boundary)


def after_sharing(
    settings: Settings, points: Sequence[RestorePoint], schedule: Schedule, *, over: bool
) -> list[RestorePoint]:
    """Return the points to go on from, `schedule` being what follows: none from which a round would be shared
    again.

    Unless the run is `over`, where sharing renews every weight, the server's model is the point, and needs no
    device.
    """
    here = [replace(p, schedule=schedule) for p in points if p.boundary == points[-1].boundary]
    if here and settings.renews and not over:
        return [replace(here[-1], generation=0)]
    return here
