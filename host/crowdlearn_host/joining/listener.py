"""The port that devices dial."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from crowdlearn_device.join import REFUSED
from crowdlearn_device.wire import MAX_FRAME
from websockets.asyncio.server import ServerConnection, serve

from ..errors import FleetError
from ..server.server import Server
from .certificate import certificate
from .enrolment import Enrolment

REASON_BYTES = 120
"""What fits into the frame that closes a WebSocket."""


@asynccontextmanager
async def listening(server: Server, address: str, home: Path) -> AsyncIterator[int]:
    """Let enrolled devices join `server` at `address` (HOST:PORT) while the context lasts; gives the port.

    Raises FleetError where nobody can listen there.
    """
    host, _, port = address.rpartition(":")
    context, _ = certificate(home)
    enrolment = Enrolment(home)

    async def handle(connection: ServerConnection) -> None:
        try:
            await server.attach(connection, dialled=False, admits=enrolment.admits)
        except FleetError as error:
            server.refuse("a device that dialled in", str(error))
            reason = str(error).encode()[:REASON_BYTES].decode(errors="ignore")
            await connection.close(REFUSED, reason)

    try:
        listening = await serve(
            handle,
            host.strip("[]"),
            int(port),
            ssl=context,
            compression=None,
            max_size=MAX_FRAME,
            ping_timeout=60,
        )
    except OSError as error:
        raise FleetError(f"cannot listen on {address}: {error.strerror or error}") from error
    async with listening:
        yield next(iter(listening.sockets)).getsockname()[1]
