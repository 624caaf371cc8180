"""The end of a round: holders share, each by itself or by a secure sum over all groups."""

from __future__ import annotations

from crowdlearn_device.protocol import wire_pb2 as pb

from crowdlearn_host.coordinator.group.decisions.next_step import end_round
from crowdlearn_host.coordinator.group.effects import Commit, Effects, Merge, record
from crowdlearn_host.coordinator.group.events import Owing, Summed
from crowdlearn_host.coordinator.group.group import Group


def on_shared(group: Group, number: int, shared: pb.Shared) -> Effects:
    """Take a part of what a holder shares; once all have shared, the round is over."""
    done, schedule = group.reports.shared, group.schedule
    if group.phase != "sharing" or number not in group.holders or number in done:
        return
    if group.settings.secure:
        yield record("refused", device=group.name(number), reason="weights that are not under masks")
        return
    if shared.update:
        piece = group.layout[group.holders.index(number)]
        yield Merge(number, group.generation, schedule.round, piece, shared.update)
    if not shared.last:
        return
    done.add(number)
    if done != set(group.holders):
        return
    yield Commit(group.generation, schedule.place)
    yield from end_round(group)


def on_owing(group: Group, event: Owing) -> Effects:
    """Note which of the group's devices owe an answer to a secure sum; if none does, it is others who take
    their time.
    """
    if group.phase == "sharing":
        group.reports.shared = set(group.holders) - event.devices
        if not event.devices & set(group.holders):
            group.pace.restart()
    return ()


def on_summed(group: Group, event: Summed) -> Effects:
    """End a round whose secure sum is over."""
    if group.phase == "sharing" and group.schedule.place == event.place:
        yield from end_round(group)
