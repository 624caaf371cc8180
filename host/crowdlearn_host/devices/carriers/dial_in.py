"""The carrier of devices that dial the host, by TLS, with what `crowdlearn enrol` gave them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from crowdlearn_host.devices.joining.listener import Entrance, listening
from crowdlearn_host.devices.relays.relays import relaying

from .base import Carrier, Reach


class DialIn(Carrier):
    """A port of this computer that devices dial, `fleet.listen`, and relays if `fleet.relays` is set."""

    name = "dial-in"

    def wanted(self, reach: Reach) -> bool:
        return reach.config.fleet.listen is not None

    @asynccontextmanager
    async def reaching(self, reach: Reach) -> AsyncIterator[Sequence[asyncio.Task[None]]]:
        fleet, server = reach.config.fleet, reach.server
        assert fleet.listen is not None
        host = fleet.listen.rpartition(":")[0]
        entrance = Entrance(server, reach.home)
        async with AsyncExitStack() as stack:
            if fleet.relays:
                if fleet.relay_engine != "local":
                    reach.on_event(
                        "note", {"text": f"waiting for {fleet.relays} relays of {fleet.relay_engine}"}
                    )
                relays = relaying(
                    *(fleet.relays, server, host, reach.home, entrance.let_in), engine=fleet.relay_engine
                )
                server.relays = await stack.enter_async_context(relays)
            port = await stack.enter_async_context(listening(server, fleet.listen, reach.home, entrance))
            address = f"{host}:{port}"
            reach.on_event("listening", {"address": address, "port": port, "devices": fleet.joining})
            yield ()
