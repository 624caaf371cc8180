"""The parameter server's shell: connections around groups. It relays what it cannot read, and
trains nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from crowdlearn_device import wire_pb2 as pb
from crowdlearn_device.errors import WireError
from crowdlearn_device.state import PieceState
from crowdlearn_device.wire import VERSION, Floats, decode_frame, decode_tensor
from websockets.asyncio.connection import Connection
from websockets.exceptions import ConnectionClosed

from ..errors import FleetError
from . import group as g
from .line import Line
from .run_folder import RunFolder
from .traffic import Traffic, purpose_of, websocket_bytes

HELLO_SECONDS = 60.0

OnEvent = Callable[[str, dict[str, Any]], None]
OnCheckpoint = Callable[[int, dict[str, Floats]], None]


@dataclass
class _Attached:
    device: g.Device
    line: Line
    masked: bool
    """Whether this side masks its frames: it does where it dialled."""


@dataclass
class Server:
    """One run: its group, its connections and its folder. Everything happens on one event loop."""

    run: str
    group: g.Group
    folder: RunFolder
    arrays: dict[str, Floats]
    layer_of: Mapping[str, int]
    on_event: OnEvent
    on_checkpoint: OnCheckpoint
    traffic: Traffic = field(default_factory=Traffic)
    over: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self._attached: dict[int, _Attached] = {}
        self._numbers = {device.name: device.number for device in self.group.devices.values()}
        self._refused_logged = 0

    async def attach(self, connection: Connection, *, dialled: bool, number: int | None = None) -> None:
        """Serve a device until its connection ends; a device new to the run gets `number`, or the next one.

        Raises FleetError where its first words are wrong.
        """
        try:
            first = decode_frame(_binary(await asyncio.wait_for(connection.recv(), HELLO_SECONDS)))
        except (WireError, TimeoutError, ConnectionClosed) as error:
            raise FleetError(f"a device did not say hello: {error or 'silence'}") from error
        attached = self._welcome(first, connection, dialled, number)
        number = attached.device.number
        drain = asyncio.create_task(attached.line.drain())
        reason = "connection closed"
        try:
            self.group.join(attached.device)
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
                self.group.leave(number, reason)
                self._carry_out()

    def _welcome(
        self, frame: pb.Frame, connection: Connection, dialled: bool, wanted: int | None
    ) -> _Attached:
        hello = frame.hello
        if not frame.HasField("hello"):
            raise FleetError("a device must say hello first")
        if hello.version != VERSION:
            raise FleetError(
                f"{hello.device[:50]} speaks version {hello.version}, this host {VERSION}; update one"
            )
        name = hello.device
        if not name or len(name) > 100 or not name.isprintable() or len(hello.identity) != 32:
            raise FleetError(f"a device with name {name[:100]!r} and a key of {len(hello.identity)} bytes")
        if not 1 <= hello.samples < 1 << 32:
            raise FleetError(f"{name} holds {hello.samples} training samples; give it some")
        free = next(n for n in range(len(self._numbers) + 1) if n not in self._numbers.values())
        if wanted is None or wanted in self._numbers.values():
            wanted = free
        number = self._numbers.setdefault(name, wanted)
        known = self.group.devices.get(number)
        if known is not None and known.identity != hello.identity:
            raise FleetError(
                f"{name} has another identity than when it joined; was it reset? Start a new run with it"
            )
        if known is not None and known.samples != hello.samples:
            raise FleetError(
                f"{name} holds {hello.samples} samples, {known.samples} when it joined; restore its data"
            )
        attached = _Attached(g.Device(number, name, hello.identity, hello.samples), Line(connection), dialled)
        before = self._attached.pop(number, None)
        if before is not None:
            self.group.leave(number, "replaced by a new connection")
            self._carry_out()
        self._attached[number] = attached
        self._count_up(attached, "control", frame.ByteSize())
        self._send(number, pb.Frame(welcome=pb.Welcome(version=VERSION, run=self.run, device=number)))
        return attached

    async def _take(self, attached: _Attached, data: bytes) -> None:
        frame = decode_frame(data)
        number = attached.device.number
        if self._attached.get(number) is not attached:
            return  # it was let go; what it still says counts no more
        purpose = purpose_of(frame)
        self._count_up(attached, purpose, len(data))
        kind = frame.WhichOneof("body")
        if kind == "envelope":
            envelope = frame.envelope
            if envelope.sender != number:
                self._refuse(attached, f"envelope in the name of device {envelope.sender}")
            elif envelope.generation == self.group.generation and (
                receiver := self._attached.get(envelope.receiver)
            ):
                self.group.relayed(number)
                self._count_down(receiver, purpose, len(data))
                await receiver.line.relay(data)
            return
        if kind == "snapshot":
            self._keep(attached, frame.snapshot)
            return
        self.group.receive(number, frame)
        self._carry_out()

    def _keep(self, attached: _Attached, snapshot: pb.Snapshot) -> None:
        group, number = self.group, attached.device.number
        if (
            snapshot.sender != number
            or snapshot.generation != group.generation
            or snapshot.piece >= len(group.holders)
            or group.holders[snapshot.piece] != number
        ):
            self._refuse(attached, f"snapshot of piece {snapshot.piece} that is not its own")
            return
        self.folder.save_snapshot(0, snapshot)
        heirs = frozenset(key.device for key in snapshot.keys)
        group.stored(snapshot.generation, snapshot.boundary, snapshot.piece, heirs)

    def _refuse(self, attached: _Attached, reason: str) -> None:
        if self._refused_logged < 1000:  # a device that floods must not fill the disk
            self._refused_logged += 1
            self._record("refused", {"device": attached.device.name, "reason": reason})

    def _record(self, event: str, fields: dict[str, Any]) -> None:
        if event == "progress":
            self.folder.metric(**fields, bytes=self.traffic.by_purpose())
        else:
            self.folder.event(event, **fields)
        self.on_event(event, fields)

    def _count_up(self, attached: _Attached, purpose: str, size: int) -> None:
        wire = websocket_bytes(size, masked=not attached.masked)
        self.traffic.count(attached.device.name, "up", purpose, wire)

    def _count_down(self, attached: _Attached, purpose: str, size: int) -> None:
        wire = websocket_bytes(size, masked=attached.masked)
        self.traffic.count(attached.device.name, "down", purpose, wire)

    def _send(self, number: int, frame: pb.Frame) -> None:
        if attached := self._attached.get(number):
            data = frame.SerializeToString()
            self._count_down(attached, purpose_of(frame), len(data))
            attached.line.put(data)

    def _carry_out(self) -> None:
        effects, self.group.effects = self.group.effects, []
        for effect in effects:
            self._effect(effect)
        if self.group.phase in ("done", "stopped"):
            self.over.set()

    def _effect(self, effect: g.Effect) -> None:
        match effect:
            case g.Save():
                self.folder.save_group(0, self.group.to_json(), self.traffic.rows())
            case g.Send(device, frame):
                self._send(device, frame)
            case g.SendGlobal(device, generation, neurons):
                for part in self._global_parts(neurons):
                    self._send(
                        device, pb.Frame(global_state=pb.GlobalState(generation=generation, part=part))
                    )
            case g.SendSnapshot(device, generation, boundary, piece):
                self._send(
                    device, pb.Frame(snapshot=self.folder.load_snapshot(0, generation, boundary, piece))
                )
            case g.Drop(device, _):
                if dropped := self._attached.pop(device, None):
                    dropped.line.abort()
            case g.Forget(generation, boundary):
                self.folder.forget_snapshots(0, generation, boundary)
            case g.Merge(device, part):
                self._merge(device, part)
            case g.Checkpoint(epoch):
                self.on_checkpoint(epoch, self.arrays)
            case g.Record(event, fields):
                self._record(event, fields)

    def _global_parts(self, neurons: tuple[g.Neurons, ...]) -> list[pb.StatePart]:
        layers: dict[int, dict[str, Floats]] = {}
        for name, array in self.arrays.items():
            layer = self.layer_of[name]
            a, b = neurons[layer]
            layers.setdefault(layer, {})[f"value/{name}"] = array[a:b]
        state = PieceState(neurons, layers)
        return [part for layer in layers for part in state.parts(layer, neurons[layer])]

    def _merge(self, device: int, part: pb.StatePart) -> None:
        """Enter a device's values of its own neurons; the group has checked that they are its own."""
        for named in part.arrays:
            name = named.name.removeprefix("value/")
            if self.layer_of.get(name) != part.layer:
                raise WireError(f"shared array {named.name[:80]!r} is not of layer {part.layer}")
            target = self.arrays[name][part.neurons.start : part.neurons.stop]
            target[...] = decode_tensor(named.values, target.shape)

    async def ticking(self) -> None:
        """Let the group see the time pass, until the run is over."""
        while not self.over.is_set():
            self.group.tick(time.monotonic())
            self._carry_out()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.over.wait(), 0.5)

    async def stop(self, reason: str) -> None:
        """Tell everybody that this process stops; the run can be resumed."""
        self.group.stop(reason)
        self._carry_out()
        await self.close()

    async def close(self) -> None:
        """Close every connection once what is queued on it has gone out."""
        await asyncio.gather(*(attached.line.close() for attached in list(self._attached.values())))


def _binary(data: bytes | str) -> bytes:
    if isinstance(data, str):
        raise WireError("text where a binary frame was due")
    return data


def fresh_copy(arrays: Mapping[str, Floats]) -> dict[str, Floats]:
    """Arrays that may be written to."""
    return {name: np.array(array, np.float32) for name, array in arrays.items()}
