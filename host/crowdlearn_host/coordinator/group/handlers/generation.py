"""A generation that begins: keys are exchanged, state moves, and every holder is ready."""

from __future__ import annotations

from crowdlearn_device.protocol import wire_pb2 as pb

from crowdlearn_host.coordinator.group.decisions.next_step import ask_to_share, reach, resume
from crowdlearn_host.coordinator.group.effects import (
    Effects,
    SendGlobal,
    SendPatch,
    SendSnapshot,
    record,
    send,
)
from crowdlearn_host.coordinator.group.group import Group

from .devices import let_go, name_heir


def on_key_offer(group: Group, number: int, offer: pb.KeyOffer) -> Effects:
    """Take a device's key; once all are here, exchange them."""
    before = group.forming
    if group.phase != "forming" or offer.device != number or number in before.offers:
        return
    group.forming = before.offered(offer)
    if group.forming.keyed and not before.keyed:
        yield from _exchange(group)


def _exchange(group: Group) -> Effects:
    """Send every device the others' keys, and those that wait for it the server's part of the state."""
    forming, point = group.forming, group.forming.point
    offers = forming.offers
    keys = pb.Keys(generation=group.generation, offers=[offers[d] for d in sorted(offers)])
    for device in sorted(offers):
        yield send(device, keys=keys)
    if point is None and not group.patched:
        for device, neurons in forming.due(group.layout):
            chosen = bool(forming.keepers) and group.chosen
            yield SendGlobal(device, group.generation, neurons, chosen)
    if point is not None:
        for piece, (provider, is_stored) in enumerate(forming.providing):
            if is_stored:
                yield SendSnapshot(provider, point.generation, point.boundary, piece)
        for heir, piece in forming.helping:
            yield SendSnapshot(heir, point.generation, point.boundary, piece, keys_only=True)
    if group.patched:
        for piece, device in enumerate(group.holders):
            yield SendPatch(device, group.generation, group.layout[piece], whole=point is None)


def on_ready(group: Group, number: int, _: pb.Ready) -> Effects:
    """Note that a device has its state; once all have, work begins."""
    if group.phase != "forming" or number not in group.forming.receivers:
        return
    group.forming = group.forming.with_ready(number)
    if not group.forming.complete:
        return
    if keepers := group.forming.keepers:
        group.has_model |= set(keepers)
        yield record("kept", devices=[group.name(d) for d in keepers])
        yield from resume(group)
        return
    yield from reach(group, group.boundary)
    if group.schedule.sharing:
        yield from ask_to_share(group)
        return
    group.phase = "running"
    for device in group.holders:
        yield send(device, go=pb.Go(generation=group.generation))
    yield from let_go(group)
    for device in sorted(group.able - set(group.heirs) - set(group.holders)):
        yield from name_heir(group, device)
