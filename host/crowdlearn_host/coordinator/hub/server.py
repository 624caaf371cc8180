"""The parameter server's shell: connections around groups. It relays what it cannot read, and
trains nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from crowdlearn_device.errors import WireError
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.frames import VERSION, Floats, decode_frame
from crowdlearn_device.transport.outbound_queue import Line
from websockets.asyncio.connection import Connection
from websockets.exceptions import ConnectionClosed

from crowdlearn_host.coordinator.group import effects as do
from crowdlearn_host.coordinator.group.group import Group
from crowdlearn_host.coordinator.group.restore_points import Device, Place
from crowdlearn_host.coordinator.storage.run_folder import RunFolder
from crowdlearn_host.coordinator.storage.shared_model import SharedModel
from crowdlearn_host.errors import FleetError, SilentDevice, UpdateRefused

from .admission import Seats, check_same, hello_of
from .connection import Attached
from .throughput import Throughput
from .traffic import Traffic, purpose_of

HELLO_SECONDS = 60.0
CHUNK_BYTES = 256 << 10

Admits = Callable[[str, str], bool]
OnEvent = Callable[[str, dict[str, Any]], None]
OnCheckpoint = Callable[[int, int, dict[str, Floats]], None]
"""Group, epoch, and the global model's arrays."""


@dataclass
class Server:
    """One run: its groups, its connections and its folder. Everything happens on one event loop.

    Groups train at their own pace; device numbers tell who belongs to which.
    """

    run: str
    groups: Sequence[Group]
    folder: RunFolder
    shared: SharedModel
    on_event: OnEvent
    on_checkpoint: OnCheckpoint
    synchronous: bool = False
    """Whether a group waits for the others' uploads before it takes the global model's weights."""
    programs: Mapping[str, bytes] = field(default_factory=dict)
    """Files by their hash, for devices that lack them."""
    seats: Mapping[str, int] = field(default_factory=dict)
    """The number that the plan gives to each device that it names."""
    traffic: Traffic = field(default_factory=Traffic)
    over: asyncio.Event = field(default_factory=asyncio.Event)
    error: Exception | None = None
    """What on this host's side ended the run, where it did; on disk is what was reached before."""

    def __post_init__(self) -> None:
        self._attached: dict[int, Attached] = {}
        known = [device for group in self.groups for device in group.devices.values()]
        self._seats = Seats(self.seats, known)
        self.throughput = Throughput(self.traffic)
        self._refused_logged = 0
        self._window_changed = False
        self._waiting: list[tuple[int, do.SendGlobal | do.SendPatch | do.Checkpoint]] = []

    def _index(self, number: int) -> int:
        """Which group a device belongs to."""
        ends = itertools.accumulate(group.settings.devices for group in self.groups[:-1])
        return sum(number >= end for end in ends)

    def _group(self, number: int) -> Group:
        return self.groups[self._index(number)]

    async def attach(
        self,
        connection: Connection,
        *,
        dialled: bool,
        number: int | None = None,
        admits: Admits | None = None,
    ) -> bool:
        """Serve a device until its connection ends; a device new to the run gets `number`, or the next one.
        Whether it can take part in this run again.

        Raises FleetError where its first words are wrong, or `admits` says no to its name and token;
        SilentDevice where there are none.
        """
        try:
            first = decode_frame(_binary(await asyncio.wait_for(connection.recv(), HELLO_SECONDS)))
        except WireError as error:
            raise FleetError(f"a device did not say hello: {error}") from error
        except ConnectionClosed as error:
            raise SilentDevice(f"a device did not say hello: {error}") from error
        except TimeoutError as error:
            raise SilentDevice(f"no hello within {HELLO_SECONDS:.0f} s; is the network slow?") from error
        if admits is not None and not admits(first.hello.device, first.hello.token):
            raise FleetError(f"{first.hello.device[:50]!r} with this token is not enrolled; enrol it")
        attached = self._welcome(first, connection, dialled, number)
        number = attached.device.number
        drain = asyncio.create_task(attached.line.drain())
        reason = "connection closed"
        try:
            self._group(number).join(attached.device)
            self._carry_out()
            async for data in connection:
                await self._take(attached, _binary(data))
        except WireError as error:
            reason = str(error)
        except ConnectionClosed as error:
            reason = str(error)[:200] or reason
        finally:
            drain.cancel()
            if self._attached.get(number) is attached:
                del self._attached[number]
                self._group(number).leave(number, reason)
                self._carry_out()
        return number not in self._group(number).attendance.unfit

    def _welcome(
        self, frame: pb.Frame, connection: Connection, dialled: bool, wanted: int | None
    ) -> Attached:
        hello = hello_of(frame, self.groups[0].settings.least_rows)
        number, planned = self._seats.number(hello.device, wanted)
        if planned:
            self.tell("stands_in", {"device": hello.device, "planned": planned})
        known = self._group(number).devices.get(number)
        if known is not None:
            check_same(known, hello)
        device = Device(number, hello.device, hello.identity, hello.samples)
        attached = Attached(device, Line(connection), self.traffic, dialled)
        before = self._attached.pop(number, None)
        if before is not None:
            before.line.abort()
            self._group(number).leave(number, "replaced by a new connection")
            self._carry_out()
        self._attached[number] = attached
        attached.took("control", frame.ByteSize())
        welcome = pb.Welcome(version=VERSION, run=self.run, id=self.folder.id, device=number)
        self._send(number, pb.Frame(welcome=welcome))
        return attached

    async def _take(self, attached: Attached, data: bytes) -> None:
        frame = decode_frame(data)
        number = attached.device.number
        if self._attached.get(number) is not attached:
            return  # it was let go; what it still says counts no more
        purpose = purpose_of(frame)
        attached.took(purpose, len(data))
        kind = frame.WhichOneof("body")
        group = self._group(number)
        if kind == "envelope":
            envelope = frame.envelope
            receiver = self._attached.get(envelope.receiver)
            if envelope.sender != number:
                self._refuse(attached, f"envelope in the name of device {envelope.sender}")
            elif envelope.receiver not in group.devices:
                self._refuse(attached, f"envelope to device {envelope.receiver}, which is not of its group")
            elif envelope.generation == group.generation and receiver:
                group.relayed(number)
                receiver.put(data, purpose, express=envelope.express)
                await receiver.line.room()
            return
        if kind == "snapshot":
            self._keep(attached, frame.snapshot)
            return
        if kind == "wanted":
            await self._give(attached, frame.wanted.sha256)
            return
        group.receive(number, frame)
        self._carry_out()

    async def _give(self, attached: Attached, sha256: str) -> None:
        """Send a file of a program, no faster than the device takes it."""
        content = self.programs.get(sha256, b"")
        for offset in range(0, max(len(content), 1), CHUNK_BYTES):
            part = content[offset : offset + CHUNK_BYTES]
            chunk = pb.Chunk(sha256=sha256, size=len(content), offset=offset, data=part)
            attached.put(pb.Frame(chunk=chunk).SerializeToString(), "control")
            await attached.line.room()

    def _keep(self, attached: Attached, snapshot: pb.Snapshot) -> None:
        number = attached.device.number
        group = self._group(number)
        if snapshot.generation < group.generation:
            return  # what was on its way when the next one began
        if (
            snapshot.sender != number
            or snapshot.generation != group.generation
            or snapshot.piece >= len(group.holders)
            or group.holders[snapshot.piece] != number
        ):
            self._refuse(attached, f"snapshot of piece {snapshot.piece} that is not its own")
            return
        group.relayed(number)
        with self._or_end():
            try:
                heirs = self.folder.save_snapshot(self._index(number), snapshot, self.shared.state_bytes)
            except WireError as error:
                self._refuse(attached, str(error))
                return
            if heirs is not None:
                group.stored(snapshot.generation, snapshot.boundary, snapshot.piece, heirs)

    def _refuse(self, attached: Attached, reason: str) -> None:
        self.refuse(attached.device.name, reason)

    def refuse(self, device: str, reason: str) -> None:
        """Tell that something of a device is refused."""
        if self._refused_logged < 1000:  # a device that floods must not fill the disk
            self._refused_logged += 1
            self.tell("refused", {"device": device, "reason": reason})

    def tell(self, event: str, fields: dict[str, Any]) -> None:
        """Have the run's log and its viewer know."""
        with self._or_end():
            self._record(event, fields)

    @contextlib.contextmanager
    def _or_end(self) -> Iterator[None]:
        """What fails in here is this host's own, as a full disk: the run ends, and `error` tells why."""
        try:
            yield
        except Exception as error:
            self.error = self.error or error
            self.over.set()

    def _record(self, event: str, fields: dict[str, Any]) -> None:
        if event == "progress":
            fields = {**fields, **self.throughput.trained(fields["rows"])}
            self.folder.metric(**fields)
        else:
            self.folder.event(event, **fields)
        self.on_event(event, fields)

    def _send(self, number: int, frame: pb.Frame) -> None:
        if attached := self._attached.get(number):
            attached.put(frame.SerializeToString(), purpose_of(frame))

    def _carry_out(self) -> None:
        """Do what the groups ask for; nothing more once something of it failed: the rest builds upon it."""
        if self.error is None:
            with self._or_end():
                self._effects()

    def _effects(self) -> None:
        for index, group in enumerate(self.groups):
            effects, group.effects = group.effects, []
            for effect in effects:
                self._effect(index, effect)
        self._release()
        waiting, self._waiting = self._waiting, []
        for index, held_back in waiting:
            self._effect(index, held_back)
        if all(group.phase in ("done", "stopped") for group in self.groups):
            self.over.set()

    def _effect(self, index: int, effect: do.Effect) -> None:
        match effect:
            case do.Save():
                window = self.shared.to_bytes() if self._window_changed else None
                self.folder.save_group(index, self.groups[index].to_json(), self.traffic.rows(), window)
                self._window_changed = False
            case do.Send(device, frame):
                self._send(device, frame)
            case do.SendGlobal() | do.SendPatch() | do.Checkpoint() if self._is_ahead(index):
                self._waiting.append((index, effect))
            case do.SendGlobal(device, generation, neurons):
                for part in self.shared.parts(neurons):
                    state = pb.GlobalState(generation=generation, part=part)
                    self._send(device, pb.Frame(global_state=state))
            case do.SendPatch(device, generation, neurons, whole):
                for update in self.shared.patch(generation, neurons, whole=whole):
                    self._send(device, pb.Frame(patch=pb.Patch(generation=generation, update=update)))
                self._send(device, pb.Frame(patch=pb.Patch(generation=generation, last=True)))
            case do.SendSnapshot(device, generation, boundary, piece):
                for part in self.folder.load_snapshot(index, generation, boundary, piece):
                    self._send(device, pb.Frame(snapshot=part))
            case do.Drop(device, _):
                if dropped := self._attached.pop(device, None):
                    dropped.line.abort()
            case do.Forget(generation, boundary):
                self.folder.forget_snapshots(index, generation, boundary)
            case do.Merge(device):
                try:
                    self.shared.merge(index, effect)
                except UpdateRefused as error:
                    if attached := self._attached.get(device):
                        self._refuse(attached, str(error))
            case do.Commit(generation, place):
                self.shared.commit(index, generation, place)
                self._window_changed = True
                self._release()
            case do.Checkpoint(epoch):
                self.on_checkpoint(index, epoch, self.shared.model())
            case do.Record(event, fields):
                self._record(event, {"group": index, **fields} if len(self.groups) > 1 else fields)

    def _is_ahead(self, index: int) -> bool:
        """Whether a group has to wait for others, which have not shared what it has."""
        reached = self._reached()
        return self.synchronous and reached is not None and reached < self.groups[index].schedule.place

    def _reached(self) -> Place | None:
        """How far the last of the groups is that are under way."""
        under_way = (group for group in self.groups if group.phase not in ("done", "stopped"))
        return min((group.schedule.place for group in under_way), default=None)

    def _release(self) -> None:
        """Let into the global model what need not wait for others."""
        released = self.shared.release(self._reached() if self.synchronous else None)
        self._window_changed = self._window_changed or released

    async def ticking(self) -> None:
        """Let the group see the time pass, until the run is over."""
        while not self.over.is_set():
            for index in {index for index, _ in self._waiting}:
                self.groups[index].pace.restart()  # it is others who take their time
            for group in self.groups:
                group.tick(time.monotonic())
            self._carry_out()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.over.wait(), 0.5)

    async def stop(self, reason: str) -> None:
        """Tell everybody that this process stops; the run can be resumed."""
        for group in self.groups:
            group.stop(reason)
        self._carry_out()
        await self.close()

    async def close(self) -> None:
        """Close every connection once what is queued on it has gone out."""
        await asyncio.gather(*(attached.line.close() for attached in list(self._attached.values())))


def _binary(data: bytes | str) -> bytes:
    if isinstance(data, str):
        raise WireError("text where a binary frame was due")
    return data
