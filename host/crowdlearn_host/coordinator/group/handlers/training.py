"""A pass: mini-batches that the dominator applied, and boundaries that holders have on disk."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from crowdlearn_device.protocol import wire_pb2 as pb

from crowdlearn_host.coordinator.group.decisions.assigning import swap_slow
from crowdlearn_host.coordinator.group.decisions.next_step import next_pass, reach
from crowdlearn_host.coordinator.group.effects import Effects, record
from crowdlearn_host.coordinator.group.events import Stored
from crowdlearn_host.coordinator.group.group import Group


def on_progress(group: Group, number: int, progress: pb.Progress) -> Effects:
    """Tell that the dominator applied a mini-batch."""
    if progress.rows < 1:
        yield record("refused", device=group.name(number), reason="progress of no samples")
    elif group.phase == "running" and number == group.schedule.dominator:
        group.reports.progressed = progress.boundary
        yield record(
            "progress",
            epoch=group.schedule.epoch,
            boundary=progress.boundary,
            rows=progress.rows,
            **_reported(progress),
            **group.spent,
            **({"pass_done": True} if progress.pass_done else {}),
        )


def _reported(progress: pb.Progress) -> dict[str, Any]:
    """Return a dominator's report: empty, or loss and hits of its rows, or of `reported` samples."""
    if not progress.HasField("metrics") or progress.metrics.rows < 1:
        return {}
    metrics = progress.metrics
    of = {} if metrics.rows == progress.rows else {"reported": metrics.rows}
    own = {"own": dict(metrics.own)} if metrics.own else {}
    return {"loss": metrics.loss, "correct": metrics.correct, **own, **of}


def on_held(group: Group, number: int, held: pb.Held) -> Effects:
    """Note a boundary that a holder has on disk; once all have it, it is a restore point, or the pass is
    over.
    """
    if group.phase != "running" or number not in group.holders or held.boundary > group.pass_end:
        return
    reports, piece = group.reports.held, group.holders.index(number)
    reports[number] = held.boundary
    group.pace.worked(number, piece, held.busy_seconds)
    group.faults.worked(number, group.cut.programs[piece])
    boundary = min(reports.get(device, 0) for device in group.holders)
    if boundary <= group.boundary:
        return
    group.faults.forgive()
    schedule, dominator = group.schedule, group.schedule.dominator
    group.schedule = schedule.with_done(dominator, boundary - schedule.pass_boundary)
    if boundary < group.pass_end:
        yield from reach(group, boundary)
        yield from swap_slow(group)
        return
    yield record("pass", epoch=schedule.epoch, device=group.name(dominator), boundary=boundary)
    finished = (*schedule.finished, dominator)
    group.schedule = replace(group.schedule, finished=finished, dominator=-1)
    yield from reach(group, boundary)
    yield from next_pass(group)


def on_stored(group: Group, event: Stored) -> Effects:
    """Note that a piece's snapshot is on the server's disk."""
    key = event.generation, event.boundary, event.piece
    group.restore_points.snapshots[key] = event.heirs
    return ()
