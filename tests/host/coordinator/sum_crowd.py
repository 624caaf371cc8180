"""Eight groups in one process that share by secure sums: real members, groups, sums and files, no sockets.

A device that crashes keeps its disk and loses all else; a host that crashes keeps what it had saved.
"""

from __future__ import annotations

import json
import random
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from crowdlearn_device.member import events as member_events
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.frames import VERSION, Floats, decode_frame, encode_frame
from crowdlearn_host.coordinator.group import effects as do
from crowdlearn_host.coordinator.group.events import (
    Event,
    Joined,
    Left,
    Owing,
    Received,
    Stopped,
    Stored,
    Summed,
)
from crowdlearn_host.coordinator.group.group import Group
from crowdlearn_host.coordinator.group.handlers.table import handle
from crowdlearn_host.coordinator.group.restore_points import Device
from crowdlearn_host.coordinator.group.settings import Settings
from crowdlearn_host.coordinator.hub.performers.sums import mean_of, references
from crowdlearn_host.coordinator.storage.shared_model import SharedModel
from crowdlearn_host.coordinator.sums import effects as of_sums
from crowdlearn_host.coordinator.sums.lot import Lot
from crowdlearn_host.coordinator.sums.norms import ContradictedError
from crowdlearn_host.coordinator.sums.rounds import SecureRounds, Terms

from .crowd import TWO_PIECES, settings_for
from .crowd_parties import RUN, RUN_ID, Connection, Phone, put
from .tiny import LAYERS, TinyPrograms, array_specs, first_weights, manifest

GROUPS, PATIENCE = 8, 60.0
SEED = 5
NEURONS = tuple((0, count) for count in LAYERS)


def secure_settings(**changes: Any) -> Settings:
    """Of a group of two pieces that shares by secure sums after every epoch, and takes what was shared."""
    usual = {"alone": False, "secure": True, "renews": True, "epochs": 1, "heirs": "owner"}
    return settings_for(TWO_PIECES, 2, **{**usual, **changes})


def lot(number: int, theta: float = 1.0) -> Lot:
    return Lot(array_specs(), NEURONS, SEED, number, theta)


class HostCrash(Exception):
    """The host process dies here."""


class SumHost:
    """What hub/server.py does around groups and their sums, on a disk that outlives it."""

    def __init__(
        self,
        settings: Settings,
        disk: dict[str, Any],
        rng: random.Random,
        theta: float,
        groups: int,
        noise: float,
        clip: float,
        bound: float = 0.0,
        wait: float | None = None,
    ) -> None:
        self.disk, self.rng, self.size = disk, rng, settings.devices
        saved = disk.setdefault("groups", {})
        self.groups = [
            Group.from_json(settings, json.loads(saved[g])) if g in saved else Group(settings)
            for g in range(groups)
        ]
        self.shared = SharedModel(array_specs(), first_weights(), omega=1, tau=0.0)
        self.shared.resume(self.shared.window, iter(disk.setdefault("journal", [])))
        of_round = partial(lot, theta=theta)
        terms = Terms(f"{RUN}/{RUN_ID.hex()}", theta, 1, of_round, noise, clip, bound=bound, wait=wait)
        self.sums = SecureRounds(terms, self.groups, PATIENCE)
        if "sums" in disk:
            self.sums.restore(json.loads(disk["sums"]), disk.get("total"))
        self.attached: dict[int, Connection] = {}
        self.effects: list[list[do.Effect]] = [[] for _ in self.groups]
        self.events: list[tuple[str, dict[str, Any]]] = disk.setdefault("events", [])
        self.crash_at: Callable[[object], bool] = lambda effect: False
        self.shown: Callable[[int, pb.SumStep], pb.SumStep] = lambda device, step: step
        """How a host that lies changes what it sends to a device."""

    def group_of(self, number: int) -> Group:
        return self.groups[number // self.size]

    def handle(self, index: int, event: Event) -> None:
        """Have a group handle an event; its effects wait to be carried out."""
        self.effects[index] += handle(self.groups[index], event)

    def hear(self, connection: Connection, data: bytes | None) -> None:
        number = connection.number
        group = self.group_of(number)
        if data is None:
            if self.attached.get(number) is connection:
                del self.attached[number]
                self.handle(number // self.size, Left(number, "connection closed"))
                self.carry_out()
                self.sums.left(number)
        else:
            frame = decode_frame(data)
            kind = frame.WhichOneof("body")
            if kind == "hello":
                hello = frame.hello
                if self.attached.pop(number, None) is not None:  # its end has not been heard of
                    self.handle(number // self.size, Left(number, "replaced by a new connection"))
                    self.carry_out()
                self.attached[number] = connection
                welcome = pb.Welcome(version=VERSION, run=RUN, id=RUN_ID, device=number)
                self._send(number, pb.Frame(welcome=welcome))
                device = Device(number, hello.device, hello.identity, hello.samples)
                self.handle(number // self.size, Joined(device))
                self.carry_out()
                self.sums.joined(number)
            elif self.attached.get(number) is not connection:
                return
            elif kind == "envelope":
                receiver = self.attached.get(frame.envelope.receiver)
                if frame.envelope.generation == group.generation and receiver:
                    put(receiver.down, data, self.rng)
            elif kind == "snapshot":
                self._keep(group, number, frame.snapshot)
            elif kind == "sum_step":
                self.sums.answer(number, frame.sum_step)
            else:
                self.handle(number // self.size, Received(number, frame))
        self.carry_out()

    def _keep(self, group: Group, number: int, snapshot: pb.Snapshot) -> None:
        if snapshot.generation != group.generation or group.holders[snapshot.piece] != number:
            return
        key = (snapshot.generation, snapshot.boundary, snapshot.piece)
        parts = self.disk.setdefault("snapshots", {}).setdefault((number // self.size, *key), [])
        if snapshot.part == 0:
            parts.clear()
        parts.append(snapshot.SerializeToString())
        if snapshot.part == snapshot.parts - 1:
            keys = pb.Snapshot.FromString(parts[0]).keys
            heirs = frozenset(each.device for each in keys)
            self.handle(number // self.size, Stored(*key, heirs))

    def _send(self, number: int, frame: pb.Frame) -> None:
        if number in self.attached:
            self.attached[number].down.append(encode_frame(frame))

    def carry_out(self) -> None:
        while self.sums.effects or any(self.effects):
            for index in range(len(self.groups)):
                effects, self.effects[index] = self.effects[index], []
                for effect in effects:
                    self._check(effect)
                    self._do(index, effect)
            summing: deque[of_sums.SumEffect] = deque(self.sums.effects)
            self.sums.effects.clear()
            while summing:
                self._check(summing[0])
                self._sum(summing.popleft())

    def _check(self, effect: object) -> None:
        if self.crash_at(effect):
            raise HostCrash

    def _do(self, index: int, effect: do.Effect) -> None:
        match effect:
            case do.Save():
                self.disk["groups"][index] = json.dumps(self.groups[index].to_json())
            case do.Send(device, frame):
                self._send(device, frame)
            case do.SendGlobal(device, generation, neurons):
                for part in self.shared.parts(neurons):
                    told = pb.GlobalState(generation=generation, part=part)
                    self._send(device, pb.Frame(global_state=told))
            case do.SendPatch(device, generation, neurons, whole):
                for update in self.shared.patch(generation, neurons, whole=whole):
                    self._send(device, pb.Frame(patch=pb.Patch(generation=generation, update=update)))
                self._send(device, pb.Frame(patch=pb.Patch(generation=generation, last=True)))
            case do.SendSnapshot(device, generation, boundary, piece, _):
                for data in self.disk["snapshots"][index, generation, boundary, piece]:
                    self._send(device, pb.Frame(snapshot=pb.Snapshot.FromString(data)))
            case do.Drop(device, _):
                self.attached.pop(device, None)
            case do.Contribute():
                self.sums.ready(index, effect)
            case do.Record(event, fields):
                self.events.append((event, {"group": index, **fields}))
            case do.Checkpoint(epoch):
                self.disk.setdefault("epochs", []).append((index, epoch))

    def _sum(self, effect: of_sums.SumEffect) -> None:
        match effect:
            case of_sums.SendStep(device, step):
                self._send(device, pb.Frame(sum_step=self.shown(device, step)))
            case of_sums.SendReference(device, _, attempt, positions):
                for frame in references(self.shared, attempt, positions):
                    self._send(device, frame)
            case of_sums.Keep(state, attempt):
                self.disk["sums"] = json.dumps(state)
                if attempt is not None:
                    self.disk["total"] = attempt.total.copy()
            case of_sums.Release(state=state, positions=positions, place=place):
                try:
                    mean = mean_of(effect, self.shared.window.average())
                except ContradictedError:
                    self.sums.contradicted()
                    return
                records = self.shared.summed(state["number"] - 1, place, positions, mean)
                self.disk["sums"] = json.dumps(state)
                self.disk["journal"] += records
                for record in records:
                    self.shared.take_in(record)
                self.sums.released()
            case of_sums.Over(group, place):
                self.handle(group, Summed(place))
            case of_sums.Tell(event, fields):
                self.events.append((event, fields))
            case of_sums.Stop(reason):
                for group in range(len(self.groups)):
                    self.handle(group, Stopped(reason))


class SumCrowd:
    """Devices and a host. Every choice is drawn from `seed`."""

    def __init__(
        self,
        folder: Path,
        groups: int = GROUPS,
        seed: int = 0,
        theta: float = 1.0,
        noise: float = 0.0,
        clip: float = 1.0,
        bound: float = 0.0,
        wait: float | None = None,
        **changes: Any,
    ) -> None:
        self.settings = secure_settings(**changes)
        self.rng, self.theta, self.groups = random.Random(seed), theta, groups
        self.noise = noise, clip, bound, wait
        programs = TinyPrograms([manifest(owned) for owned in TWO_PIECES])
        self.phones = [Phone(folder, n, 3, programs) for n in range(2 * groups)]
        self.disk: dict[str, Any] = {}
        self.connections: list[Connection] = []
        self.host = SumHost(self.settings, self.disk, self.rng, theta, groups, *self.noise)
        self.frozen: set[int] = set()
        """Devices that do nothing for the time being, connected as they are."""
        self.steps: list[tuple[int, pb.SumStep]] = []
        """All that the host heard of sums, as it would be known to one that is curious."""
        for phone in self.phones:
            self.connect(phone.number)

    @property
    def done(self) -> bool:
        return all(group.phase == "done" for group in self.host.groups)

    def connect(self, number: int) -> None:
        self.connections.append(self.phones[number].connect())
        self._collect(self.phones[number])

    def crash(self, number: int, keep: int = 0) -> None:
        if self.phones[number].connection is not None:
            self.phones[number].crash(keep)

    def crash_host(self) -> None:
        up = [phone.number for phone in self.phones if phone.member is not None]
        for phone in self.phones:
            phone.crash(0)
        self.connections.clear()
        self.host = SumHost(self.settings, self.disk, self.rng, self.theta, self.groups, *self.noise)
        for number in up:
            self.connect(number)

    def tick(self, now: float) -> None:
        self.host.sums.tick(now)
        for index, group in enumerate(self.host.groups):
            self.host.handle(index, Owing(self.host.sums.owing))
            group.attendance.tick(group.devices, now, self.settings.grace_seconds)
        self.host.carry_out()

    def log(self, event: str) -> list[dict[str, Any]]:
        return [fields for name, fields in self.host.events if name == event]

    def run(self, until: Callable[[], bool] = lambda: False, limit: int = 200_000) -> None:
        """Act until something is so, or until nothing can happen any more."""
        for _ in range(limit):
            if until():
                return
            actions: list[tuple[str, Any]] = []
            for connection in self.connections:
                if connection.number in self.frozen:
                    continue
                if connection.up:
                    actions.append(("hear", connection))
                if connection.open and connection.down:
                    actions.append(("take", connection))
            busy = [phone for phone in self.phones if phone.connection is not None and not phone.idle]
            actions += [("work", phone) for phone in busy if phone.number not in self.frozen]
            if not actions:
                return
            kind, what = self.rng.choice(actions)
            if kind == "hear":
                self._hear(what)
            elif kind == "take":
                phone = self.phones[what.number]
                phone.handle(member_events.Received(decode_frame(what.down.popleft())))
                phone.idle = False
                self._collect(phone)
            else:
                what.work()
                self._collect(what)
        raise AssertionError(f"still busy after {limit} actions")

    def _hear(self, connection: Connection) -> None:
        said = connection.up.popleft()
        if said is None:
            self.connections.remove(connection)
        elif (frame := decode_frame(said)).HasField("sum_step"):
            self.steps.append((connection.number, frame.sum_step))
        try:
            self.host.hear(connection, said)
        except HostCrash:
            self.crash_host()

    def _collect(self, phone: Phone) -> None:
        assert phone.member is not None
        assert phone.connection is not None
        for frame in phone.outbox:
            put(phone.connection.up, encode_frame(frame), self.rng)
        phone.outbox.clear()

    def model(self) -> dict[str, Floats]:
        """The global model as the host's disk holds it."""
        shared = SharedModel(array_specs(), first_weights(), omega=1, tau=0.0)
        shared.resume(shared.window, iter(self.disk["journal"]))
        return shared.model()

    def check_done(self, model: dict[str, Floats]) -> None:
        phases = {(group.phase, group.reason) for group in self.host.groups}
        assert self.done, f"{phases}\n{self.host.events[-8:]}"
        found = self.model()
        assert all(np.array_equal(found[name], model[name]) for name in model)
