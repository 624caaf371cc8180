"""Which devices hold which pieces, within what each can afford."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set

Takers = Sequence[Set[int]]
"""The devices that can afford each piece; () if any device can afford any piece."""


def may_hold(takers: Takers, piece: int, device: int) -> bool:
    """Return whether a device can afford a piece."""
    return not takers or device in takers[piece]


def beyond(takers: Takers, holders: Sequence[int]) -> list[tuple[int, int]]:
    """Return the (piece, device) pairs of which the device cannot afford the piece."""
    return [(piece, d) for piece, d in enumerate(holders) if not may_hold(takers, piece, d)]


def seated(takers: Takers, wanted: Sequence[int], able: Sequence[int]) -> tuple[int, ...] | None:
    """Return a different device of those `able` for every piece, that can afford it: the `wanted` one if
    possible (-1: any), and else the first in the order of `able`. None if there is no such assignment.
    """
    holder_of: dict[int, int] = {}
    for piece, device in enumerate(wanted):
        if device in able and may_hold(takers, piece, device) and device not in holder_of:
            holder_of[device] = piece
    settled = set(holder_of.values())
    for piece in range(len(wanted)):
        if piece not in settled and not _augment(takers, piece, able, holder_of, set()):
            return None
    device_of = {piece: device for device, piece in holder_of.items()}
    return tuple(device_of[piece] for piece in range(len(wanted)))


def led(takers: Takers, wanted: Sequence[int], able: Sequence[int], dominator: int) -> tuple[int, ...] | None:
    """Return an assignment whose piece 0 the dominator holds (-1: any device), if there is one."""
    if dominator < 0:
        return seated(takers, wanted, able)
    if dominator not in able or beyond(takers, [dominator]):
        return None
    others = [-1 if device == dominator else device for device in wanted[1:]]
    rest = seated(takers[1:], others, [device for device in able if device != dominator])
    return None if rest is None else (dominator, *rest)


def apart(
    able: Sequence[int], owners: Mapping[int, int | str], dominator: int, kept: Sequence[int]
) -> list[int]:
    """Return the devices of those `able` among which no two helpers have one owner: of each owner's devices
    beside the dominator one, those in `kept` first. Devices that are not in `owners` have one of their own.
    """
    chosen: dict[int | str, int] = {}
    for device in sorted(able, key=lambda d: d not in kept):
        if device in owners and device != dominator:
            chosen.setdefault(owners[device], device)
    return [d for d in able if d == dominator or d not in owners or chosen[owners[d]] == d]


def _augment(
    takers: Takers, piece: int, able: Sequence[int], holder_of: dict[int, int], tried: set[int]
) -> bool:
    """Give the piece a free device, or one whose piece another device can take (Kuhn's augmenting paths)."""
    for device in sorted(able, key=lambda d: d in holder_of):
        if device in tried or not may_hold(takers, piece, device):
            continue
        tried.add(device)
        if device not in holder_of or _augment(takers, holder_of[device], able, holder_of, tried):
            holder_of[device] = piece
            return True
    return False
