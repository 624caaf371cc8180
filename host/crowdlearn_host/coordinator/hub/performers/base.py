"""The hub as performers see it, and the base of what all groups of a run do together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

from crowdlearn_device.protocol import wire_pb2 as pb

from crowdlearn_host.coordinator.group import effects as do
from crowdlearn_host.coordinator.group.events import Event
from crowdlearn_host.coordinator.hub.connection import Attached

HandleEvent = Callable[[int, Event], None]
"""Has the group of an index handle an event, and carries out its effects."""


class Hub(Protocol):
    """The connections, as effects need them, and the listeners to what happens."""

    def connection(self, device: int) -> Attached | None: ...

    def send(self, to: Attached, frame: pb.Frame) -> None: ...

    def stream(self, to: Attached, generation: int, frames: Callable[[], Iterator[pb.Frame]]) -> None:
        """Send frames no faster than the device takes them, as long as the generation lasts."""

    def drop(self, device: int) -> None: ...

    def refuse(self, device: str, reason: str) -> None: ...

    def record(self, group: int | None, event: str, fields: dict[str, Any]) -> None: ...

    def tell(self, event: str, fields: dict[str, Any]) -> None: ...

    def contribute(self, group: int, contribution: do.Contribute) -> None: ...

    def choose(self, group: int) -> None:
        """Have the model chosen that devices keep, once no group trains any more."""

    def fail(self, error: Exception) -> None: ...

    def finish(self) -> None:
        """End the run: all groups are done or stopped, and all their effects are carried out."""


class Together:
    """A performer of what all groups of a run do together: it hears of devices and of time."""

    body = ""
    """The field of Frame that holds its messages."""

    def joined(self, device: int) -> None:
        """Note that a device is connected."""

    def left(self, device: int) -> None:
        """Note that a device is gone."""

    def replaced(self, device: int) -> None:
        """Note that a device has a new connection in place of its old one."""

    def answer(self, device: int, frame: pb.Frame) -> None:
        """Take a message of a device, a frame with `body`."""

    def tick(self, now: float) -> None:
        """Let time pass, to `now` in seconds."""

    async def settled(self) -> None:
        """Wait until everything that was asked for so far is carried out."""
