"""Which devices hold the pieces: a cut that those here can afford, and the assignment of its pieces."""

from __future__ import annotations

from crowdlearn_host.coordinator.group.assignment import Assignment
from crowdlearn_host.coordinator.group.effects import Decision, Effects, Save, record, send
from crowdlearn_host.coordinator.group.forming import Forming
from crowdlearn_host.coordinator.group.group import Group, Reports
from crowdlearn_host.coordinator.group.rotation import next_holders
from crowdlearn_host.planner.problem.seating import beyond, led


def pause(group: Group, why: str) -> Effects:
    """Wait for a device, or for the grace to be over."""
    if group.phase != "paused" or group.reason != why:
        yield record("paused", why=why, grace=group.settings.grace_seconds)
    group.phase, group.reason = "paused", why


def refill(group: Group) -> Effects:
    """Assign the same pieces to the same devices, and to others where these are gone."""
    able, dominator = group.able, group.schedule.dominator
    spares = sorted(able - set(group.holders), key=lambda d: (d in group.pace.slow, d))
    here = [*spares, *(d for d in group.holders if d in able)]
    holders = led(group.cut.takers, group.holders, here, dominator, group.owners)
    if holders is not None:
        yield from assign(group, holders)
    elif (yield from choose_cut(group, dominator)):
        yield from seat(group)


def choose_cut(group: Group, dominator: int) -> Decision:
    """Take the division that the devices here can afford under this dominator; without one, pause. One into
    fewer pieces has to wait for the grace to pass.
    """
    able = sorted(group.able)
    enough = [cut for cut in group.settings.cuts if len(cut) <= len(able)]
    fits = next((c for c in enough if led(c.takers, [-1] * len(c), able, dominator, group.owners)), None)
    wanted = group.settings.cuts[0]
    if fits is None and enough:
        here = ", ".join(map(group.name, able))
        why = "the devices that are here cannot afford the pieces within the plan's caps"
        if any(led(cut.takers, [-1] * len(cut), able, dominator) for cut in enough):
            why = "the devices that are here make no triples of helpers of different owners (privacy.owners)"
        yield from pause(group, f"{why}: {here}")
        return False
    patient = group.attendance.patient
    if fits is None or (patient and fits != wanted and len(fits) != len(group.cut)):
        gone = sorted(set(group.devices) - group.able)
        names = f"; missing: {', '.join(map(group.name, gone))}" if gone else ""
        yield from pause(group, f"{len(wanted)} pieces need as many devices, {len(able)} are here{names}")
        return False
    if fits != group.cut:
        yield record("resliced", pieces=len(fits))
        group.cut = fits
    return True


def seat(group: Group) -> Effects:
    """Assign the pieces of the chosen cut for the pass."""
    holders = next_holders(
        group.settings,
        group.schedule,
        group.holders,
        group.cut.takers,
        len(group.layout),
        group.able,
        group.pace.slow,
        group.owners,
    )
    if holders is not None:
        yield from assign(group, holders)


def swap_slow(group: Group) -> Effects:
    """Give a slow follower's piece to a spare, at a boundary that every device holds."""
    spares = sorted(group.able - set(group.holders) - group.pace.slow)
    slow = [d for d in group.holders[1:] if d in group.pace.slow]
    if not slow or not spares:
        return
    leaving = slow[: len(spares)]
    able = [*spares, *(device for device in group.holders if device not in leaving)]
    holders = led(group.cut.takers, group.holders, able, group.schedule.dominator, group.owners)
    if holders is None:
        return
    for device in leaving:
        yield record("swapped", device=group.name(device), reason=group.pace.why(device))
    yield from assign(group, holders)


def assign(group: Group, holders: tuple[int, ...], keepers: tuple[int, ...] = ()) -> Effects:
    """Begin a new generation: these devices hold the pieces, from the newest point on. With keepers no
    device does: they take all pieces of the point, or of the model that is chosen, and keep them.
    """
    if over := beyond(group.cut.takers, holders):
        text = ", ".join(f"piece {piece} on {group.name(device)}" for piece, device in over)
        yield from pause(group, f"over the plan's caps: {text}")
        return
    schedule, points, needed = group.schedule, group.restore_points, group.heirs_needed
    newest = points.points[-1] if points.points else None
    group.generation += 1
    group.phase = "forming"
    group.holders = holders
    source = newest if newest and newest.generation and not (keepers and group.chosen) else None
    providing = tuple(points.providers(source, group.live, needed) or ()) if source else ()
    helping = points.helping(source, providing, group.live, needed) if source else ()
    group.forming = Forming(holders, keepers, source, providing, helping)
    group.attendance.patient = True
    group.reports = Reports(progressed=group.reports.progressed)
    yield Save()
    spares = sorted(group.able - set(holders))
    group.heirs = () if keepers else group.may_inherit(spares)
    yield record(
        "assigned",
        generation=group.generation,
        epoch=schedule.epoch,
        boundary=group.boundary,
        dominator=group.name(schedule.dominator) if schedule.dominator >= 0 else "",
        holders=[group.name(d) for d in holders],
        spares=[group.name(d) for d in spares],
    )
    passing = schedule.dominator >= 0
    assignment = Assignment(
        settings=group.settings,
        programs=group.cut.programs,
        layout=group.layout,
        generation=group.generation,
        schedule=schedule,
        boundary=group.boundary,
        pass_boundary=schedule.pass_boundary if passing else group.boundary,
        pass_end=group.pass_end if passing else group.boundary,
        holders=holders,
        keepers=keepers,
        heirs=group.heirs,
        devices=tuple(group.devices.values()),
        point=source,
        providing=providing,
        helping=helping,
        heirs_needed=needed,
        fresh=group.fresh,
        patched=group.patched,
    )
    for number in sorted(group.live):
        yield send(number, assign=assignment.frame(number))
