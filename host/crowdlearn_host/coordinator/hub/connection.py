"""The connection of one device, and what goes over it, counted."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from crowdlearn_host.coordinator.group.group import Group
from crowdlearn_host.coordinator.group.restore_points import Device

from .arrival import FrameStream
from .ledger import Ledger

ROUTE_BYTES = 16
"""The part of an envelope's header in front of its number, alike for all messages to a receiver of a kind."""
MOST_ROUTES = 256


@dataclass(eq=False, slots=True)
class Attached:
    """A device's connection. `up` and `down` count what comes and what goes. It `counts` until another
    connection of the device takes its place, or the device is hung up on.
    """

    device: Device
    number: int
    group: Group
    up: Ledger
    down: Ledger
    counts: bool = True
    stream: FrameStream = field(init=False)
    routes: dict[bytes, Route] = field(default_factory=dict)
    """The way that envelopes took lately, by how they begin. A route stands as long as its generation does,
    and its receiver's connection counts.
    """
    routed: int = 0
    """The generation of all of them."""

    def put(self, data: bytes, purpose: int, *, express: bool = False) -> None:
        """Send a frame as soon as there is room."""
        self.down.count(purpose, len(data))
        self.stream.put(data, express=express)

    def learn_route(self, data: bytes, route: Route) -> None:
        """Keep where envelopes like this one go, for those that follow."""
        if route.generation != self.routed or len(self.routes) >= MOST_ROUTES:
            self.routes.clear()
            self.routed = route.generation
        self.routes[bytes(data[:ROUTE_BYTES])] = route


class Route(NamedTuple):
    """The way of envelopes from one device to another, of one generation and purpose."""

    generation: int
    to: Attached
    purpose: int
    express: bool
