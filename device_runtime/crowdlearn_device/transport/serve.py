"""The device runtime's shell: a WebSocket that the host reaches through adb, around a `Member`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path

from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

from crowdlearn_device.data.dataset import NO_DATA, Dataset, load_dataset
from crowdlearn_device.energy.spending import Spending
from crowdlearn_device.errors import DeviceError
from crowdlearn_device.member.member import Member
from crowdlearn_device.platform.battery import Condition
from crowdlearn_device.platform.files import write_atomically
from crowdlearn_device.privacy.tap import Tap
from crowdlearn_device.program.executor import Load, ProgramStore, load_program
from crowdlearn_device.protocol.frames import MAX_FRAME
from crowdlearn_device.security.assignment_policy import own_identity
from crowdlearn_device.security.daily_use import DailyUse
from crowdlearn_device.state.pruning import prune_programs

from .abstract_socket import is_welcome
from .driver import BATTERY_SECONDS, Driver, Watch
from .host_token import HostToken

log = logging.getLogger("crowdlearn")


LEAVE_SECONDS = 10.0
"""The seconds in which others may take over the pieces of a device that is asked to stop."""


TRY_LATER = 1013
"""The WebSocket's close code for who should come again later."""


async def serve_device(
    home: Path,
    data: Path | None,
    name: str,
    port: int | socket.socket,
    stopping: asyncio.Event | None = None,
    battery: Condition | None = None,
    every: float = BATTERY_SECONDS,
    tap: Tap | None = None,
    inbox: Path | None = None,
    watch: Watch | None = None,
    load_with: Load = load_program,
    use: DailyUse | None = None,
    spending: Callable[[], Spending] = Spending,
) -> None:
    """Listen for the host on 127.0.0.1:`port` (0: any free one, written to HOME/port), one connection at a
    time. It ends once `stopping` is set and others have taken over what this device holds. In place of a port
    a Unix socket may be given, on which only adb and this user are served.

    Without `data` it holds no samples. While the battery is low it takes part in nothing: the host is to come
    again later. The host must present what is in HOME/token, which is made if it is missing: other programs
    of the phone can reach the port too. A `tap` records what the device holds of others' samples, for
    evaluations only. `load_with` loads programs, in this process or beside it. `use` counts the bytes and
    joules of the day, in HOME if it is left out, and `spending` makes what reads joules.
    """
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    inbox = inbox or home
    identity = own_identity(home)
    token = HostToken(inbox / "token")
    programs = ProgramStore(inbox / "programs", load_with)
    leaving = stopping or asyncio.Event()

    def load() -> Dataset:
        return NO_DATA if data is None else load_dataset(data, may_be_empty=True)

    def member_of(samples: int) -> Member:
        prune_programs(inbox)
        return Member(
            name, home, identity, samples, load, programs, tap=tap, binding=token.binding, counted=use
        )

    def driver_of(connection: ServerConnection, member: Member) -> Driver:
        return Driver(connection, member, leaving, battery, every, watch, spending)

    served = _Served(load, member_of, driver_of, token, battery, watch)
    own, number = (port, None) if isinstance(port, socket.socket) else (None, port)
    async with serve(
        served.drive,
        None if own else "127.0.0.1",
        number,
        sock=own,
        max_size=MAX_FRAME,
        compression=None,
        process_request=served.authorize,
        ping_interval=None,
    ) as server:
        if own is None:
            bound = next(iter(server.sockets)).getsockname()[1]
            write_atomically(home / "port", f"{bound}\n".encode())
            log.info("listening on 127.0.0.1:%d", bound)
        await leaving.wait()
        if served.current is not None:
            await asyncio.wait({served.current}, timeout=LEAVE_SECONDS)


class _Served:
    """The device as a host meets it: one connection at a time, the newest."""

    def __init__(
        self,
        load: Callable[[], Dataset],
        member_of: Callable[[int], Member],
        driver_of: Callable[[ServerConnection, Member], Driver],
        token: HostToken,
        battery: Condition | None,
        watch: Watch | None,
    ) -> None:
        self._load, self._member_of, self._driver_of, self._token = load, member_of, driver_of, token
        self._battery, self._watch = battery, watch
        self.current: asyncio.Task[None] | None = None

    def authorize(self, connection: ServerConnection, request: Request) -> Response | None:
        """Return the refusal of a request, None if it is welcome."""
        peer = connection.transport.get_extra_info("socket")
        if peer.family == socket.AF_UNIX and not is_welcome(peer):
            return connection.respond(HTTPStatus.FORBIDDEN, "this device serves adb alone\n")
        refused = self._token.refusal(request)
        return None if refused is None else connection.respond(*refused)

    async def drive(self, connection: ServerConnection) -> None:
        """Take part in what the host trains until the connection ends or another one replaces it."""
        task = asyncio.current_task()
        if self.current is not None and not self.current.done():
            log.info("a new connection replaces the old one")
            self.current.cancel()
        self.current = task
        if self._battery is not None and (why := self._battery.low()):
            if self._watch is not None:
                self._watch.resting(why)
            await connection.close(TRY_LATER, why)
            return
        try:
            samples = len(await asyncio.to_thread(self._load))
        except DeviceError as error:
            log.error("%s", error)
            await connection.close(1011, str(error)[:100])
            return
        with contextlib.suppress(asyncio.CancelledError):
            await self._driver_of(connection, self._member_of(samples)).run()
