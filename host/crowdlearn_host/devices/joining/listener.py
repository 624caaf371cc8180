"""The port that devices dial."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from crowdlearn_device.security.proof import bound_to_pin
from crowdlearn_device.transport.join import REFUSED
from crowdlearn_device.transport.serve import TRY_LATER
from websockets.asyncio.server import ServerConnection

from crowdlearn_host.coordinator.hub.arrival import Arrival, Dialled
from crowdlearn_host.coordinator.hub.server import Server
from crowdlearn_host.errors import ExpiredToken, FleetError, SilentDevice

from .accepting import accepting
from .certificate import certificate
from .enrolment import Enrolment
from .lobby import Strangers

LOOK_SECONDS = 5.0
"""The seconds between two looks at which devices are enrolled still."""
REASON_BYTES = 120
"""The bytes of a reason that fit into the frame which closes a WebSocket."""


class Entrance:
    """The entrance of enrolled devices to a run, wherever they arrive. It ends their connections when they
    are no longer enrolled. Raises FleetError if the certificate in `home` cannot be used.
    """

    def __init__(self, server: Server, home: Path) -> None:
        self._server = server
        self._enrolment = Enrolment(home)
        self._binding = bound_to_pin(certificate(home)[1])
        self._members: dict[Arrival, tuple[str, str]] = {}

    async def let_in(self, arrival: Arrival, admitted: Callable[[], None] = lambda: None) -> None:
        """Serve a device that dialled in to the end of its connection, if it is enrolled: `admitted` is
        called then.
        """

        def admits(device: str, token: str) -> bool:
            self._enrolment.check_in_time(device, token)
            known = self._enrolment.admits(device, token)
            if known:
                admitted()
                self._members[arrival] = device, token
            return known

        try:
            await self._server.attach(arrival, dialled=False, admits=admits, binding=self._binding)
        except FleetError as error:
            self._server.refuse("a device that dialled in", str(error))
            reason = str(error).encode()[:REASON_BYTES].decode(errors="ignore")
            later = isinstance(error, SilentDevice | ExpiredToken)
            await arrival.close(TRY_LATER if later else REFUSED, reason)
        finally:
            self._members.pop(arrival, None)

    async def looking(self) -> None:
        """End connections of devices that are not enrolled any more, again and again."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            with suppress(FleetError):
                for arrival, shown in list(self._members.items()):
                    if not self._enrolment.admits(*shown):
                        arrival.abort()


@asynccontextmanager
async def listening(
    server: Server, address: str, home: Path, entrance: Entrance | None = None
) -> AsyncIterator[int]:
    """Let enrolled devices join `server` at `address` (HOST:PORT), by `entrance` if there is one already,
    while the context lasts; gives the port.

    Raises FleetError if the address cannot be listened on.
    """
    entrance, strangers = entrance or Entrance(server, home), Strangers()

    async def handle(connection: ServerConnection) -> None:
        arrival = Dialled(connection, may_move=True)
        await entrance.let_in(arrival, lambda: strangers.admit(connection.remote_address))

    async with accepting(handle, address, certificate(home)[0], strangers) as port:
        looking = asyncio.create_task(entrance.looking())
        try:
            yield port
        finally:
            looking.cancel()
