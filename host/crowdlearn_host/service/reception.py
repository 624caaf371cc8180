"""The port of a service: enrolled devices arrive, wait, and are sent to a run or home for now."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from crowdlearn_device.errors import WireError
from crowdlearn_device.platform.battery import DeviceState
from crowdlearn_device.platform.heat import STATUSES
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.frames import VERSION, decode_frame
from crowdlearn_device.security.proof import bound_to_pin
from crowdlearn_device.transport.join import REFUSED
from crowdlearn_device.transport.large_message import LargeMessage
from crowdlearn_device.transport.serve import TRY_LATER
from websockets.asyncio.server import ServerConnection

from crowdlearn_host.coordinator.hub.admission import hello_of
from crowdlearn_host.coordinator.hub.arrival import Arrival, Dialled, FrameStream
from crowdlearn_host.coordinator.hub.introduction import check_proof, heard
from crowdlearn_host.coordinator.hub.server import MOVED
from crowdlearn_host.devices.joining.accepting import accepting
from crowdlearn_host.devices.joining.certificate import certificate
from crowdlearn_host.devices.joining.enrolment import Enrolment
from crowdlearn_host.devices.joining.listener import REASON_BYTES
from crowdlearn_host.devices.joining.lobby import Strangers
from crowdlearn_host.errors import ExpiredToken, FleetError, SilentDevice

from .pace import Pace

MOST_WAITING = 10_000
"""Devices that may wait connected; the others are told when to come again."""
READ_BYTES = 4 << 10
"""The bytes that are read at a time of a device that waits: it has next to nothing to send."""
FULL = 100
"""Percent."""


class Visitor:
    """A device that waits, connected, for a run."""

    def __init__(self, hello: pb.Hello, arrival: Arrival) -> None:
        self.name, self.samples, self.token = hello.device, hello.samples, hello.token
        self.state = _state(hello)
        self.since = time.monotonic()
        self._stream: FrameStream = arrival.take_over(0, 0, self._take, _refuse)
        self.leaves = False
        """True once it was told where to go."""

    def _take(self, data: bytes) -> None:
        """Let a device go that asks for it. Raises WireError if it sends anything else."""
        if not decode_frame(data).HasField("leave"):
            raise WireError("a device that waits for a run has nothing to send yet; update it")
        if not self.leaves:
            self.leaves = True
            self._stream.put(pb.Frame(finish=pb.Finish(reason="left as it asked")).SerializeToString())

    async def go_to(self, port: int) -> None:
        """Send it to a run at another port of this host."""
        await self._answer(pb.Welcome(version=VERSION, relay=f":{port}"), MOVED)

    async def come_again(self, seconds: float) -> None:
        """Send it home for so many seconds."""
        await self._answer(pb.Welcome(version=VERSION, again_seconds=seconds), TRY_LATER)

    async def _answer(self, welcome: pb.Welcome, code: int) -> None:
        self.leaves = True
        self._stream.put(pb.Frame(welcome=welcome).SerializeToString())
        await self._stream.close(code, "")

    def hang_up(self) -> None:
        """End the connection without a word."""
        self.leaves = True
        self._stream.abort()

    async def gone(self) -> None:
        """Wait until its connection has ended."""
        await self._stream.ended()


def _refuse(large: LargeMessage) -> None:
    """Take no long message in: there may be thousands of devices. Raises WireError."""
    raise WireError(f"a device that waits for a run sends a message of {large.length} bytes")


class Reception:
    """Devices that wait, by name. `on_change` is called when one has come or gone. `belongs` returns whether
    a device is on its way to a run: for that there always is a place.
    """

    def __init__(
        self,
        home: Path,
        pace: Pace,
        on_change: Callable[[], None],
        most: int = MOST_WAITING,
        belongs: Callable[[str], bool] = lambda device: False,
    ) -> None:
        self.waiting: dict[str, Visitor] = {}
        self.refused = 0
        self._enrolment = Enrolment(home)
        self._home, self._pace, self._on_change, self._most = home, pace, on_change, most
        self._belongs = belongs

    @asynccontextmanager
    async def open(self, address: str) -> AsyncIterator[int]:
        """Let devices arrive at `address` (HOST:PORT) while the context lasts; gives the port. Raises
        FleetError if the address cannot be listened on.
        """
        context, pin = certificate(self._home)
        strangers, binding = Strangers(), bound_to_pin(pin)

        async def handle(connection: ServerConnection) -> None:
            arrival = Dialled(connection, reads=READ_BYTES)
            try:
                hello = await self._introduced(arrival, binding)
            except FleetError as error:
                self.refused += 1
                reason = str(error).encode()[:REASON_BYTES].decode(errors="ignore")
                later = isinstance(error, SilentDevice | ExpiredToken)
                await arrival.close(TRY_LATER if later else REFUSED, reason)
                return
            strangers.admit(connection.remote_address)
            await self._receive(Visitor(hello, arrival))

        async with accepting(handle, address, context, strangers) as port:
            yield port
            for visitor in list(self.waiting.values()):
                visitor.hang_up()

    async def _introduced(self, arrival: Arrival, binding: bytes) -> pb.Hello:
        """Return the hello of a device that is enrolled, and is who it says. Raises FleetError if it is
        not.
        """
        hello = hello_of(await heard(arrival, "hello"))
        self._enrolment.check_in_time(hello.device, hello.token)
        if not self._enrolment.admits(hello.device, hello.token):
            raise FleetError(f"{hello.device[:50]!r} with this token is not enrolled; enrol it")
        await check_proof(arrival, hello, binding)
        return hello

    async def _receive(self, visitor: Visitor) -> None:
        """Have a device wait until its connection ends."""
        if before := self.waiting.pop(visitor.name, None):
            before.hang_up()
        if len(self.waiting) >= self._most and not self._belongs(visitor.name):
            await visitor.come_again(self._pace.again())
            return
        self.waiting[visitor.name] = visitor
        self._on_change()
        try:
            await visitor.gone()
        finally:
            visitor.hang_up()
            if self.waiting.get(visitor.name) is visitor:
                del self.waiting[visitor.name]
                self._on_change()

    def here(self, name: str) -> Visitor | None:
        """Return a device that waits and was not told to go yet."""
        visitor = self.waiting.get(name)
        return None if visitor is None or visitor.leaves else visitor

    def check_enrolled(self) -> None:
        """Hang up on devices that are enrolled no more. Raises FleetError if the list of enrolled devices
        cannot be read.
        """
        for visitor in list(self.waiting.values()):
            if not self._enrolment.admits(visitor.name, visitor.token):
                visitor.hang_up()


def _state(hello: pb.Hello) -> DeviceState:
    """Return the state that a device reports in Hello; that of one without a battery if it reports none, or
    an impossible one.
    """
    state = hello.state
    if not hello.HasField("state") or state.thermal >= len(STATUSES) or state.percent > FULL:
        return DeviceState()
    return DeviceState(state.thermal, state.percent, state.charging, state.metered, state.in_use)
