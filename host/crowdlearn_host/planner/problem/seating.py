"""Which devices hold which pieces, within what each can afford; no two of an owner's are in one triple."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field

from crowdlearn_device.privacy.shares.replicated import HELPERS

Takers = Sequence[Set[int]]
"""The devices that can afford each piece; () if any device can afford any piece."""
Owners = Mapping[int, int | str]
"""The owners of devices on shares: no two of an owner's are in one triple. Others have one of their own."""
Place = tuple[int | str, str, int]
"""The place that an owner has in a triple, or any other device with a piece."""


def may_hold(takers: Takers, piece: int, device: int) -> bool:
    """Return whether a device can afford a piece."""
    return not takers or device in takers[piece]


def beyond(takers: Takers, holders: Sequence[int]) -> list[tuple[int, int]]:
    """Return the (piece, device) pairs of which the device cannot afford the piece."""
    return [(piece, d) for piece, d in enumerate(holders) if not may_hold(takers, piece, d)]


def meeting(owners: Owners, holders: Sequence[int]) -> bool:
    """Return whether two devices of one owner are in one triple; the first holder is the dominator."""
    places = [(owners[d], k // HELPERS) for k, d in enumerate(holders[1:]) if d in owners]
    return len({*places}) < len(places)


def seated(
    takers: Takers, wanted: Sequence[int], able: Sequence[int], owners: Owners | None = None
) -> tuple[int, ...] | None:
    """Return a different device of those `able` for every piece, that can afford it: the `wanted` one if
    possible (-1: any), and else the first in the order of `able`. None if there is no such assignment.
    """
    seats = _Seats(takers, able, owners or {})
    for piece, device in enumerate(wanted):
        place = seats.place(piece, device)
        fits = device in able and may_hold(takers, piece, device)
        if fits and place not in seats.device_of and device not in seats.device_of.values():
            seats.place_of[piece], seats.device_of[place] = place, device
    if not all(piece in seats.place_of or seats.fill(piece, set()) for piece in range(len(wanted))):
        return None
    return tuple(seats.device_of[seats.place_of[piece]] for piece in range(len(wanted)))


def led(
    takers: Takers,
    wanted: Sequence[int],
    able: Sequence[int],
    dominator: int,
    owners: Owners | None = None,
) -> tuple[int, ...] | None:
    """Return an assignment whose piece 0 the dominator holds (-1: any device), if there is one."""
    if dominator < 0:
        return seated(takers, wanted, able, owners)
    if dominator not in able or beyond(takers, [dominator]):
        return None
    only = takers or [{*able}] * len(wanted)
    others = [-1 if device == dominator else device for device in wanted[1:]]
    return seated([{dominator}, *only[1:]], [dominator, *others], able, owners)


@dataclass
class _Seats:
    """An assignment that grows by augmenting paths: pieces have places, and places have devices.

    An owner has one place in a triple, whose pieces the same devices can afford. Other devices have one for
    each piece.
    """

    takers: Takers
    able: Sequence[int]
    owners: Owners
    place_of: dict[int, Place] = field(default_factory=dict)
    device_of: dict[Place, int] = field(default_factory=dict)

    def place(self, piece: int, device: int) -> Place:
        """Return the place that a device takes with a piece."""
        if piece == 0 or device not in self.owners:
            return f"device {device}", "piece", piece
        return self.owners[device], "triple", (piece - 1) // HELPERS

    def fill(self, piece: int, seen: set[object]) -> bool:
        """Give a piece a free place, or else one whose piece another can take. `seen` is what the path was
        at before.
        """
        places = dict.fromkeys(self.place(piece, device) for device in self._devices(piece))
        for place in sorted(places, key=lambda place: self._piece(place) is not None):
            if ("of piece", place) in seen:
                continue
            seen.add(("of piece", place))
            other = self._piece(place)
            if self._supply(place, piece, seen) if other is None else self.fill(other, seen):
                self.place_of[piece] = place
                return True
        return False

    def _supply(self, place: Place, piece: int, seen: set[object]) -> bool:
        """Give a piece's place a free device, or one that its own place can do without."""
        for device in self._devices(piece):
            if self.place(piece, device) != place or device in seen:
                continue
            seen.add(device)
            before = next((p for p, d in self.device_of.items() if d == device), None)
            if before is None or self._leave(before, seen):
                self.device_of[place] = device
                return True
        return False

    def _leave(self, place: Place, seen: set[object]) -> bool:
        """Let a place do without its device: give it another, or its piece another place."""
        piece = self._piece(place)
        if piece is None or self._supply(place, piece, seen):
            return True
        if ("of piece", place) in seen:
            return False
        seen.add(("of piece", place))
        if self.fill(piece, seen):
            del self.device_of[place]
            return True
        return False

    def _devices(self, piece: int) -> list[int]:
        """Return the devices that can afford a piece, free ones first."""
        taken = {*self.device_of.values()}
        able = [device for device in self.able if may_hold(self.takers, piece, device)]
        return sorted(able, key=taken.__contains__)

    def _piece(self, place: Place) -> int | None:
        return next((p for p, each in self.place_of.items() if each == place), None)
