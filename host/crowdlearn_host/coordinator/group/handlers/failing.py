"""Faults of devices, and the end that too many of them bring about."""

from __future__ import annotations

from crowdlearn_device.protocol import wire_pb2 as pb

from crowdlearn_host.coordinator.group.decisions.next_step import recover, stop
from crowdlearn_host.coordinator.group.effects import Effects, record, send
from crowdlearn_host.coordinator.group.events import Stopped
from crowdlearn_host.coordinator.group.faults import MAX_FAULTS, MAX_FAULTS_OF_DEVICE, contradiction
from crowdlearn_host.coordinator.group.group import Group


def on_fault(group: Group, number: int, fault: pb.Fault) -> Effects:
    """Go on after a device refused something or failed; let it go if it cannot go on, or its claim cannot be
    true.
    """
    name, reason, forming = group.name(number), fault.reason[:500], group.phase == "forming"
    untrue = contradiction(
        fault,
        number,
        dominator=group.schedule.dominator,
        forming=group.forming if forming else None,
        runs_elsewhere=_runs_elsewhere(group, number),
    )
    fields = {"contradicted": untrue} if untrue else {}
    yield record("fault", device=name, kind=pb.FaultKind.Name(fault.kind), reason=reason, **fields)
    if fault.kind == pb.FAULT_STATE and group.forming.point is not None:
        group.restore_points.lost.add((number, group.forming.point.generation))
    times, fatal = group.faults.count(number), fault.fatal
    others_can = len(group.able - {number}) >= min(len(cut) for cut in group.settings.cuts)
    if times >= MAX_FAULTS_OF_DEVICE and others_can:
        fatal, reason = True, f"it has faulted {times} times, at last: {reason}"
    elif untrue and others_can:
        fatal, reason = True, f"{reason} (which is not so: {untrue})"
    if fatal and forming and group.generation <= 1 and not others_can:
        yield from stop(group, f"{name}: {reason}")
        return
    needed = group.needs(number)
    if fatal:
        group.attendance.refuse(number, reason)
        yield record("let_go", device=name, reason=reason)
        yield send(number, finish=pb.Finish(reason=reason))
        group.faults.in_a_row = 0  # what is left of them are others'
    if needed:
        yield from strike(group, f"{name}: {reason}")


def _runs_elsewhere(group: Group, number: int) -> bool:
    """Return whether another device has come to a boundary with the program of this device's piece."""
    if number not in group.holders:
        return False
    return group.faults.runs_elsewhere(group.cut.programs[group.holders.index(number)], number)


def strike(group: Group, why: str) -> Effects:
    """Begin anew from the last point, or give up if that has not helped so often."""
    group.faults.in_a_row += 1
    if group.faults.in_a_row >= MAX_FAULTS:
        yield from stop(group, why)
    elif group.working:
        yield from recover(group, why)


def on_stopped(group: Group, event: Stopped) -> Effects:
    """End the run for all devices."""
    yield from stop(group, event.reason)
