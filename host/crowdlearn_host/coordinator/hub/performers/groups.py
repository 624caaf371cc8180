"""Effects of groups, carried out in each group's order, and never by holding up the relay's loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.frames import Floats

from crowdlearn_host.coordinator.group import effects as do
from crowdlearn_host.coordinator.group.group import Group
from crowdlearn_host.coordinator.group.places import Places
from crowdlearn_host.coordinator.group.restore_points import Place
from crowdlearn_host.coordinator.hub.connection import Attached
from crowdlearn_host.coordinator.hub.traffic_ledger import TrafficLedger
from crowdlearn_host.coordinator.storage.store import Saved, Store
from crowdlearn_host.errors import UpdateRefused

from .base import Hub

OnCheckpoint = Callable[[int, int, dict[str, Floats]], None]
"""Group, epoch, and the global model's arrays; called in the store's thread."""


@dataclass(frozen=True)
class _Save:
    """A group's state as it was when the effect arose."""

    saved: Saved
    place: Place
    phase: str


class GroupPerformer:
    """The performer of effects. Those that wait for the disk or compute for long are done by the `store`;
    what is behind one of them in the same group waits for it. Other groups do not.

    What is sent goes to the connection that the device had when the effect arose, or nowhere. Where groups
    are `synchronous`, one that is ahead gets nothing of the global model until the others have shared what it
    has. The model is checkpointed when all groups at work have ended an epoch; with `each`, when any has.
    """

    def __init__(
        self,
        hub: Hub,
        groups: Sequence[Group],
        store: Store,
        traffic: TrafficLedger,
        on_checkpoint: OnCheckpoint,
        *,
        synchronous: bool,
        each: bool = False,
    ) -> None:
        self._hub, self._groups, self._store, self._traffic = hub, groups, store, traffic
        self._on_checkpoint, self._synchronous, self._each = on_checkpoint, synchronous, each
        self._queues: list[deque[tuple[do.Effect | _Save, Attached | None]]] = [deque() for _ in groups]
        self._busy: dict[int, asyncio.Task[None]] = {}
        self._places = Places(groups)
        self._held_back: list[tuple[int, do.Effect, Attached | None]] = []
        self._ended: set[int] = set()
        self._checkpointed = -1
        self._failed = False

    @property
    def held_back(self) -> set[int]:
        """Return groups that wait for others."""
        return {index for index, _, _ in self._held_back}

    def perform(self, index: int, effects: Sequence[do.Effect]) -> None:
        """Carry out a group's effects, at once or in their turn."""
        group = self._groups[index]
        if not effects and not self._places.all_over:
            self._places.stands(index, group.phase)
            return
        if self._failed:
            return
        queue, commit, unsaved = self._queues[index], None, True
        # What happened is in the logs before it is saved: a host that dies then has told of it.
        for effect in sorted(effects, key=lambda effect: not isinstance(effect, do.Record)):
            match effect:
                case do.Commit():
                    commit, unsaved = effect, True
                case do.Save() if unsaved:  # the same again would not differ
                    queue.append((self._save_of(index, commit), None))
                    commit, unsaved = None, False
                case do.Save():
                    pass
                case do.Drop(device, _):
                    self._hub.drop(device)
                case do.Send(device, frame):
                    if (to := self._hub.connection(device)) is None:
                        continue
                    if frame.HasField("ping"):  # nothing depends on it, and a slow disk is no silent device
                        self._hub.send(to, frame)
                    else:
                        queue.append((effect, to))
                case do.SendGlobal() | do.SendPatch() | do.SendSnapshot():
                    queue.append((effect, self._hub.connection(effect.device)))
                case _:
                    queue.append((effect, None))
        self._places.stands(index, group.phase)
        if index not in self._busy:
            self._go_on(index)

    def _save_of(self, index: int, commit: do.Commit | None) -> _Save:
        group = self._groups[index]
        traffic = self._traffic.rows(device.name for device in group.devices.values())
        return _Save(Saved(index, group.to_json(), traffic, commit), group.schedule.place, group.phase)

    def _go_on(self, index: int) -> None:
        """Carry out what needs no waiting; a task goes on from the first effect that does."""
        queue = self._queues[index]
        try:
            while queue and not self._is_slow(queue[0][0]):
                self._do(index, *queue.popleft())
        except Exception as error:
            self._fail(error)
        if queue:
            self._busy[index] = asyncio.get_running_loop().create_task(self._in_turn(index))
        elif not self._busy and self._places.all_over:
            self._hub.finish()

    async def _in_turn(self, index: int) -> None:
        queue = self._queues[index]
        try:
            while queue:
                effect, to = queue.popleft()
                if self._is_slow(effect):
                    await self._wait_for(index, effect)
                else:
                    self._do(index, effect, to)
        except Exception as error:
            self._fail(error)
        finally:
            del self._busy[index]
            if not self._busy and self._places.all_over:
                self._hub.finish()

    def _fail(self, error: Exception) -> None:
        """Carry out nothing more: the rest builds upon what failed."""
        self._failed = True
        for queue in self._queues:
            queue.clear()
        self._hub.fail(error)

    async def settled(self, index: int | None = None) -> None:
        """Wait until everything that a group (None: any) asked for so far is carried out."""
        busy = (
            list(self._busy.values()) if index is None else [self._busy[index]] if index in self._busy else []
        )
        if busy:
            await asyncio.wait(busy)

    @staticmethod
    def _is_slow(effect: do.Effect | _Save) -> bool:
        return isinstance(effect, _Save | do.Merge | do.Forget | do.Checkpoint)

    async def _wait_for(self, index: int, effect: do.Effect | _Save) -> None:
        match effect:
            case _Save(saved, place, phase):
                await self._store.save(saved)
                self._places.put(index, place, phase)
                if self._synchronous:
                    await self.release()
                self._tell_suspicions()
            case do.Merge(device):
                try:
                    await self._store.do(self._store.shared.merge, index, effect)
                except UpdateRefused as error:
                    if (to := self._hub.connection(device)) is not None:
                        self._hub.refuse(to.device.name, str(error))
            case do.Forget(generation, boundary):
                await self._store.forget_snapshots(index, generation, boundary)
            case do.Checkpoint(epoch) if self._each:
                if not self._hold_back(index, effect, None):
                    await self._checkpoint(index, epoch)
            case do.Checkpoint(epoch):
                self._ended.add(epoch)
                due = max(filter(self._places.ended, self._ended), default=-1)
                if due >= max(self._checkpointed, 0):
                    self._ended = {each for each in self._ended if each > due}
                    self._checkpointed = due
                    await self._checkpoint(index, due)

    def _do(self, index: int, effect: do.Effect | _Save, to: Attached | None) -> None:
        shared = self._store.shared
        match effect:
            case do.Record(event, fields):
                self._hub.record(index, event, fields)
            case do.Contribute():
                self._hub.contribute(index, effect)
            case do.Choose():
                self._hub.choose(index)
            case _ if to is None:
                pass
            case do.Send(_, frame):
                self._hub.send(to, frame)
            case do.SendGlobal(_, generation, neurons, chosen):
                model = self._store.chosen if chosen else None
                if chosen or not self._hold_back(index, effect, to):
                    self._hub.stream(
                        to, generation, lambda: _global(shared.parts(neurons, model), generation)
                    )
            case do.SendPatch(_, generation, neurons, whole):
                if not self._hold_back(index, effect, to):
                    self._hub.stream(
                        to,
                        generation,
                        lambda: _patch(shared.patch(generation, neurons, whole=whole), generation),
                    )
            case do.SendSnapshot(_, generation, boundary, piece, keys_only):
                self._hub.stream(
                    to,
                    self._groups[index].generation,
                    lambda: self._store.load_snapshot(
                        index, generation, boundary, piece, keys_only=keys_only
                    ),
                )

    async def _checkpoint(self, index: int, epoch: int) -> None:
        def take() -> None:
            self._on_checkpoint(index, epoch, self._store.shared.model())

        await self._store.do(take)

    def _hold_back(self, index: int, effect: do.Effect, to: Attached | None) -> bool:
        """Return whether a group has to wait for others, which have not shared what it has."""
        reached = self._places.reached if self._synchronous else None
        if reached is None or reached >= self._places[index]:
            return False
        self._held_back.append((index, effect, to))
        return True

    async def release(self) -> None:
        """Let into the global model, where groups wait for each other, what all have shared; and go on with
        who waited for it.
        """
        await self._store.release(self._places.reached)
        waiting, self._held_back = self._held_back, []
        for index, effect, to in waiting:
            self._queues[index].append((effect, to))
        for index in {index for index, _, _ in waiting}:
            if index not in self._busy:
                self._go_on(index)

    def _tell_suspicions(self) -> None:
        for found in self._store.take_suspicions():
            fields = {"by": found.by, "value": found.value, "median": found.median}
            self._hub.record(found.group, "suspicious", fields)


def _global(parts: Iterator[pb.StatePart], generation: int) -> Iterator[pb.Frame]:
    for part in parts:
        yield pb.Frame(global_state=pb.GlobalState(generation=generation, part=part))


def _patch(updates: Iterator[bytes], generation: int) -> Iterator[pb.Frame]:
    for update in updates:
        yield pb.Frame(patch=pb.Patch(generation=generation, update=update))
    yield pb.Frame(patch=pb.Patch(generation=generation, last=True))
