"""A whole group in one process, without sockets or a clock: real members, the real coordinator, real files.

Frames travel as bytes, in order on each connection but for what goes express, which overtakes others or not;
everything else may happen in any order. A device that crashes keeps its disk and loses all else; a host that
crashes keeps what it had saved.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from crowdlearn_device.errors import WireError
from crowdlearn_device.member.events import Received
from crowdlearn_device.piece.routes import Layout
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.frames import Floats, decode_frame, encode_frame
from crowdlearn_host.coordinator.group.events import Ticked
from crowdlearn_host.coordinator.group.group import Group
from crowdlearn_host.coordinator.group.settings import Settings

from .crowd_parties import Connection, Host, HostCrash, Phone, put, shared_model
from .tiny import LAST, LAYERS, TinyPrograms, manifest, whole

Counts = Sequence[Sequence[int]]
THREE_PIECES: Counts = ((3, 0, 0, 2), (0, 2, 3, 0), (0, 2, 2, 0))
TWO_PIECES: Counts = ((3, 0, 0, 2), (0, 4, 5, 0))
ONE_PIECE: Counts = ((3, 4, 5, 2),)


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


def programs_of(counts: Counts, frozen: int = 0) -> tuple[str, ...]:
    return tuple(manifest(owned, frozen).sha256 for owned in counts)


def settings_for(
    counts: Counts = THREE_PIECES, devices: int = 4, frozen: int = 0, **changes: Any
) -> Settings:
    """Of a run with these pieces, in which the first `frozen` linear maps rest."""
    settings = Settings(
        layout=layout_of(counts),
        programs=programs_of(counts, frozen),
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
        busy: float = 0.0,
    ) -> None:
        """Begin; devices that have work find their connections busy so often."""
        self.settings = settings
        self.rng = random.Random(seed)
        cuts = (THREE_PIECES, TWO_PIECES, ONE_PIECE)
        pieces = [owned for counts in cuts for owned in counts]
        resting = [manifest(owned, frozen) for owned in pieces for frozen in range(LAST)]
        programs = TinyPrograms([*resting, whole()])
        self.phones = [Phone(folder, i, count, programs) for i, count in enumerate(samples)]
        self.disk: dict[str, Any] = {"snapshots": {}, "epochs": [], "omega": omega}
        self.host = Host(settings, self.disk, self.rng)
        self.connections: list[Connection] = []
        self.ledger: dict[int, tuple[int, int, tuple[int, ...]]] = {}
        """Mini-batch, by the boundary after it: epoch, dominator and its samples, as they were last fed."""
        self.envelopes: list[pb.Envelope] = []
        """All that devices sent each other."""
        for phone in self.phones:
            phone.is_busy = lambda: busy > 0 and self.rng.random() < busy
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
        if action.kind == "take":
            phone.handle(Received(decode_frame(action.connection.down.popleft())))
            phone.idle = False
        else:
            phone.work()
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
        for frame in phone.outbox:
            if frame.HasField("assign") or frame.HasField("key_offer"):
                phone.fed.clear()
            if frame.HasField("progress"):
                generation = phone.member.generation
                assert generation is not None
                rows = tuple(phone.fed[: frame.progress.rows])
                del phone.fed[: frame.progress.rows]
                self._account(frame.progress.boundary, generation.assign.epoch, phone.number, rows)
            if frame.HasField("envelope"):
                self.envelopes.append(frame.envelope)
            put(phone.connection.up, encode_frame(frame), self.rng)
        phone.outbox.clear()

    def _account(self, boundary: int, epoch: int, device: int, rows: tuple[int, ...]) -> None:
        points = self.group.restore_points.points
        committed = points[0].boundary if points else 0
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
        self.host.handle(Ticked(now))
        self.host.carry_out()

    def run_until(self, reached: Callable[[], bool]) -> None:
        """Act until something is so."""
        while not reached():
            self.act(self.rng.choice(self.actions()))

    def log(self, event: str) -> list[dict[str, Any]]:
        """What the host's log says of a kind of event."""
        return [fields for name, fields in self.host.events if name == event]

    def check_done(self, model: dict[str, Floats] | None = None) -> None:
        """The run is over, every sample was trained once an epoch, and the weights are those of `model`."""
        assert self.done, f"{self.group.phase}: {self.group.reason}\n{self.host.events[-8:]}"
        self.check_every_sample_once()
        if model is not None:
            assert largest_difference(self.model(), model) <= 1e-6

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
            if phone.samples and (epoch, phone.number) not in missed
        }
        assert {key: sorted(rows) for key, rows in fed.items()} == expected

    def model(self) -> dict[str, Floats]:
        """The global model as the host's disk holds it."""
        shared = shared_model(self.disk["omega"])
        shared.resume(shared.window, iter(self.disk["journal"]))
        return shared.model()


def largest_difference(a: dict[str, Floats], b: dict[str, Floats]) -> float:
    assert a.keys() == b.keys()
    return max(float(np.abs(a[name] - b[name]).max()) for name in a)
