"""The port that devices dial."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

from crowdlearn_device.security.proof import bound_to_pin
from crowdlearn_device.transport.join import REFUSED
from crowdlearn_device.transport.serve import TRY_LATER
from websockets.asyncio.server import ServerConnection, serve

from crowdlearn_host.coordinator.hub.server import Server
from crowdlearn_host.errors import FleetError, SilentDevice

from .certificate import certificate
from .enrolment import Enrolment
from .lobby import Strangers, doors

HELLO_BYTES = 1 << 16
"""The longest frame of a device that is not admitted, and has not proven its identity."""
LOOK_SECONDS = 5.0
"""Between two looks at who is enrolled still."""
REASON_BYTES = 120
"""What fits into the frame that closes a WebSocket."""


@asynccontextmanager
async def listening(server: Server, address: str, home: Path) -> AsyncIterator[int]:
    """Let enrolled devices join `server` at `address` (HOST:PORT) while the context lasts; gives the port.

    Raises FleetError if nobody can listen there.
    """
    host, _, port = address.rpartition(":")
    context, pin = certificate(home)
    binding = bound_to_pin(pin)
    enrolment = Enrolment(home)
    strangers = Strangers()
    members: dict[ServerConnection, tuple[str, str]] = {}

    async def handle(connection: ServerConnection) -> None:
        def admits(device: str, token: str) -> bool:
            admitted = enrolment.admits(device, token)
            if admitted:
                strangers.admit(connection.remote_address)
                members[connection] = device, token
            return admitted

        try:
            await server.attach(connection, dialled=False, admits=admits, binding=binding)
        except FleetError as error:
            server.refuse("a device that dialled in", str(error))
            reason = str(error).encode()[:REASON_BYTES].decode(errors="ignore")
            await connection.close(TRY_LATER if isinstance(error, SilentDevice) else REFUSED, reason)
        finally:
            members.pop(connection, None)

    async def hang_up() -> None:
        """End connections of devices that are not enrolled any more, as long as the port is open."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            with suppress(FleetError):
                for connection, shown in list(members.items()):
                    if not enrolment.admits(*shown):
                        connection.transport.abort()

    async with AsyncExitStack() as stack:
        try:
            listening = doors(host.strip("[]"), int(port), strangers)
        except (OSError, OverflowError) as error:
            raise FleetError(
                f"cannot listen on {address}: {getattr(error, 'strerror', None) or error}"
            ) from error
        for door in listening:
            await stack.enter_async_context(
                serve(
                    handle,
                    sock=door,
                    ssl=context,
                    compression=None,
                    max_size=HELLO_BYTES,
                    ping_interval=None,
                )
            )
        looking = asyncio.create_task(hang_up())
        stack.callback(looking.cancel)
        yield listening[0].getsockname()[1]
