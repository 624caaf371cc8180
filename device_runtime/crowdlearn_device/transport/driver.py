"""The driver of a `Member` over one connection: frames in and out, the owner's limits, and its leave."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from websockets.asyncio.connection import Connection

from crowdlearn_device.energy.spending import Spending
from crowdlearn_device.member.events import Connected, Event, Leaving, Received, StateRead, Turn
from crowdlearn_device.member.handlers.table import handle
from crowdlearn_device.member.member import Member
from crowdlearn_device.platform.battery import Condition
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.frames import decode_frame, encode_frame

from .message_stream import MessageStream
from .takeover import taken_over
from .websocket import PROTOCOL_ERROR

log = logging.getLogger("crowdlearn")

BATTERY_SECONDS = 2.0
"""The interval, in seconds, at which a device reads its battery."""


class Watch(Protocol):
    """An observer of what goes over a connection, for the owner of the device."""

    def received(self, frame: pb.Frame, size: int) -> None: ...

    def sent(self, frame: pb.Frame, size: int) -> None: ...

    def resting(self, why: str) -> None: ...


class Driver:
    """A member on one connection. It asks to go once `leaving` is set, the battery is low, or the bytes or
    joules of the day are used up. `every` is in seconds; `spending` makes the counter of joules.
    """

    def __init__(
        self,
        connection: Connection,
        member: Member,
        leaving: asyncio.Event,
        battery: Condition | None = None,
        every: float = BATTERY_SECONDS,
        watch: Watch | None = None,
        spending: Callable[[], Spending] = Spending,
    ) -> None:
        self._connection, self._member, self._leaving = connection, member, leaving
        self._battery, self._every, self._watch = battery, every, watch
        self._spent = spending()
        self._arrived = asyncio.Event()
        self._outgoing: list[pb.Frame] = []
        self._limit = ""
        """The owner's limit that is reached, "" if none is."""
        self._over = False

    async def run(self) -> MessageStream:
        """Drive the member until the run is over for it or the connection ends. Return the stream, which is
        closed then.
        """
        member, arrived = self._member, self._arrived
        self._happened(Connected())
        self._stream = stream = taken_over(self._connection, self._take)
        stream.on_idle = arrived.set
        ending = asyncio.create_task(stream.ended())
        asked = asyncio.create_task(self._leaving.wait())
        ending.add_done_callback(lambda _: arrived.set())
        asked.add_done_callback(lambda _: arrived.set())
        watcher = asyncio.create_task(self._watch_limits())
        try:
            going = False
            while not stream.gone and member.finished is None:
                arrived.clear()  # before the work: what arrives while frames go out must not be forgotten
                if (self._leaving.is_set() or self._limit) and not going:
                    going = True
                    self._go()
                self._happened(Turn(room=not stream.is_busy))
                await self._send()
                if self._outgoing or member.has_work:
                    await asyncio.sleep(0)  # let in what arrives
                else:
                    await arrived.wait()
            if stream.gone and stream.close_code == PROTOCOL_ERROR:
                log.error("the connection is closed: %s", stream.close_reason)
        finally:
            self._over = True
            member.use.save()
            for task in (asked, ending, watcher):
                task.cancel()
            for error in await asyncio.gather(ending, watcher, return_exceptions=True):
                if isinstance(error, Exception):
                    log.error("the connection ends", exc_info=error)
            await stream.close()
        return stream

    def _happened(self, event: Event) -> None:
        self._outgoing.extend(handle(self._member, event))

    def _take(self, data: bytes) -> None:
        if self._over:  # another connection may have this device's home by now
            return
        frame = decode_frame(data)
        if self._watch is not None:
            self._watch.received(frame, len(data))
        self._member.use.count(len(data))
        self._happened(Received(frame))
        arrived = self._arrived
        if not arrived.is_set() and (
            self._outgoing or self._member.has_work or not frame.HasField("envelope")
        ):
            arrived.set()  # of several sums that a stage takes, the last one lets it run

    async def _send(self) -> None:
        """Send what is to go out, no faster than the connection takes it."""
        stream, watch, outgoing = self._stream, self._watch, self._outgoing
        for _ in range(len(outgoing)):  # what comes meanwhile waits for the next turn
            frame = outgoing.pop(0)
            if frame.HasField("fault"):
                log.error("fault: %s", frame.fault.reason)
            data = encode_frame(frame)
            if watch is not None:
                watch.sent(frame, len(data))
            self._member.use.count(len(data))
            stream.add(data, express=frame.envelope.express)
            del data
            del frame
            if not stream.has_room:
                stream.flush()
                await stream.room()
        stream.flush()

    def _go(self) -> None:
        """Ask to go."""
        self._happened(Leaving(self._limit or "stopped on the device"))
        if self._limit and self._watch is not None:
            self._watch.resting(self._limit)

    async def _watch_limits(self) -> None:
        """Wait until a limit of the owner's is reached; one that cannot be seen counts as reached."""
        try:
            self._limit = await self._reached()
        except Exception as error:
            log.error("this device's own condition cannot be read", exc_info=error)
            self._limit = f"its own condition cannot be read: {error}"
        self._arrived.set()

    async def _reached(self) -> str:
        """Wait for a limit, and return it. The member hears of battery and heat meanwhile."""
        member, battery = self._member, self._battery
        member.use.spend(await self._spent.since())
        while not (limit := (battery.low() if battery is not None else "") or member.used_up()):
            if battery is not None:
                self._happened(StateRead(await asyncio.to_thread(battery.state)))
            if self._outgoing:
                self._arrived.set()
            await asyncio.sleep(self._every)
            member.use.spend(await self._spent.since())
        return limit
