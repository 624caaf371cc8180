"""Devices that come, go, and report their state."""

from __future__ import annotations

from dataclasses import replace

from crowdlearn_device.platform.heat import STATUSES
from crowdlearn_device.protocol import wire_pb2 as pb

from crowdlearn_host.coordinator.group.attendance import FULL
from crowdlearn_host.coordinator.group.decisions.next_step import recover, resume
from crowdlearn_host.coordinator.group.effects import Effects, Save, record, send
from crowdlearn_host.coordinator.group.events import Barred, Chosen, Drawn, Joined, Left
from crowdlearn_host.coordinator.group.group import Group


def on_joined(group: Group, event: Joined) -> Effects:
    """Take in a device that connected, for the first time or again."""
    device, number = event.device, event.device.number
    if number in group.attendance.unfit:
        yield send(number, finish=pb.Finish(reason=group.attendance.unfit[number]))
        return
    group.attendance.came(number)
    known = group.devices.get(number)
    group.devices[number] = device if known is None else replace(device, samples=known.samples)
    group.pace.heard(number)
    yield record("joined", device=device.name)
    if group.phase == "done":
        yield send(number, finish=pb.Finish(reason="the run is over"))
    elif group.phase in ("gathering", "paused"):
        yield from resume(group)
    elif group.phase == "running" and number not in group.heirs:
        yield from name_heir(group, number)


def on_drawn(group: Group, event: Drawn) -> Effects:
    """Begin, if the group was held back."""
    group.held = False
    if group.phase in ("gathering", "paused"):
        yield from resume(group)


def on_chosen(group: Group, event: Chosen) -> Effects:
    """Have devices keep the chosen model, if the group waits for it."""
    if group.phase == "choosing":
        group.chosen = True
        yield from resume(group)


def on_barred(group: Group, event: Barred) -> Effects:
    """Let a device go that may take no further part."""
    group.attendance.refuse(event.device, event.reason)
    yield record("let_go", device=group.name(event.device), reason=event.reason)
    yield send(event.device, finish=pb.Finish(reason=event.reason))


def on_left(group: Group, event: Left) -> Effects:
    """Go on without a device whose connection ended."""
    number = event.device
    if number not in group.live:
        return
    group.attendance.went(number)
    group.pace.gone(number)
    if group.phase in ("done", "stopped"):
        return
    yield record("left", device=group.name(number), reason=event.reason)
    if group.working and group.needs(number):
        yield from recover(group, f"{group.name(number)} left: {event.reason}")


def on_leave(group: Group, number: int, leave: pb.Leave) -> Effects:
    """Let a device go: others take over from its own state first."""
    if number in group.attendance.leaving:
        return
    yield record("leaving", device=group.name(number), reason=leave.reason[:200])
    group.attendance.asks_to_go(number)
    if group.working and group.needs(number):
        yield from recover(group, f"{group.name(number)} leaves: {leave.reason[:200]}")
    if group.phase not in ("forming", "sharing"):
        yield from let_go(group)


def let_go(group: Group) -> Effects:
    """Send those home that asked for it."""
    for number in sorted(group.attendance.leaving & group.live):
        yield send(number, finish=pb.Finish(reason="left as it asked"))


def name_heir(group: Group, number: int) -> Effects:
    """Make snapshots readable by this device, too, from now on. Its number is its own for good: holders keep
    its identity.
    """
    if group.settings.heirs == "owner":
        return
    if group.settings.heirs == "shared":
        heirs = group.may_inherit(sorted(group.able - set(group.holders)))
    else:
        heirs = (*group.heirs, number)
    if not heirs:
        return
    yield Save()
    group.heirs = heirs
    peers = [pb.Peer(device=d, identity=group.devices[d].identity) for d in heirs]
    for holder in group.holders:
        yield send(holder, heirs=pb.Heirs(generation=group.generation, heirs=peers))


def on_device_state(group: Group, number: int, state: pb.DeviceState) -> Effects:
    """Note how hot a device is, and its charge."""
    if state.thermal >= len(STATUSES) or state.percent > FULL:
        yield record("refused", device=group.name(number), reason="a state that no device can be in")
        return
    attendance = group.attendance
    attendance.charge[number] = FULL if state.charging else state.percent
    before, attendance.thermal[number] = attendance.thermal.get(number, 0), state.thermal
    if state.thermal and state.thermal != before:
        yield record("throttled", device=group.name(number), status=STATUSES[state.thermal])
    elif before and not state.thermal:
        yield record("cooled", device=group.name(number))
