"""Time that passes: devices that are missing too long, silent, or stuck."""

from __future__ import annotations

from collections.abc import Set

from crowdlearn_device.protocol import wire_pb2 as pb

from crowdlearn_host.coordinator.group.decisions.next_step import resume
from crowdlearn_host.coordinator.group.effects import Drop, Effects, send
from crowdlearn_host.coordinator.group.events import Left, Ticked
from crowdlearn_host.coordinator.group.group import Group

from .devices import on_left
from .failing import strike


def on_ticked(group: Group, event: Ticked) -> Effects:
    """Let time pass. A device that is missing longer than the grace is not waited for; one that is silent or
    stuck past its deadline is let go.
    """
    attendance, grace = group.attendance, group.settings.grace_seconds
    attendance.tick(group.devices, event.now, grace)
    if group.phase not in ("gathering", "paused"):
        attendance.waiting_since = None
    elif attendance.wait(event.now, grace):
        yield from resume(group)
    yield from _keep_pace(group, event.now)


def _keep_pace(group: Group, now: float) -> Effects:
    """Ask devices whether they are there, and let those go that hold the group up."""
    stage = (group.phase, group.generation, group.reports.progressed)
    seen = group.watch.look(
        now, stage, group.live, lambda waiting: _late(group, waiting), working=group.working
    )
    for number in seen.silent:
        yield from _drop(group, number, "silent past its deadline")
    for number in seen.stuck:
        yield from _drop(group, number, "did not finish its stage in time")
    if seen.lost:
        yield from strike(group, "all devices are waiting: a message was lost")
    for number in seen.ask:
        yield send(number, ping=pb.Ping(nonce=group.generation))


def _late(group: Group, waiting: Set[int]) -> set[int]:
    """Return the devices that have not sent what is due, and do not wait for others."""
    if group.phase == "forming":
        return group.forming.late
    return set(group.holders) - (group.reports.shared if group.phase == "sharing" else waiting)


def _drop(group: Group, number: int, reason: str) -> Effects:
    yield Drop(number, reason)
    yield from on_left(group, Left(number, reason))


def on_pong(group: Group, number: int, pong: pb.Pong) -> Effects:
    """Note a device's answer that it waits for others."""
    if pong.waiting:
        group.watch.waits(number)
    return ()
