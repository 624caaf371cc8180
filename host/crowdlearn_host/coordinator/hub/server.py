"""The parameter server's shell: connections around groups. It relays what it cannot read, and
trains nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import time
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from crowdlearn_device.errors import WireError
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.frames import VERSION, Address, Floats, address_of, decode_frame
from crowdlearn_device.transport.large_message import LargeMessage
from crowdlearn_device.transport.serve import TRY_LATER
from websockets.asyncio.connection import Connection

from crowdlearn_host.coordinator.first_weights.beginning import Beginning
from crowdlearn_host.coordinator.group.effects import Contribute
from crowdlearn_host.coordinator.group.events import (
    Event,
    Joined,
    Left,
    Owing,
    Received,
    Stopped,
    Stored,
    Ticked,
)
from crowdlearn_host.coordinator.group.group import Group
from crowdlearn_host.coordinator.group.handlers.table import handle
from crowdlearn_host.coordinator.group.restore_points import Device
from crowdlearn_host.coordinator.storage.run_folder import RunFolder
from crowdlearn_host.coordinator.storage.shared_model import SharedModel
from crowdlearn_host.coordinator.storage.store import Store
from crowdlearn_host.coordinator.sums.rounds import SecureRounds
from crowdlearn_host.errors import ConfigError, FleetError

from .admission import Seats, check_same, hello_of, samples_of
from .arrival import Arrival, Dialled, Relays
from .connection import ROUTE_BYTES, Attached, Route
from .introduction import check_proof, heard
from .large_messages import LargeMessages
from .ledger import CONTROL
from .performers.base import Together
from .performers.choice import Choice
from .performers.first_weights import FirstWeights
from .performers.groups import GroupPerformer, OnCheckpoint
from .performers.sums import SumPerformer
from .pressure import AGAIN_SECONDS, Pressure
from .records import OnEvent, Records
from .throughput import Throughput
from .traffic_ledger import TrafficLedger, purpose_of

MOVED = 1012
"""The WebSocket's close code for a device that is to connect elsewhere (RFC 6455's registry: service
restart).
"""
CHUNK_BYTES = 256 << 10

Admits = Callable[[str, str], bool]
TICK_SECONDS, LAST_TICK_SECONDS = 0.5, 5.0
"""The seconds between two looks of a group at the time: of one group among few, and at most."""
AT_ONCE = 20
"""Groups that look at the time before others are let in again."""


@dataclass
class Server:
    """One run: its groups and its connections, on one event loop. What waits for the disk or computes for
    long does so beside it (`performers/`).

    Groups train at their own pace; device numbers tell who belongs to which.
    """

    run: str
    groups: Sequence[Group]
    folder: RunFolder
    shared: SharedModel
    on_event: OnEvent
    on_checkpoint: OnCheckpoint
    synchronous: bool = False
    """True if a group waits for the others' uploads before it takes the global model's weights."""
    checkpoint_each: bool = False
    """True if the global model is checkpointed after every group's epoch, not only when all have ended it."""
    programs: Mapping[str, bytes] = field(default_factory=dict)
    """Files by their hash, for devices that lack them."""
    seats: Mapping[str, int] = field(default_factory=dict)
    """The number in the plan of each device that it names."""
    seat_order: Sequence[int] = ()
    """Numbers in the order in which devices that the plan does not name get them."""
    traffic: TrafficLedger = field(default_factory=TrafficLedger)
    over: asyncio.Event = field(default_factory=asyncio.Event)
    sums: SecureRounds | None = None
    """The secure sums by which groups share, if they do."""
    beginning: Beginning | None = None
    """The drawing of the first weights by all devices, if they are."""
    begin_with: Callable[[bytes], None] = lambda seed: None
    """Makes the first weights of a seed the global model's, on disk."""
    on_choose: Callable[[], None] = lambda: None
    """Has the model chosen that devices keep, and calls `chosen`; called once no group trains any more."""
    relays: Relays | None = None
    """Processes that relay for devices which dial in."""
    error: Exception | None = None
    """The error of this host that ended the run, if one did; on disk is what was reached before."""

    def __post_init__(self) -> None:
        self._attached: dict[int, Attached] = {}
        known = [device for group in self.groups for device in group.devices.values()]
        self._seats = Seats(self.seats, known, self.seat_order)
        self._id = self.folder.id
        self.throughput = Throughput(self.traffic)
        self.pressure = Pressure()
        self.large = LargeMessages(self.folder.path)
        self._streams: set[asyncio.Task[None]] = set()
        self._ends = list(itertools.accumulate(group.settings.devices for group in self.groups[:-1]))
        self.store = Store(self.folder, self.shared, synchronous=self.synchronous)
        self._performer = GroupPerformer(
            self,
            self.groups,
            self.store,
            self.traffic,
            self.on_checkpoint,
            synchronous=self.synchronous,
            each=self.checkpoint_each,
        )
        self._records = Records(
            self.store, self.throughput, self.on_event, self.fail, of_groups=len(self.groups) > 1
        )
        self._choice = Choice(self.groups, self.on_choose, self.store, self._handle)
        self._sums = self._sum_performer()
        self._together: list[Together] = [self._choice]
        if self._sums is not None:
            self._together.append(self._sums)
        if self.beginning is not None:
            self._together.append(
                FirstWeights(self, self.beginning, self.begin_with, self.store, self._handle)
            )

    def _sum_performer(self) -> SumPerformer | None:
        """Return the performer of secure sums, if groups share by them."""
        if self.sums is None:
            if any(group.settings.secure for group in self.groups):
                raise ConfigError("sharing.secure: the groups share by secure sums, and this server has none")
            return None
        if (kept := self.folder.load_sum()) is not None:
            self.sums.restore(*kept)
        return SumPerformer(self, self.sums, len(self.groups), self.store, self._handle)

    def contribute(self, group: int, contribution: Contribute) -> None:
        """Let a group that has come to the end of a round share by a secure sum."""
        if self._sums is not None:
            self._sums.ready(group, contribution)

    def choose(self, group: int) -> None:
        """Let a group that has trained wait for the model that its devices keep."""
        self._choice.wait(group)

    def chosen(self, model: Mapping[str, Floats]) -> None:
        """Have devices keep the model that was chosen: float32 [neurons, ...] by array."""
        self._choice.chosen(model)

    def _handle(self, index: int, event: Event) -> None:
        """Have a group handle an event, and carry out its effects; its relay has the generation before any of
        them leaves.
        """
        effects = handle(self.groups[index], event)
        if self.relays is not None:
            self.relays.stands(index, self.groups[index].generation)
        self._performer.perform(index, effects)

    def relayed(self, rows: Sequence[tuple[int, str, int, int, int]]) -> None:
        """Count what a relay process passed on between devices: number, way ("up", "down"), purpose, bytes
        and messages a row.
        """
        for number, way, purpose, size, messages in rows:
            group = self._group(number)
            if (device := group.devices.get(number)) is not None:
                self.traffic.of(device.name, way).add(purpose, size, messages)
                if way == "up":
                    group.pace.heard(number)

    def _index(self, number: int) -> int:
        """Return the index of the group that a device belongs to."""
        return bisect_right(self._ends, number)

    def _group(self, number: int) -> Group:
        return self.groups[self._index(number)]

    async def attach(
        self,
        arrival: Arrival | Connection,
        *,
        dialled: bool,
        number: int | None = None,
        admits: Admits | None = None,
        named: str | None = None,
        binding: bytes | None = None,
    ) -> bool:
        """Serve a device until its connection ends, or send it to its group's relay process; a device new to
        the run gets `number`, or the next one. Return whether it can take part in this run again.

        With a `binding` (security/proof.py) it has to prove that its identity is its own; `named`, that it is
        the device of this name.

        Raises FleetError if its first words are wrong, or `admits` says no to its name and token;
        SilentDevice where there are none.
        """
        arrival = Dialled(arrival) if isinstance(arrival, Connection) else arrival
        first = await heard(arrival, "hello")
        if named is not None and first.hello.device != named:
            raise FleetError(
                f"the device runtime on {named} names itself {first.hello.device[:50]!r}; start it again"
            )
        if admits is not None and not admits(first.hello.device, first.hello.token):
            raise FleetError(f"{first.hello.device[:50]!r} with this token is not enrolled; enrol it")
        control = first.ByteSize()
        if binding is not None:
            control += await check_proof(arrival, hello_of(first), binding)
        if not dialled and self.pressure.heavy and self._puts_off(hello_of(first).device, number):
            again = random.uniform(*AGAIN_SECONDS)
            welcome = pb.Welcome(version=VERSION, again_seconds=again)
            await arrival.send(pb.Frame(welcome=welcome).SerializeToString())
            await arrival.close(TRY_LATER, "")
            return True
        attached = self._welcome(first, arrival, dialled, number)
        if isinstance(attached, str):
            welcome = pb.Welcome(version=VERSION, run=self.run, id=self._id, relay=attached)
            await arrival.send(pb.Frame(welcome=welcome).SerializeToString())
            await arrival.close(MOVED, "")
            return True
        number = attached.device.number
        reason = "connection closed"
        try:
            self._handle(self._index(number), Joined(attached.device))
            for each in self._together:
                each.joined(number)
            reason = await attached.stream.ended()
        finally:
            attached.stream.abort()
            if attached.counts:
                attached.counts = False
                del self._attached[number]
                self._handle(self._index(number), Left(number, reason))
                for each in self._together:
                    each.left(number)
        return number not in self._group(number).attendance.unfit

    def _puts_off(self, name: str, wanted: int | None) -> bool:
        """Return whether a device is sent away until there is less to do: its group has not begun."""
        number, _ = self._seats.number(name, wanted)
        group = self._group(number)
        if group.generation:
            return False
        if number not in group.devices:
            self._seats.forget(name)
        self.pressure.put_off += 1
        return True

    def _welcome(
        self,
        frame: pb.Frame,
        arrival: Arrival,
        dialled: bool,
        wanted: int | None,
    ) -> Attached | str:
        """Return the device's connection, or the address of the relay that it is to connect to."""
        hello = hello_of(frame)
        number, planned = self._seats.number(hello.device, wanted)
        known = self._group(number).devices.get(number)
        try:
            samples = samples_of(hello, number, self._group(number).settings)
        except FleetError:
            if known is None:
                self._seats.forget(hello.device)
            raise
        if planned:
            self.tell("stands_in", {"device": hello.device, "planned": planned})
        if known is not None:
            check_same(known, hello, samples)
        elif hello.samples > samples:
            self.tell("samples_unused", {"device": hello.device, "samples": hello.samples})
        index = self._index(number)
        if arrival.may_move and self.relays is not None and (address := self.relays.address(index)):
            return address
        device = Device(number, hello.device, hello.identity, samples)
        up, down = (self.traffic.of(device.name, way) for way in ("up", "down"))
        up.masked, down.masked = (0, 4) if dialled else (4, 0)  # who dials masks its frames
        attached = Attached(device, number, self._group(number), up, down)
        attached.stream = arrival.take_over(number, index, partial(self.take, attached), self._admit)
        before = self._attached.pop(number, None)
        if before is not None:
            before.counts = False
            before.stream.abort()
            self._handle(self._index(number), Left(number, "replaced by a new connection"))
            for each in self._together:
                each.replaced(number)
        self._attached[number] = attached
        attached.up.count(CONTROL, frame.ByteSize())
        welcome = pb.Welcome(version=VERSION, run=self.run, id=self._id, device=number)
        self.send(attached, pb.Frame(welcome=welcome))
        return attached

    def take(self, attached: Attached, data: bytes) -> Awaitable[None] | None:
        """Act on a device's frame; what is returned, if anything, has to be over before the next one is read.

        Raises WireError if it is no frame.
        """
        if not attached.counts:
            return None  # it was let go; what it still says counts no more
        route = attached.routes.get(bytes(data[:ROUTE_BYTES]))
        if route is not None and route.generation == attached.group.generation and route.to.counts:
            return self._pass_on(attached, route, data)
        if (address := address_of(data)) is not None:
            return self._relay(attached, address, data)
        frame = decode_frame(data)
        attached.up.count(purpose_of(frame), len(data))
        match frame.WhichOneof("body"):
            case "snapshot":
                return self._keep(attached, frame.snapshot)
            case "wanted":
                return self._give(attached, frame.wanted.sha256)
            case "first_weights" | "sum_step" as body:
                attached.group.pace.heard(attached.number)
                for each in self._together:
                    if each.body == body:
                        each.answer(attached.number, frame)
                return None
        index = self._index(attached.number)
        self._handle(index, Received(attached.number, frame))
        # No more of an upload than can be checked.
        return self._performer.settled(index) if frame.HasField("shared") else None

    def _admit(self, large: LargeMessage) -> Awaitable[None] | None:
        """Hold a sender back until a large message has somewhere to go. Raises WireError if it is refused."""
        address = address_of(large.head)
        to = None if address is None else self._attached.get(address.receiver)
        return self.large.admit(large, None if to is None else to.stream)

    def _relay(self, attached: Attached, address: Address, data: bytes) -> Awaitable[None] | None:
        """Pass on what the relay cannot read."""
        generation, sender, receiving, purpose, express = address
        group = attached.group
        if sender != attached.number:
            self._refuse(attached, f"envelope in the name of device {sender}")
        elif receiving not in group.devices:
            self._refuse(attached, f"envelope to device {receiving}, which is not of its group")
        elif generation == group.generation and (receiver := self._attached.get(receiving)):
            route = Route(generation, receiver, purpose, express)
            attached.learn_route(data, route)
            return self._pass_on(attached, route, data)
        attached.up.count(purpose, len(data))
        return None

    def _pass_on(self, attached: Attached, route: Route, data: bytes) -> Awaitable[None] | None:
        _, to, purpose, express = route
        attached.up.count(purpose, len(data))
        to.down.count(purpose, len(data))
        attached.group.pace.heard(attached.number)
        to.stream.put(data, express=express)
        return None if to.stream.has_room else to.stream.room()

    async def _give(self, attached: Attached, sha256: str) -> None:
        """Send a file of a program, no faster than the device takes it."""
        content = self.programs.get(sha256, b"")
        for offset in range(0, max(len(content), 1), CHUNK_BYTES):
            part = content[offset : offset + CHUNK_BYTES]
            chunk = pb.Chunk(sha256=sha256, size=len(content), offset=offset, data=part)
            attached.put(pb.Frame(chunk=chunk).SerializeToString(), CONTROL)
            await attached.stream.room()

    async def _keep(self, attached: Attached, snapshot: pb.Snapshot) -> None:
        number = attached.device.number
        index = self._index(number)
        group = self.groups[index]
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
        if not group.takes_snapshot(snapshot.boundary):
            self._refuse(attached, f"snapshot of boundary {snapshot.boundary}, at which no piece is complete")
            return
        group.pace.heard(number)
        try:
            heirs = await self.store.save_snapshot(index, snapshot)
        except WireError as error:
            self._refuse(attached, str(error))
        except Exception as error:
            self.fail(error)
        else:
            if heirs is not None:
                generation, boundary, piece = snapshot.generation, snapshot.boundary, snapshot.piece
                self._handle(index, Stored(generation, boundary, piece, heirs))

    def _refuse(self, attached: Attached, reason: str) -> None:
        self.refuse(attached.device.name, reason)

    def refuse(self, device: str, reason: str) -> None:
        """Tell that something of a device is refused."""
        self.tell("refused", {"device": device, "reason": reason})

    def tell(self, event: str, fields: dict[str, Any]) -> None:
        """Have the run's log and its viewer know."""
        try:
            self.record(None, event, fields)
        except Exception as error:
            self.fail(error)

    def fail(self, error: Exception) -> None:
        """End the run for a failure of this host's own, as a full disk; `error` tells why."""
        self.error = self.error or error
        self.over.set()

    def finish(self) -> None:
        """End the run: nothing is left to do in it."""
        self.over.set()

    def record(self, group: int | None, event: str, fields: dict[str, Any]) -> None:
        """Write down what happened, in a group of several, and show it."""
        self._records.add(group, event, fields)

    @property
    def connected(self) -> Collection[Attached]:
        """Return the connections of all devices that are here."""
        return self._attached.values()

    def connection(self, device: int) -> Attached | None:
        """Return where a device is reached, while it is connected."""
        return self._attached.get(device)

    def send(self, to: Attached, frame: pb.Frame) -> None:
        """Send a frame as soon as there is room."""
        to.put(frame.SerializeToString(), purpose_of(frame))

    def drop(self, device: int) -> None:
        """Hang up on a device."""
        if dropped := self._attached.pop(device, None):
            dropped.counts = False
            dropped.stream.abort()

    def stream(self, to: Attached, generation: int, frames: Callable[[], Iterator[pb.Frame]]) -> None:
        """Send frames no faster than the device takes them, as long as the generation lasts."""
        task = asyncio.get_running_loop().create_task(self._stream(to, generation, frames))
        self._streams.add(task)
        task.add_done_callback(self._streams.discard)

    async def _stream(self, to: Attached, generation: int, frames: Callable[[], Iterator[pb.Frame]]) -> None:
        """Send frames that are made in the store's thread, one at a time."""
        number = to.device.number
        try:
            made = await self.store.do(frames)
            while (frame := await self.store.do(next, made, None)) is not None:
                if self._attached.get(number) is not to or self._group(number).generation != generation:
                    return
                self.send(to, frame)
                await to.stream.room()
        except Exception as error:
            self.fail(error)

    async def ticking(self) -> None:
        """Pass the time to the groups, until the run is over."""
        if self.synchronous:
            await self._performer.release()
        watching = asyncio.create_task(self.pressure.watching())
        try:
            await self._tick()
        finally:
            watching.cancel()

    async def _tick(self) -> None:
        seconds = min(max(TICK_SECONDS, len(self.groups) / 200), LAST_TICK_SECONDS)
        while not self.over.is_set():
            for index in self._performer.held_back:
                self.groups[index].pace.restart()  # it is others who take their time
            for each in self._together:
                each.tick(time.monotonic())
            owing = None if self._sums is None else self._sums.owing
            for index in range(len(self.groups)):
                if owing is not None:
                    self._handle(index, Owing(owing))
                self._handle(index, Ticked(time.monotonic()))
                if index % AT_ONCE == AT_ONCE - 1:
                    await asyncio.sleep(0)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self.over.wait()

    async def stop(self, reason: str) -> None:
        """Tell all devices that this process stops; the run can be resumed."""
        for index in range(len(self.groups)):
            self._handle(index, Stopped(reason))
        await self.close()

    async def close(self) -> None:
        """Close every connection once what is queued on it has gone out, and everything is on disk."""
        for task in self._streams:
            task.cancel()
        for each in self._together:
            await each.settled()
        await self._performer.settled()
        await self.store.close()
        await asyncio.gather(*(attached.stream.close() for attached in list(self._attached.values())))
