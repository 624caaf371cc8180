"""The device runtime's shell: a WebSocket that the host reaches through adb, around a `Member`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Protocol

from websockets.asyncio.connection import Connection
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

from crowdlearn_device.data.dataset import NO_DATA, Dataset, load_dataset
from crowdlearn_device.energy.spending import Spending
from crowdlearn_device.errors import DeviceError
from crowdlearn_device.member.events import Connected, Event, Leaving, Received, StateRead, Turn
from crowdlearn_device.member.handlers.table import handle
from crowdlearn_device.member.member import Member
from crowdlearn_device.platform.battery import Condition
from crowdlearn_device.platform.files import write_atomically
from crowdlearn_device.privacy.tap import Tap
from crowdlearn_device.program.executor import Load, ProgramStore, load_program
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.frames import MAX_FRAME, decode_frame, encode_frame
from crowdlearn_device.security.assignment_policy import own_identity
from crowdlearn_device.security.daily_use import DailyUse
from crowdlearn_device.state.pruning import prune_programs

from .abstract_socket import is_welcome
from .host_token import HostToken
from .message_stream import PROTOCOL_ERROR, MessageStream, taken_over

log = logging.getLogger("crowdlearn")


LEAVE_SECONDS = 10.0
"""The seconds in which others may take over the pieces of a device that is asked to stop."""


BATTERY_SECONDS = 2.0
"""The interval, in seconds, at which a device reads its battery."""
TRY_LATER = 1013
"""The WebSocket's close code for who should come again later."""


class Watch(Protocol):
    """An observer of what goes over a connection, for the owner of the device."""

    def received(self, frame: pb.Frame, size: int) -> None: ...

    def sent(self, frame: pb.Frame, size: int) -> None: ...

    def resting(self, why: str) -> None: ...


async def run_member(
    connection: Connection,
    member: Member,
    leaving: asyncio.Event,
    battery: Condition | None = None,
    every: float = BATTERY_SECONDS,
    watch: Watch | None = None,
    spending: Callable[[], Spending] = Spending,
) -> MessageStream:
    """Drive a member over one connection until the run is over for it or the connection ends; the stream,
    which is closed then.

    Once `leaving` is set, the battery is low, or the bytes or joules of the day are used up, it asks to go.
    `spending` makes what counts joules.
    """
    arrived = asyncio.Event()
    waiting: list[pb.Frame] = []
    """Frames to be sent."""
    over = False

    def happened(event: Event) -> None:
        waiting.extend(handle(member, event))

    def take(data: bytes) -> None:
        if over:  # another connection may have this device's home by now
            return
        frame = decode_frame(data)
        if watch is not None:
            watch.received(frame, len(data))
        member.use.count(len(data))
        happened(Received(frame))
        if not arrived.is_set() and (waiting or member.has_work or not frame.HasField("envelope")):
            arrived.set()  # of several sums that a stage takes, the last one lets it run

    happened(Connected())

    stream = taken_over(connection, take)
    stream.on_idle = arrived.set
    ending = asyncio.create_task(stream.ended())
    ending.add_done_callback(lambda _: arrived.set())
    asked = asyncio.create_task(leaving.wait())
    asked.add_done_callback(lambda _: arrived.set())

    why = ""

    spent = spending()

    async def look() -> None:
        nonlocal why
        try:
            await watched()
        except Exception as error:  # an owner's limits that cannot be seen count as reached
            log.error("this device's own condition cannot be read", exc_info=error)
            why = why or f"its own condition cannot be read: {error}"
        arrived.set()

    async def watched() -> None:
        nonlocal why
        member.use.spend(await spent.since())
        while not (why := (battery.low() if battery is not None else "") or member.used_up()):
            if battery is not None:
                happened(StateRead(await asyncio.to_thread(battery.state)))
            if waiting:
                arrived.set()
            await asyncio.sleep(every)
            member.use.spend(await spent.since())

    watcher = asyncio.create_task(look())
    try:
        going = False
        while not stream.gone and member.finished is None:
            arrived.clear()  # before the work: what arrives while frames go out must not be forgotten
            if (leaving.is_set() or why) and not going:
                going = True
                happened(Leaving(why or "stopped on the device"))
                if why and watch is not None:
                    watch.resting(why)
            happened(Turn(room=not stream.is_busy))
            for _ in range(len(waiting)):  # what comes meanwhile waits for the next turn
                frame = waiting.pop(0)
                if frame.HasField("fault"):
                    log.error("fault: %s", frame.fault.reason)
                data = encode_frame(frame)
                if watch is not None:
                    watch.sent(frame, len(data))
                member.use.count(len(data))
                stream.add(data, express=frame.envelope.express)
                del data
                del frame
                if not stream.has_room:
                    stream.flush()
                    await stream.room()
            stream.flush()
            if waiting or member.has_work:
                await asyncio.sleep(0)  # let in what arrives
            else:
                await arrived.wait()
        if stream.gone and stream.close_code == PROTOCOL_ERROR:
            log.error("the connection is closed: %s", stream.close_reason)
    finally:
        over = True
        member.use.save()
        for task in (asked, ending, watcher):
            task.cancel()
        for error in await asyncio.gather(ending, watcher, return_exceptions=True):
            if isinstance(error, Exception):
                log.error("the connection ends", exc_info=error)
        await stream.close()
    return stream


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
    identity = own_identity(home)
    inbox = inbox or home
    programs = ProgramStore(inbox / "programs", load_with)
    token = HostToken(inbox / "token")
    current: asyncio.Task[None] | None = None
    leaving = stopping or asyncio.Event()

    def load() -> Dataset:
        return NO_DATA if data is None else load_dataset(data, may_be_empty=True)

    def authorize(connection: ServerConnection, request: Request) -> Response | None:
        peer = connection.transport.get_extra_info("socket")
        if peer.family == socket.AF_UNIX and not is_welcome(peer):
            return connection.respond(HTTPStatus.FORBIDDEN, "this device serves adb alone\n")
        refused = token.refusal(request)
        return None if refused is None else connection.respond(*refused)

    async def drive(connection: ServerConnection) -> None:
        nonlocal current
        task = asyncio.current_task()
        if current is not None and not current.done():
            log.info("a new connection replaces the old one")
            current.cancel()
        current = task
        if battery is not None and (why := battery.low()):
            if watch is not None:
                watch.resting(why)
            await connection.close(TRY_LATER, why)
            return
        try:
            samples = len(await asyncio.to_thread(load))
        except DeviceError as error:
            log.error("%s", error)
            await connection.close(1011, str(error)[:100])
            return
        with contextlib.suppress(asyncio.CancelledError):
            prune_programs(inbox)
            member = Member(
                name, home, identity, samples, load, programs, tap=tap, binding=token.binding, counted=use
            )
            await run_member(connection, member, leaving, battery, every, watch, spending)

    own, number = (port, None) if isinstance(port, socket.socket) else (None, port)
    async with serve(
        drive,
        None if own else "127.0.0.1",
        number,
        sock=own,
        max_size=MAX_FRAME,
        compression=None,
        process_request=authorize,
        ping_interval=None,
    ) as server:
        if own is None:
            bound = next(iter(server.sockets)).getsockname()[1]
            write_atomically(home / "port", f"{bound}\n".encode())
            log.info("listening on 127.0.0.1:%d", bound)
        await leaving.wait()
        if current is not None:
            await asyncio.wait({current}, timeout=LEAVE_SECONDS)
