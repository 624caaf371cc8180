"""Who is in a crowd: its devices, and a host that does what hub/server.py does, joined by queues of bytes."""

from __future__ import annotations

import json
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from crowdlearn_device.data.dataset import Dataset
from crowdlearn_device.member import events as member_events
from crowdlearn_device.member.handlers.table import handle as handle_by_member
from crowdlearn_device.member.member import Member
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.frames import VERSION, decode_frame, encode_frame
from crowdlearn_device.security.identity import Identity
from crowdlearn_host.coordinator.group import effects as do
from crowdlearn_host.coordinator.group.events import Chosen, Event, Joined, Left, Received, Stored
from crowdlearn_host.coordinator.group.group import Group
from crowdlearn_host.coordinator.group.handlers.table import handle
from crowdlearn_host.coordinator.group.restore_points import Device
from crowdlearn_host.coordinator.group.settings import Settings
from crowdlearn_host.coordinator.storage.shared_model import SharedModel

from .tiny import LAST, LAYERS, TinyPrograms, array_specs, first_weights

RUN = "test-run"
RUN_ID = bytes(16)


@dataclass
class Connection:
    """Bytes under way. None ends what a side says; `open` is whether the device's end is still there."""

    number: int
    up: deque[bytes | None] = field(default_factory=deque)
    down: deque[bytes] = field(default_factory=deque)
    open: bool = True


def put(queue: deque[Any], data: bytes, rng: random.Random) -> None:
    """Queue a frame; one that goes express overtakes some of those that do not."""
    place = len(queue)
    if decode_frame(data).envelope.express:
        while place and queue[place - 1] and not decode_frame(queue[place - 1]).envelope.express:
            if rng.random() < 0.3:
                break
            place -= 1
    queue.insert(place, data)


class Watched(np.ndarray[Any, Any]):
    """Inputs that remember which samples were asked for."""

    log: list[int]

    def __array_finalize__(self, of: Any) -> None:
        self.log = getattr(of, "log", [])

    def __getitem__(self, rows: Any) -> Any:
        if not isinstance(rows, slice):  # of all numbers, whose unit is looked at
            self.log.extend(int(row) for row in rows)
        return np.asarray(super().__getitem__(rows))


class Phone:
    """A device: its disk, and the member that runs on it while it is up."""

    def __init__(self, folder: Path, number: int, samples: int, programs: TinyPrograms) -> None:
        self.number = number
        self.samples = samples
        self.home = folder / f"phone-{number}"
        self.identity = Identity.generate()
        self.member: Member | None = None
        self.outbox: list[pb.Frame] = []
        """Frames that the member sends."""
        self.connection: Connection | None = None
        self.idle = True
        self.hung = False
        """It answers, and computes nothing."""
        self.is_busy: Callable[[], bool] = lambda: False
        """Whether its connection takes nothing now."""
        self._programs = programs
        rng = np.random.default_rng((7, number))
        inputs = rng.standard_normal((samples, LAYERS[0])).astype(np.float32).view(Watched)
        inputs.log = []
        self.data = Dataset(inputs, rng.integers(0, LAYERS[LAST], samples))

    @property
    def fed(self) -> list[int]:
        return self.data.inputs.log  # type: ignore[attr-defined,no-any-return]

    def connect(self) -> Connection:
        name = f"phone-{self.number}"
        self.member = Member(name, self.home, self.identity, self.samples, lambda: self.data, self._programs)
        self.outbox.clear()
        self.handle(member_events.Connected())
        self.fed.clear()
        self.connection = Connection(self.number)
        self.idle = False
        return self.connection

    def handle(self, event: member_events.Event) -> None:
        """Have the member handle an event; its frames wait in `outbox`."""
        assert self.member is not None
        self.outbox += handle_by_member(self.member, event)

    def work(self) -> None:
        """Do one piece of computation, if there is one."""
        assert self.member is not None
        self.idle = not self.member.has_work
        self.handle(member_events.Turn(room=self.idle or not self.is_busy()))

    def crash(self, keep: int) -> None:
        """Lose everything but the disk; of what was said, `keep` frames still reach the host."""
        if self.connection is not None:
            while len(self.connection.up) > keep:
                self.connection.up.pop()
            self.connection.up.append(None)
            self.connection.down.clear()
            self.connection.open = False
        self.member = self.connection = None


def shared_model(omega: int = 1) -> SharedModel:
    return SharedModel(array_specs(), first_weights(), omega=omega, tau=0.0)


class HostCrash(Exception):
    """The host process dies here."""


class Host:
    """What server.py does around a group, on a disk that outlives it."""

    def __init__(self, settings: Settings, disk: dict[str, Any], rng: random.Random) -> None:
        self.disk = disk
        self.rng = rng
        saved = disk.get("group")
        self.group = Group(settings) if saved is None else Group.from_json(settings, json.loads(saved))
        self.effects: list[do.Effect] = []
        self.shared = shared_model(disk["omega"])
        self.shared.resume(self.shared.window, iter(disk.setdefault("journal", [])))
        self.commit: do.Commit | None = None
        self.attached: dict[int, Connection] = {}
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.dropped: list[int] = []
        self.replaced: list[Connection] = []
        """Connections that the host has closed because a newer one of the same device came."""
        self.arriving: dict[tuple[int, int, int], list[bytes]] = {}
        """Snapshots whose parts are not all here."""
        self.effects_left: int | None = None
        """Effects to be carried out before the process dies."""

    def handle(self, event: Event) -> None:
        """Have the group handle an event; its effects wait to be carried out."""
        self.effects += handle(self.group, event)

    def hear(self, connection: Connection, data: bytes | None) -> None:
        number = connection.number
        if data is None:
            if self.attached.get(number) is connection:
                del self.attached[number]
                self.handle(Left(number, "connection closed"))
        else:
            frame = decode_frame(data)
            kind = frame.WhichOneof("body")
            if kind == "hello":
                self._welcome(connection, frame.hello)
            elif self.attached.get(number) is not connection:
                return  # it was let go
            elif kind == "envelope":
                self._relay(number, frame.envelope, data)
            elif kind == "snapshot":
                self._keep(number, frame.snapshot)
            else:
                self.handle(Received(number, frame))
        self.carry_out()

    def _welcome(self, connection: Connection, hello: pb.Hello) -> None:
        number = connection.number
        if (before := self.attached.pop(number, None)) is not None:
            self.replaced.append(before)
            self.handle(Left(number, "replaced by a new connection"))
            self.carry_out()
        self.attached[number] = connection
        self._send(number, pb.Frame(welcome=pb.Welcome(version=VERSION, run=RUN, id=RUN_ID, device=number)))
        self.handle(Joined(Device(number, hello.device, hello.identity, hello.samples)))

    def _relay(self, number: int, envelope: pb.Envelope, data: bytes) -> None:
        receiver = self.attached.get(envelope.receiver)
        if envelope.sender == number and envelope.generation == self.group.generation and receiver:
            self.group.pace.heard(number)
            put(receiver.down, data, self.rng)

    def _keep(self, number: int, snapshot: pb.Snapshot) -> None:
        group = self.group
        if snapshot.generation != group.generation or group.holders[snapshot.piece] != number:
            return
        key = (snapshot.generation, snapshot.boundary, snapshot.piece)
        if snapshot.part == 0:
            self.arriving[key] = []
        self.arriving[key].append(snapshot.SerializeToString())
        if snapshot.part == snapshot.parts - 1:
            self.disk["snapshots"][key] = parts = self.arriving.pop(key)
            first = pb.Snapshot.FromString(parts[0])
            self.handle(Stored(*key, frozenset(wrapped.device for wrapped in first.keys)))

    def _send(self, number: int, frame: pb.Frame) -> None:
        if number in self.attached:
            self.attached[number].down.append(encode_frame(frame))

    def carry_out(self) -> None:
        while self.effects:
            if self.effects_left is not None:
                if self.effects_left == 0:
                    raise HostCrash
                self.effects_left -= 1
            self._effect(self.effects.pop(0))

    def _effect(self, effect: do.Effect) -> None:
        match effect:
            case do.Save():
                self.disk["group"] = json.dumps(self.group.to_json())
                if self.commit is not None:
                    records = self.shared.close(0, self.commit.generation, self.commit.place)
                    records += self.shared.entering(records)
                    self.disk["journal"] += records
                    for record in records:
                        self.shared.take_in(record)
                    self.commit = None
            case do.Send(device, frame):
                self._send(device, frame)
            case do.SendGlobal(device, generation, neurons, chosen):
                model = self.disk["models"][0] if chosen else None
                for part in self.shared.parts(neurons, model):
                    self._send(
                        device, pb.Frame(global_state=pb.GlobalState(generation=generation, part=part))
                    )
            case do.SendPatch(device, generation, neurons, whole):
                for update in self.shared.patch(generation, neurons, whole=whole):
                    self._send(device, pb.Frame(patch=pb.Patch(generation=generation, update=update)))
                self._send(device, pb.Frame(patch=pb.Patch(generation=generation, last=True)))
            case do.SendSnapshot(device, generation, boundary, piece, keys_only):
                for data in self.disk["snapshots"][generation, boundary, piece]:
                    part = pb.Snapshot.FromString(data)
                    if keys_only:
                        part.ClearField("sealed")
                    self._send(device, pb.Frame(snapshot=part))
                    if keys_only:
                        break
            case do.Drop(device, _):
                self.attached.pop(device, None)
                self.dropped.append(device)
            case do.Forget(generation, boundary):
                for key in [k for k in self.disk["snapshots"] if k[:2] < (generation, boundary)]:
                    del self.disk["snapshots"][key]
            case do.Merge():
                self.shared.merge(0, effect)
            case do.Commit():
                self.commit = effect
            case do.Checkpoint(epoch):
                self.disk["epochs"].append(epoch)
                self.disk.setdefault("models", {})[epoch] = self.shared.model()
            case do.Choose():
                self.handle(Chosen())  # of the first epoch
            case do.Record(event, fields):
                self.events.append((event, fields))
