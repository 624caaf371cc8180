"""A port that accepts WebSockets, with few that wait there unknown."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from websockets.asyncio.server import ServerConnection, serve

from crowdlearn_host.common.event_loop import accepts_by_hand
from crowdlearn_host.errors import FleetError

from .lobby import Strangers, doors

HELLO_BYTES = 1 << 16
"""The longest frame of a device that is not admitted."""


@asynccontextmanager
async def accepting(
    handle: Callable[[ServerConnection], Awaitable[None]],
    address: str,
    context: ssl.SSLContext | None,
    strangers: Strangers,
) -> AsyncIterator[int]:
    """Accept connections at `address` (HOST:PORT) while the context lasts; gives the port. TLS by
    `context`; None for none.

    Raises FleetError if the address cannot be listened on.
    """
    if not accepts_by_hand():
        raise FleetError(
            "devices can dial in to Python's own event loop only, not to "
            f"{type(asyncio.get_running_loop()).__module__}'s: run this in a thread with asyncio.run"
        )
    host, _, port = address.rpartition(":")
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
        yield listening[0].getsockname()[1]
