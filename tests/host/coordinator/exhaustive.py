"""A small group explored completely: every order of events, and every crash at every step.

The coordinator is the real one; members are abstract: the state of a piece is the list of mini-batches that
were applied to it, and what is shared is that list, too. A mini-batch is one message to the follower and one
back; where first layers are frozen (`ahead`), the dominator has updated when it sends errors, and the
follower when these arrive. Messages keep their order on a connection, everything else is free.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.schedule import Pass, mini_batches
from crowdlearn_host.coordinator.group import effects as do
from crowdlearn_host.coordinator.group.attendance import Attendance
from crowdlearn_host.coordinator.group.events import Joined, Left, Received, Stored
from crowdlearn_host.coordinator.group.faults import Faults
from crowdlearn_host.coordinator.group.forming import Forming
from crowdlearn_host.coordinator.group.group import Group, Reports
from crowdlearn_host.coordinator.group.handlers.table import handle
from crowdlearn_host.coordinator.group.restore_points import Device, RestorePoints
from crowdlearn_host.coordinator.group.settings import Settings

Lineage = tuple[tuple[int, int, int], ...]
"""Mini-batches applied: epoch, dominator, number within the pass."""
Disk = tuple[tuple[tuple[int, int], Lineage], ...]
SETTINGS = Settings(
    layout=(((0, 1),), ((1, 2),)),
    programs=("0", "1"),
    epochs=1,
    batch=2,
    micro_batch=2,
    in_flight=1,
    learning_rate=0.1,
    seed=1,
    snapshot_every=1,
    devices=3,
)
RENEWING = {"every": 1, "alone": False, "renews": True}
"""Every pass is shared, and the next one begins from the host's model."""
OVERLAPPING = {"staleness": 1, "snapshot_every": 2}
"""A mini-batch enters before the one ahead of it has updated, but after every second one."""
FROZEN = {"ahead": True}
"""The dominator updates before its follower does."""
PARTS = (Attendance, Faults, Forming, Reports, RestorePoints)
"""The classes of a group's parts, which have no parts of their own."""
Groups = tuple[tuple[tuple[int, ...], int, dict[str, Any]], ...]
"""Samples by device, crashes, and settings other than SETTINGS."""


@dataclass(frozen=True)
class Abstract:
    """A device: its disk, and what a member has in memory while it is connected."""

    disk: Disk = ()
    up: bool = True
    assign: bytes = b""
    lineage: Lineage | None = None
    going: bool = False
    fed: int = 0
    heirs: tuple[int, ...] = ()


@dataclass(frozen=True)
class World:
    """Everything there is at one moment; `said` and `told` are the frames under way by device. `saved` is the
    group on the host's disk, and the model beside it.
    """

    group: Group
    model: Lineage
    saved: tuple[str, Lineage]
    snapshots: tuple[tuple[tuple[int, int, int], Lineage], ...]
    devices: tuple[Abstract, ...]
    said: tuple[tuple[bytes | None, ...], ...]
    told: tuple[tuple[bytes, ...], ...]
    crashes: int
    ahead: bool

    def key(self) -> int:
        rest = (self.model, self.saved, self.snapshots, self.devices, self.said, self.told, self.crashes)
        return hash((_frozen(vars(self.group)), rest))


def _frozen(value: Any) -> Any:
    if isinstance(value, dict):
        outside = ("pace", "watch", "settings")  # no time passes, and settings stay
        return tuple((k, _frozen(v)) for k, v in sorted(value.items()) if k not in outside)
    if isinstance(value, PARTS):
        return _frozen(vars(value))
    if isinstance(value, set):
        return frozenset(value)
    if isinstance(value, list):
        return tuple(map(_frozen, value))
    return value.SerializeToString() if isinstance(value, pb.KeyOffer) else value


def _copied(group: Group) -> Group:
    twin = copy.copy(group)
    for name, value in vars(group).items():
        if isinstance(value, PARTS):
            setattr(twin, name, replace(value, **{n: copy.copy(of) for n, of in vars(value).items()}))
        elif isinstance(value, dict | set | list):
            setattr(twin, name, copy.copy(value))
    return twin


def _with(items: tuple[Any, ...], at: int, value: Any) -> tuple[Any, ...]:
    return (*items[:at], value, *items[at + 1 :])


def first_world(samples: tuple[int, ...], crashes: int, ahead: bool, changes: dict[str, Any]) -> World:
    """Every device has just connected."""
    settings = replace(SETTINGS, devices=len(samples), **changes)
    hello = [(pb.Frame(hello=pb.Hello(samples=count)).SerializeToString(),) for count in samples]
    empty = tuple(() for _ in samples)
    devices = tuple(Abstract() for _ in samples)
    return World(Group(settings), (), ("", ()), (), devices, tuple(hello), empty, crashes, ahead)


class Explorer:
    """Walks through all worlds that `first` can become; `changes` are settings other than SETTINGS."""

    def __init__(
        self, samples: tuple[int, ...], crashes: int, *, ahead: bool = False, **changes: Any
    ) -> None:
        self.samples = samples
        self.first = first_world(samples, crashes, ahead, changes)
        batches = [len(mini_batches(count, SETTINGS.batch)) for count in samples]
        self.expected = sorted((0, d, i) for d, count in enumerate(batches) for i in range(count))
        self.states = 0
        self.ends = 0

    def explore(self) -> None:
        """Raises AssertionError at the first deadlock, and at the first mini-batch lost or applied twice."""
        seen = {self.first.key()}
        todo = [self.first]
        while todo:
            world = todo.pop()
            self.states += 1
            moved = False
            for after, is_crash in self._next(world):
                moved = moved or not is_crash
                if (key := after.key()) not in seen:
                    seen.add(key)
                    todo.append(after)
            if not moved:
                self._check_end(world)

    def _check_end(self, world: World) -> None:
        self.ends += 1
        group = world.group
        assert group.phase == "done", f"deadlock: {group.phase} {group.reason} {world}"
        assert sorted(world.model) == self.expected, f"shared is {world.model}"
        for piece, holder in enumerate(group.holders):
            state = dict(world.devices[holder].disk)[max(dict(world.devices[holder].disk))]
            assert sorted(state) == self.expected, f"piece {piece} was trained on {state}"

    def _next(self, world: World) -> Iterator[tuple[World, bool]]:
        for d, device in enumerate(world.devices):
            if world.said[d]:
                yield self._hear(world, d, None), False
            if device.up and world.told[d]:
                yield self._take(world, d), False
            if not device.up and not world.said[d]:
                yield self._connect(world, d), False
        if world.crashes and world.group.phase != "done":
            left = replace(world, crashes=world.crashes - 1)
            for d, device in enumerate(world.devices):
                if device.up:
                    yield from ((w, True) for w in self._crash(left, d))
                if world.said[d]:
                    for effects in range(self._effects(world, d)):
                        yield self._crash_host(self._hear(left, d, effects)), True
            yield self._crash_host(left), True

    def _connect(self, world: World, d: int) -> World:
        device = Abstract(disk=world.devices[d].disk)
        hello = pb.Frame(hello=pb.Hello(samples=self.samples[d])).SerializeToString()
        return replace(world, devices=_with(world.devices, d, device), said=_with(world.said, d, (hello,)))

    def _crash(self, world: World, d: int) -> Iterator[World]:
        """The device dies; any part of what it said still arrives, then the connection's end."""
        down = Abstract(disk=world.devices[d].disk, up=False)
        for kept in range(len(world.said[d]) + 1):
            yield replace(
                world,
                devices=_with(world.devices, d, down),
                said=_with(world.said, d, (*world.said[d][:kept], None)),
                told=_with(world.told, d, ()),
            )

    def _crash_host(self, world: World) -> World:
        settings = world.group.settings
        saved = world.saved
        group = Group.from_json(settings, json.loads(saved[0])) if saved[0] else Group(settings)
        empty: tuple[tuple[bytes, ...], ...] = tuple(() for _ in self.samples)
        world = replace(world, group=group, model=saved[1], said=empty, told=empty)
        for d, device in enumerate(world.devices):
            if device.up:
                world = self._connect(world, d)
        return world

    def _effects(self, world: World, d: int) -> int:
        return len(self._enter(_copied(world.group), d, world.said[d][0])[1])

    def _enter(self, group: Group, d: int, said: bytes | None) -> tuple[pb.Frame | None, list[do.Effect]]:
        if said is None:
            return None, handle(group, Left(d, "gone"))
        frame = pb.Frame.FromString(said)
        if frame.HasField("hello"):
            return frame, handle(group, Joined(Device(d, f"device {d}", bytes([d]), frame.hello.samples)))
        if frame.HasField("envelope") or frame.HasField("snapshot"):
            return frame, []
        return frame, handle(group, Received(d, frame))

    def _hear(self, world: World, d: int, effects: int | None) -> World:
        """The host takes what a device said; it dies after some of the effects, if told so."""
        group = _copied(world.group)
        frame, carried = self._enter(group, d, world.said[d][0])
        told = list(world.told)
        snapshots = dict(world.snapshots)
        saved, model, uploaded = world.saved, world.model, b""
        if frame is not None and frame.HasField("envelope"):
            envelope = frame.envelope
            if envelope.generation == group.generation and envelope.receiver in group.live:
                told[envelope.receiver] = (*told[envelope.receiver], frame.SerializeToString())
        if frame is not None and frame.HasField("snapshot"):
            s = frame.snapshot
            if s.generation == group.generation and group.holders[s.piece] == d:
                snapshots[s.generation, s.boundary, s.piece] = _lineage(s.sealed)
                heirs = frozenset(key.device for key in s.keys)
                handle(group, Stored(s.generation, s.boundary, s.piece, heirs))
        for effect in carried[:effects]:
            sent: pb.Frame | None = None
            match effect:
                case do.Save():
                    saved = json.dumps(group.to_json()), model
                case do.Send(number, frame_out):
                    sent = frame_out
                case do.SendGlobal(number, generation, _):
                    sent = pb.Frame(global_state=pb.GlobalState(generation=generation))
                case do.SendPatch(number, generation):
                    content = repr(model).encode()
                    sent = pb.Frame(patch=pb.Patch(generation=generation, update=content, last=True))
                case do.Merge(_, _, _, _, update):
                    uploaded = update
                case do.Commit():
                    assert len(_lineage(uploaded)) > len(model), f"{uploaded!r} is shared after {model}"
                    model = _lineage(uploaded)
                case do.SendSnapshot(number, generation, boundary, piece):
                    content = repr(snapshots[generation, boundary, piece]).encode()
                    sent = pb.Frame(
                        snapshot=pb.Snapshot(
                            generation=generation, boundary=boundary, piece=piece, sealed=content
                        )
                    )
                case do.Forget(generation, boundary):
                    snapshots = {k: v for k, v in snapshots.items() if k[:2] >= (generation, boundary)}
            if sent is not None and number in group.live:
                told[number] = (*told[number], sent.SerializeToString())
        return replace(
            world,
            group=group,
            model=model,
            saved=saved,
            snapshots=tuple(sorted(snapshots.items())),
            said=_with(world.said, d, world.said[d][1:]),
            told=tuple(told),
        )

    def _take(self, world: World, d: int) -> World:
        device, says = _react(world.devices[d], d, pb.Frame.FromString(world.told[d][0]), world.ahead)
        return replace(
            world,
            devices=_with(world.devices, d, device),
            said=_with(world.said, d, world.said[d] + tuple(f.SerializeToString() for f in says)),
            told=_with(world.told, d, world.told[d][1:]),
        )


def _lineage(sealed: bytes) -> Lineage:
    return tuple(map(tuple, eval(sealed)))  # our own repr


def _react(device: Abstract, d: int, frame: pb.Frame, ahead: bool) -> tuple[Abstract, list[pb.Frame]]:
    """What a device does with a frame: the member of member.py without its arithmetic."""
    kind = frame.WhichOneof("body") or ""
    body = getattr(frame, kind)
    if kind == "assign":
        device = replace(
            device, assign=body.SerializeToString(), lineage=None, going=False, heirs=tuple(body.heirs)
        )
        return device, [pb.Frame(key_offer=pb.KeyOffer(generation=body.generation, device=d))]
    if kind == "committed":
        kept = tuple(entry for entry in device.disk if entry[0] >= (body.generation, body.boundary))
        return replace(device, disk=kept), []
    if kind in ("finish", "welcome") or not device.assign:
        return device, []
    assign = pb.Assign.FromString(device.assign)
    if kind != "snapshot" and body.generation != assign.generation:
        return device, []
    if kind == "keys":
        return _provide_own(device, d, assign)
    if kind == "snapshot":
        return _provide(device, d, assign, body.piece, _lineage(body.sealed))
    if kind == "global_state":
        return _complete(device, assign, ())
    if kind == "patch":
        assert not assign.from_generation, "only a whole model is given by the host"
        return _complete(device, assign, _lineage(body.update))
    if kind == "share":
        shared = pb.Shared(generation=assign.generation, update=repr(device.lineage).encode(), last=True)
        return device, [pb.Frame(shared=shared)]
    if kind == "heirs":
        return replace(device, heirs=tuple(peer.device for peer in body.heirs)), []
    if kind == "go":
        return _feed(replace(device, going=True, fed=assign.boundary), d, assign)
    if kind == "envelope" and body.purpose in (pb.PURPOSE_SHUFFLE, pb.PURPOSE_RECOVERY):
        return _complete(device, assign, _lineage(body.sealed))
    assert kind == "envelope", f"a member takes no {kind}"
    mini_batch = _lineage(body.sealed)[0]
    if ahead and body.purpose == pb.PURPOSE_ACTIVATION and assign.piece:
        return device, [_envelope(assign, d, assign.pieces[0].device, pb.PURPOSE_ACTIVATION, (mini_batch,))]
    return _apply(device, d, assign, mini_batch, answer=(assign.piece != 0) != ahead)


def _provide_own(device: Abstract, d: int, assign: pb.Assign) -> tuple[Abstract, list[pb.Frame]]:
    says: list[pb.Frame] = []
    for provide in assign.provides:
        if provide.from_snapshot:
            continue
        state = dict(device.disk).get((assign.from_generation, assign.boundary))
        if state is None:
            fault = pb.Fault(generation=assign.generation, kind=pb.FAULT_STATE, reason="not here")
            return replace(device, assign=b""), [pb.Frame(fault=fault)]
        device, more = _provide(device, d, assign, provide.piece, state)
        says += more
    return device, says


def _provide(
    device: Abstract, d: int, assign: pb.Assign, piece: int, state: Lineage
) -> tuple[Abstract, list[pb.Frame]]:
    says: list[pb.Frame] = []
    for transfer in assign.transfers:
        if transfer.piece != piece:
            continue
        if transfer.device == d:
            device, more = _complete(device, assign, state)
            says += more
        else:
            says.append(_envelope(assign, d, transfer.device, pb.PURPOSE_SHUFFLE, state))
    return device, says


def _envelope(assign: pb.Assign, d: int, to: int, purpose: pb.Purpose, content: Lineage) -> pb.Frame:
    return pb.Frame(
        envelope=pb.Envelope(
            generation=assign.generation,
            sender=d,
            receiver=to,
            purpose=purpose,
            sealed=repr(content).encode(),
        )
    )


def _complete(device: Abstract, assign: pb.Assign, state: Lineage) -> tuple[Abstract, list[pb.Frame]]:
    assert device.lineage is None, "state came twice"
    assert len(state) == assign.boundary, f"state at {len(state)} for boundary {assign.boundary}"
    device = _saved(replace(device, lineage=state), assign)
    return device, [pb.Frame(ready=pb.Ready(generation=assign.generation))]


def _saved(device: Abstract, assign: pb.Assign) -> Abstract:
    assert device.lineage is not None
    point = (assign.generation, len(device.lineage))
    return replace(device, disk=tuple(sorted({**dict(device.disk), point: device.lineage}.items())))


def _feed(device: Abstract, d: int, assign: pb.Assign) -> tuple[Abstract, list[pb.Frame]]:
    assert device.lineage is not None
    if assign.piece != 0 or not device.going:
        return device, []
    says = []
    for number in _pass(assign).under_way(len(device.lineage)):
        if number >= device.fed:
            mini_batch = (assign.epoch, d, number - assign.pass_boundary)
            to = assign.pieces[1].device
            says.append(_envelope(assign, d, to, pb.PURPOSE_ACTIVATION, (mini_batch,)))
            device = replace(device, fed=number + 1)
    return device, says


def _pass(assign: pb.Assign) -> Pass:
    training = assign.training
    return Pass(assign.pass_boundary, assign.pass_end, training.snapshot_every, training.staleness)


def _apply(
    device: Abstract, d: int, assign: pb.Assign, mini_batch: tuple[int, int, int], *, answer: bool
) -> tuple[Abstract, list[pb.Frame]]:
    assert device.lineage is not None, "sums before the piece is complete"
    assert mini_batch not in device.lineage, f"{mini_batch} is applied twice"
    device = replace(device, lineage=(*device.lineage, mini_batch))
    assert device.lineage is not None
    generation, boundary = assign.generation, len(device.lineage)
    says = []
    if answer:
        partner = assign.pieces[1 - assign.piece].device
        says.append(_envelope(assign, d, partner, pb.PURPOSE_ERROR, (mini_batch,)))
    if assign.piece == 0:
        says.append(pb.Frame(progress=pb.Progress(generation=generation, boundary=boundary)))
    if _pass(assign).drained(boundary):
        device = _saved(device, assign)
        snapshot = pb.Snapshot(generation=generation, boundary=boundary, piece=assign.piece, sender=d)
        for heir in device.heirs:
            snapshot.keys.add(device=heir)
        snapshot.sealed = repr(device.lineage).encode()
        says.append(pb.Frame(snapshot=snapshot))
        says.append(pb.Frame(held=pb.Held(generation=generation, boundary=boundary)))
    device, fed = _feed(device, d, assign)
    return device, says + fed


def main() -> None:
    """The groups of docs/protocol.md, or those with two devices alone (`--two`)."""
    two: Groups = (
        ((2, 2), 0, {}),
        ((2, 2), 1, {}),
        ((2, 2), 1, RENEWING),
        ((4, 2), 1, RENEWING),
        ((6, 2), 1, OVERLAPPING),
        ((4, 2), 1, FROZEN),
        ((6, 2), 1, {**OVERLAPPING, **FROZEN}),
    )
    three: Groups = (((2, 2, 2), 0, {}), ((2, 2, 2), 1, {}), ((2, 2, 2), 0, RENEWING), ((4, 2, 2), 1, {}))
    for samples, crashes, changes in two if "--two" in sys.argv else two + three:
        explorer = Explorer(samples, crashes, **changes)
        explorer.explore()
        how = {
            "every": ", shares after every pass",
            "staleness": ", mini-batches overlap",
            "ahead": ", frozen",
        }
        told = "".join(said for key, said in how.items() if key in changes)
        print(
            f"{len(samples)} devices, {samples} samples{told}, {crashes} crash: {explorer.states} states",
            flush=True,
        )


if __name__ == "__main__":
    main()
