"""A whole group in one process, without sockets or a clock: real members, the real coordinator, real files.

Frames travel as bytes, in order on each connection but for what goes express, which overtakes others or not;
everything else may happen in any order. A device that
crashes keeps its disk and loses all else; a host that crashes keeps what it had saved.
"""

from __future__ import annotations

import json
import random
import tempfile
from collections import deque
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from crowdlearn_device import wire_pb2 as pb
from crowdlearn_device.dataset import Dataset
from crowdlearn_device.envelope import Identity
from crowdlearn_device.errors import WireError
from crowdlearn_device.member import Member
from crowdlearn_device.wire import VERSION, Floats, decode_frame
from crowdlearn_host.server import effects as do
from crowdlearn_host.server.group import Group
from crowdlearn_host.server.points import Device
from crowdlearn_host.server.settings import Layout, Settings
from crowdlearn_host.server.shared_model import SharedModel

from .tiny import LAST, LAYERS, TinyPrograms, array_specs, first_weights, manifest, whole

Counts = Sequence[Sequence[int]]
THREE_PIECES: Counts = ((3, 0, 0, 2), (0, 2, 3, 0), (0, 2, 2, 0))
TWO_PIECES: Counts = ((3, 0, 0, 2), (0, 4, 5, 0))
ONE_PIECE: Counts = ((3, 4, 5, 2),)
RUN = "test-run"
RUN_ID = bytes(16)


@contextmanager
def memory_folder() -> Iterator[Path]:
    """A folder for the disks of a crowd, in memory where there is such a place: they sync at every step."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as path:
        yield Path(path)


def layout_of(counts: Counts) -> Layout:
    starts = np.cumsum([[0] * len(LAYERS), *counts], axis=0)
    return tuple(
        tuple((int(a), int(a) + n) for a, n in zip(start, count, strict=True))
        for start, count in zip(starts, counts, strict=False)
    )


def programs_of(counts: Counts) -> tuple[str, ...]:
    return tuple(manifest(owned).sha256 for owned in counts)


def settings_for(counts: Counts = THREE_PIECES, devices: int = 4, **changes: Any) -> Settings:
    settings = Settings(
        layout=layout_of(counts),
        programs=programs_of(counts),
        epochs=2,
        batch=3,
        micro_batch=2,
        in_flight=2,
        learning_rate=0.1,
        seed=5,
        snapshot_every=1,
        devices=devices,
    )
    return replace(settings, **changes)


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

    def __getitem__(self, rows: Any) -> Any:
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
        self.connection: Connection | None = None
        self.idle = True
        self.hung = False
        """It answers, and computes nothing."""
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
        self.fed.clear()
        self.connection = Connection(self.number)
        self.idle = False
        return self.connection

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
        self.shared = shared_model(disk["omega"])
        if window := disk.get("window"):
            self.shared.restore(window)
        self.window_changed = False
        self.attached: dict[int, Connection] = {}
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.dropped: list[int] = []
        self.replaced: list[Connection] = []
        """Connections that the host has closed because a newer one of the same device came."""
        self.arriving: dict[tuple[int, int, int], list[bytes]] = {}
        """Snapshots whose parts are not all here."""
        self.effects_left: int | None = None
        """Effects to be carried out before the process dies."""

    def hear(self, connection: Connection, data: bytes | None) -> None:
        number = connection.number
        if data is None:
            if self.attached.get(number) is connection:
                del self.attached[number]
                self.group.leave(number, "connection closed")
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
                self.group.receive(number, frame)
        self.carry_out()

    def _welcome(self, connection: Connection, hello: pb.Hello) -> None:
        number = connection.number
        if (before := self.attached.pop(number, None)) is not None:
            self.replaced.append(before)
            self.group.leave(number, "replaced by a new connection")
            self.carry_out()
        self.attached[number] = connection
        self._send(number, pb.Frame(welcome=pb.Welcome(version=VERSION, run=RUN, id=RUN_ID, device=number)))
        self.group.join(Device(number, hello.device, hello.identity, hello.samples))

    def _relay(self, number: int, envelope: pb.Envelope, data: bytes) -> None:
        receiver = self.attached.get(envelope.receiver)
        if envelope.sender == number and envelope.generation == self.group.generation and receiver:
            self.group.relayed(number)
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
            group.stored(*key, frozenset(wrapped.device for wrapped in first.keys))

    def _send(self, number: int, frame: pb.Frame) -> None:
        if number in self.attached:
            self.attached[number].down.append(frame.SerializeToString())

    def carry_out(self) -> None:
        effects, self.group.effects = self.group.effects, []
        for effect in effects:
            if self.effects_left is not None:
                if self.effects_left == 0:
                    raise HostCrash
                self.effects_left -= 1
            self._effect(effect)

    def _effect(self, effect: do.Effect) -> None:
        match effect:
            case do.Save():
                self.disk["group"] = json.dumps(self.group.to_json())
                if self.window_changed:
                    self.disk["window"] = self.shared.to_bytes()
                    self.window_changed = False
            case do.Send(device, frame):
                self._send(device, frame)
            case do.SendGlobal(device, generation, neurons):
                for part in self.shared.parts(neurons):
                    self._send(
                        device, pb.Frame(global_state=pb.GlobalState(generation=generation, part=part))
                    )
            case do.SendPatch(device, generation, neurons, whole):
                for update in self.shared.patch(generation, neurons, whole=whole):
                    self._send(device, pb.Frame(patch=pb.Patch(generation=generation, update=update)))
                self._send(device, pb.Frame(patch=pb.Patch(generation=generation, last=True)))
            case do.SendSnapshot(device, generation, boundary, piece):
                for part in self.disk["snapshots"][generation, boundary, piece]:
                    self._send(device, pb.Frame(snapshot=pb.Snapshot.FromString(part)))
            case do.Drop(device, _):
                self.attached.pop(device, None)
                self.dropped.append(device)
            case do.Forget(generation, boundary):
                for key in [k for k in self.disk["snapshots"] if k[:2] < (generation, boundary)]:
                    del self.disk["snapshots"][key]
            case do.Merge():
                self.shared.merge(0, effect)
            case do.Commit(generation, place):
                self.shared.commit(0, generation, place)
                self.shared.release()
                self.window_changed = True
            case do.Checkpoint(epoch):
                self.disk["epochs"].append(epoch)
            case do.Record(event, fields):
                self.events.append((event, fields))


@dataclass(frozen=True)
class Action:
    """One thing that can happen next: the host hears, a device takes a frame, or computes."""

    kind: str
    connection: Connection = field(compare=False)

    @property
    def number(self) -> int:
        return self.connection.number

    def frame(self) -> pb.Frame | None:
        """What travels, where something does."""
        queue = {"hear": self.connection.up, "take": self.connection.down}.get(self.kind)
        return decode_frame(queue[0]) if queue and queue[0] is not None else None


class Crowd:
    """Devices and a host. Every choice is drawn from `seed`."""

    def __init__(
        self,
        folder: Path,
        settings: Settings,
        samples: Sequence[int] = (7, 5, 6, 4),
        seed: int = 0,
        omega: int = 1,
    ) -> None:
        self.settings = settings
        self.rng = random.Random(seed)
        cuts = (THREE_PIECES, TWO_PIECES, ONE_PIECE)
        programs = TinyPrograms([*(manifest(owned) for counts in cuts for owned in counts), whole()])
        self.phones = [Phone(folder, i, count, programs) for i, count in enumerate(samples)]
        self.disk: dict[str, Any] = {"snapshots": {}, "epochs": [], "omega": omega}
        self.host = Host(settings, self.disk, self.rng)
        self.connections: list[Connection] = []
        self.ledger: dict[int, tuple[int, int, tuple[int, ...]]] = {}
        """Mini-batch, by the boundary after it: epoch, dominator and its samples, as they were last fed."""
        for phone in self.phones:
            self.connect(phone.number)

    @property
    def group(self) -> Group:
        return self.host.group

    @property
    def done(self) -> bool:
        return self.group.phase == "done"

    def connect(self, number: int) -> None:
        self.connections.append(self.phones[number].connect())
        self._collect(self.phones[number])

    def crash(self, number: int) -> None:
        phone = self.phones[number]
        if phone.connection is not None:
            phone.crash(self.rng.randint(0, len(phone.connection.up)))

    def crash_host(self) -> None:
        """The host dies and starts again; every device that is up notices and is reached anew."""
        up = [phone.number for phone in self.phones if phone.member is not None]
        for phone in self.phones:
            phone.crash(0)
        self.connections.clear()
        self.host = Host(self.settings, self.disk, self.rng)
        for number in up:
            self.connect(number)

    def actions(self) -> list[Action]:
        found = []
        for connection in self.connections:
            if connection.up:
                found.append(Action("hear", connection))
            if connection.open and connection.down:
                found.append(Action("take", connection))
        for phone in self.phones:
            if phone.connection is not None and not phone.idle and not phone.hung:
                found.append(Action("work", phone.connection))
        return found

    def next_frame(self, connection: Connection) -> pb.Frame:
        """What a device takes next."""
        return decode_frame(connection.down[0])

    def act(self, action: Action) -> None:
        if action.kind == "hear":
            self._hear(action.connection)
            return
        phone = self.phones[action.number]
        assert phone.member is not None
        if action.kind == "take":
            phone.member.receive(decode_frame(action.connection.down.popleft()))
            phone.idle = False
        else:
            phone.idle = not phone.member.work()
        self._collect(phone)

    def _hear(self, connection: Connection) -> None:
        said = connection.up.popleft()
        if said is None:
            self.connections.remove(connection)
        try:
            self.host.hear(connection, said)
        except (HostCrash, WireError):
            self.crash_host()
        for closed in self.host.replaced:
            if closed.open:  # the device notices and comes again
                self.crash(closed.number)
                self.connect(closed.number)
        self.host.replaced.clear()

    def _collect(self, phone: Phone) -> None:
        assert phone.member is not None
        assert phone.connection is not None
        for frame in phone.member.outbox:
            if frame.HasField("assign") or frame.HasField("key_offer"):
                phone.fed.clear()
            if frame.HasField("progress"):
                generation = phone.member._generation
                assert generation is not None
                rows = tuple(phone.fed[: frame.progress.rows])
                del phone.fed[: frame.progress.rows]
                self._account(frame.progress.boundary, generation._assign.epoch, phone.number, rows)
            put(phone.connection.up, frame.SerializeToString(), self.rng)
        phone.member.outbox.clear()

    def _account(self, boundary: int, epoch: int, device: int, rows: tuple[int, ...]) -> None:
        committed = self.group.points[0].boundary if self.group.points else 0
        assert boundary > committed, f"mini-batch {boundary} again, though {committed} is committed"
        self.ledger[boundary] = (epoch, device, rows)

    def run(self, before: Callable[[Action], None] | None = None, limit: int = 100_000) -> None:
        """Act until nothing can happen any more."""
        for _ in range(limit):
            actions = self.actions()
            if not actions:
                return
            action = self.rng.choice(actions)
            if before is not None:
                before(action)
                if action.kind not in {a.kind for a in self.actions() if a.connection is action.connection}:
                    continue  # what was about to happen cannot any more
            self.act(action)
        raise AssertionError(f"still busy after {limit} actions")

    def wait(self, now: float) -> None:
        """Let the host see the time."""
        self.group.tick(now)
        self.host.carry_out()

    def run_until(self, reached: Callable[[], bool]) -> None:
        """Act until something is so."""
        while not reached():
            self.act(self.rng.choice(self.actions()))

    def told(self, event: str) -> list[dict[str, Any]]:
        """What the host's log says of a kind of event."""
        return [fields for name, fields in self.host.events if name == event]

    def check_every_sample_once(self, missed: Container[tuple[int, int]] = ()) -> None:
        """Each device's samples were fed exactly once an epoch, over the mini-batches that count.

        `missed` are the (epoch, device) whose samples were not.
        """
        total = max(self.ledger)
        assert sorted(self.ledger) == list(range(1, total + 1))
        fed: dict[tuple[int, int], list[int]] = {}
        for epoch, device, rows in self.ledger.values():
            fed.setdefault((epoch, device), []).extend(rows)
        expected = {
            (epoch, phone.number): list(range(phone.samples))
            for epoch in range(self.settings.epochs)
            for phone in self.phones
            if (epoch, phone.number) not in missed
        }
        assert {key: sorted(rows) for key, rows in fed.items()} == expected

    def model(self) -> dict[str, Floats]:
        """The global model as the host's disk holds it."""
        shared = shared_model(self.disk["omega"])
        if window := self.disk.get("window"):
            shared.restore(window)
        return shared.model()


def largest_difference(a: dict[str, Floats], b: dict[str, Floats]) -> float:
    assert a.keys() == b.keys()
    return max(float(np.abs(a[name] - b[name]).max()) for name in a)
