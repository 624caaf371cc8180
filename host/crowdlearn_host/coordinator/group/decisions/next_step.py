"""The next step of a group: pass upon pass, round upon round, and on from the newest point where something
went wrong.
"""

from __future__ import annotations

from dataclasses import replace

from crowdlearn_device.protocol import wire_pb2 as pb

from crowdlearn_host.coordinator.group.effects import (
    Checkpoint,
    Choose,
    Contribute,
    Effects,
    Forget,
    Save,
    record,
    send,
)
from crowdlearn_host.coordinator.group.group import Group
from crowdlearn_host.coordinator.group.restore_points import RestorePoint
from crowdlearn_host.coordinator.group.rotation import turn_order
from crowdlearn_host.coordinator.group.rounds import after_sharing, is_full, next_epoch, next_round

from .assigning import assign, choose_cut, pause, refill, seat


def stop(group: Group, reason: str) -> Effects:
    """End the run for all devices. A run that was stopped can be resumed."""
    if group.phase in ("done", "stopped"):
        return
    group.phase, group.reason = "stopped", reason
    yield record("stopped", reason=reason)
    yield Save()
    for number in sorted(group.live):
        yield send(number, finish=pb.Finish(reason=reason))


def recover(group: Group, why: str) -> Effects:
    """Go on after something went wrong."""
    yield record("recovering", why=why, boundary=group.boundary)
    yield from resume(group)


def resume(group: Group) -> Effects:
    """Go on from the newest point that the connected devices can restore, or say what is missing. A lost
    dominator's turn is deferred once it is not waited for any more.
    """
    points = group.restore_points
    if group.phase in ("done", "stopped"):
        return
    if group.chosen:  # the model that devices keep is the host's: no device has to give any of it
        yield from _end(group)
        return
    if not points.points and (group.held or not group.gathered):
        group.phase = "gathering"
        return
    if points.points:
        live, needed = group.live, group.heirs_needed
        restorable = [p for p in points.points if points.providers(p, live, needed) is not None]
        if restorable:
            yield from _restore(group, restorable[-1])
        elif points.points[0].boundary == 0:
            # Nothing is trained yet: the server's own model is the state.
            points.points = [replace(points.points[0], generation=0)]
            yield from _restore(group, points.points[0])
        else:
            absent = sorted({d for d in points.points[-1].holders if d not in live})
            names = ", ".join(map(group.name, absent))
            yield from pause(group, f"pieces are held by devices that are gone: {names}")
            return
    dominator, sharing = group.schedule.dominator, group.schedule.sharing
    if dominator < 0 and not sharing:
        yield from next_pass(group)
    elif sharing or dominator in group.able:
        yield from refill(group)
    elif dominator in group.attendance.absent:
        yield record("deferred", device=group.name(dominator))
        group.schedule = replace(group.schedule, dominator=-1)
        yield from next_pass(group)
    else:
        yield from pause(group, f"dominator {group.name(dominator)} is gone; its samples are nowhere else")


def _restore(group: Group, point: RestorePoint) -> Effects:
    """Stand where the point stood, and tell which mini-batches are trained again."""
    group.stand_at(point)
    if group.reports.progressed > group.boundary:
        yield record("rolled_back", boundary=group.boundary, after=group.reports.progressed)
    group.reports.progressed = group.boundary


def reach(group: Group, boundary: int) -> Effects:
    """Add a restore point at a boundary that all pieces hold. Once its snapshots are all here, older points
    are forgotten.
    """
    group.boundary = boundary
    point = RestorePoint(group.generation, boundary, group.layout, group.holders, group.schedule)
    if not (group.without_heirs or group.restore_points.has_snapshots(point)):
        group.restore_points.points.append(point)
        yield Save()
        return
    group.restore_points.keep_only(point)
    yield Save()
    yield Forget(group.generation, boundary)
    for device in sorted(group.live):
        yield send(device, committed=pb.Committed(generation=group.generation, boundary=boundary))


def next_pass(group: Group) -> Effects:
    """Draw the next dominator without replacement; share when a round is over; end after the last epoch."""
    if group.over:
        yield from _end(group)
        return
    if not group.schedule.order:
        order = turn_order(group.settings, group.dominating, group.schedule.epoch)
        if not order:
            yield from pause(
                group, "no device that is here holds samples and can afford the dominator's piece"
            )
            return
        group.schedule = replace(group.schedule, order=order)
    turn = group.whose_turn
    if (turn is None or is_full(group.schedule, group.settings.every)) and not group.fresh:
        group.schedule = replace(group.schedule, sharing=True)
        group.restore_points.reschedule(group.schedule)
        yield Save()
        if group.phase == "running" and set(group.holders) <= group.able:
            yield from ask_to_share(group)
        else:
            yield from resume(group)
    elif turn is None and group.able:
        yield from _end_epoch(group)
        _go_on_from_what_is_shared(group)
        yield from next_pass(group)
    elif turn is None:
        yield from pause(group, "no device is here")
    elif turn not in group.able:
        yield from pause(group, f"it is the turn of {group.name(turn)}, which is not here")
    elif (yield from choose_cut(group, turn)):
        began = group.boundary - group.schedule.steps_done(turn)
        group.schedule = replace(group.schedule, dominator=turn, pass_boundary=began)
        yield from seat(group)


def ask_to_share(group: Group) -> Effects:
    """Have all holders share what they trained in the round."""
    settings = group.settings
    group.phase = "sharing"
    group.reports.shared = set()
    if settings.secure:
        pieces = dict(zip(group.holders, group.layout, strict=True))
        yield Contribute(group.generation, group.schedule.place, pieces)
        return
    for device in group.holders:
        share = pb.Share(
            generation=group.generation,
            round=group.schedule.round,
            theta=settings.theta,
            values=settings.shared_type,  # type: ignore[arg-type]
        )
        yield send(device, share=share)


def end_round(group: Group) -> Effects:
    """Go on after a round that is shared."""
    yield Save()
    schedule = group.schedule
    yield record("shared", epoch=schedule.epoch, round=schedule.round, boundary=group.boundary)
    group.schedule = next_round(schedule, group.boundary)
    if group.whose_turn is None:
        yield from _end_epoch(group)
    _go_on_from_what_is_shared(group)
    yield from next_pass(group)


def _end_epoch(group: Group) -> Effects:
    """End the epoch once all devices have been dominator and all is shared: on disk first, then the model is
    checkpointed.
    """
    schedule = group.schedule
    for number in sorted(set(schedule.order) - set(schedule.finished)):
        yield record("skipped", device=group.name(number), epoch=schedule.epoch)
    yield Save()
    yield Checkpoint(schedule.epoch)
    yield record("epoch", epoch=schedule.epoch, boundary=group.boundary)
    group.schedule = next_epoch(schedule)


def _go_on_from_what_is_shared(group: Group) -> None:
    points = group.restore_points
    points.points = after_sharing(group.settings, points.points, group.schedule, over=group.over)


def _end(group: Group) -> Effects:
    """Have every device take the model, if they are to keep it; then the run is over."""
    settings, budget = group.settings, group.settings.budget
    if budget is not None and group.affordable < settings.epochs and not group.enough:
        epsilon = settings.epsilon(group.samples, group.schedule.epoch)
        yield record("budget_spent", epochs=group.schedule.epoch, of=settings.epochs, epsilon=epsilon)
        if not group.schedule.epoch:
            yield from stop(group, budget.unaffordable)
            return
    if settings.whole_program:
        if settings.chooses and not group.chosen:
            group.phase = "choosing"
            yield Save()
            yield Choose()
            return
        if group.live - group.has_model:
            yield from assign(group, group.holders, keepers=tuple(sorted(group.live)))
            return
        if away := set(group.devices) - group.has_model - group.attendance.absent:
            yield from pause(group, f"without the model: {', '.join(map(group.name, sorted(away)))}")
            return
    group.phase = "done"
    yield record("done", boundary=group.boundary)
    yield Save()
    for number in sorted(group.live):
        yield send(number, finish=pb.Finish(reason="the run is over"))
