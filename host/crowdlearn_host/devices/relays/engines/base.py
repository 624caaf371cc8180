"""The base of engines: each starts relays somewhere, and has a channel to them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from ..channel import Channel, Kind


class Running(ABC):
    """A relay that runs. `address` is where devices find it: HOST:PORT, or :PORT at the host that they have.

    `pid` is its process id on this computer, None if it runs elsewhere.
    """

    pid: int | None = None

    def __init__(self, channel: Channel, address: str) -> None:
        self.channel, self.address = channel, address

    @abstractmethod
    async def end(self) -> int | None:
        """End the relay if it still runs. Return its exit status, None if it is not known."""


class Engine(ABC):
    """A place where relays run."""

    name: ClassVar[str]

    @abstractmethod
    async def start(self, host: str, home: Path | None) -> Running:
        """Start a relay that listens at `host`, with TLS by the certificate in `home` (None: without).

        Raises FleetError if it does not listen in time.
        """


async def port_of(channel: Channel) -> int | None:
    """Return the port at which a relay listens, its first message; None if it ended before."""
    first = await channel.next()
    return int(first.json()) if first is not None and first.kind == Kind.LISTENING else None
