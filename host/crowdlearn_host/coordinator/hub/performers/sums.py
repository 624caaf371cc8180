"""Effects of secure sums, carried out in order, and never by holding up the relay's loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from functools import partial

import numpy as np
from crowdlearn_device.privacy.aggregation.fixed_point import FixedPoint
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.frames import Floats
from crowdlearn_device.sharing.selection import CHUNK_WEIGHTS
from numpy.typing import NDArray

from crowdlearn_host.coordinator.group.effects import Contribute
from crowdlearn_host.coordinator.group.events import Stopped, Summed
from crowdlearn_host.coordinator.storage.shared_model import SharedModel
from crowdlearn_host.coordinator.storage.store import Store
from crowdlearn_host.coordinator.sums.effects import (
    Keep,
    Over,
    Release,
    SendReference,
    SendStep,
    Stop,
    SumEffect,
    Tell,
)
from crowdlearn_host.coordinator.sums.norms import ContradictedError
from crowdlearn_host.coordinator.sums.rounds import SecureRounds

from .base import HandleEvent, Hub, Together


class SumPerformer(Together):
    """The performer of the effects of secure sums, in their order."""

    body = "sum_step"

    def __init__(
        self, hub: Hub, rounds: SecureRounds, groups: int, store: Store, handle: HandleEvent
    ) -> None:
        self._hub, self._rounds, self._groups, self._store = hub, rounds, groups, store
        self._handle = handle
        self._queue: deque[SumEffect] = deque()
        self._busy: asyncio.Task[None] | None = None

    @property
    def owing(self) -> set[int]:
        """Return the devices that owe an answer."""
        return self._rounds.owing

    def joined(self, device: int) -> None:
        self._rounds.joined(device)
        self._perform()

    def left(self, device: int) -> None:
        self._rounds.left(device)
        self._perform()

    def answer(self, device: int, frame: pb.Frame) -> None:
        self._rounds.answer(device, frame.sum_step)
        self._perform()

    def tick(self, now: float) -> None:
        self._rounds.tick(now)
        self._perform()

    def ready(self, group: int, contribution: Contribute) -> None:
        """Let a group that has come to the end of a round share by a sum."""
        self._rounds.ready(group, contribution)
        self._perform()

    def _perform(self) -> None:
        """Carry out what is asked for, at once or in its turn."""
        self._queue.extend(self._rounds.effects)
        self._rounds.effects.clear()
        if self._queue and self._busy is None:
            self._busy = asyncio.get_running_loop().create_task(self._in_turn())

    async def settled(self) -> None:
        """Wait until everything that was asked for so far is carried out."""
        if self._busy is not None:
            await asyncio.wait([self._busy])

    async def _in_turn(self) -> None:
        try:
            while self._queue:
                await self._do(self._queue.popleft())
        except Exception as error:
            self._queue.clear()
            self._hub.fail(error)
        finally:
            self._busy = None

    async def _do(self, effect: SumEffect) -> None:
        match effect:
            case SendStep(device, step):
                if (to := self._hub.connection(device)) is not None:
                    self._hub.send(to, pb.Frame(sum_step=step))
            case SendReference(device, generation, attempt, positions):
                if (to := self._hub.connection(device)) is not None:
                    self._hub.stream(
                        to, generation, partial(references, self._store.shared, attempt, positions)
                    )
            case Tell(event, fields):
                self._hub.tell(event, fields)
            case Keep(state, attempt):
                await self._store.keep_sum(state, None if attempt is None else attempt.total)
            case Release(state=state, positions=positions, place=place):
                shared = self._store.shared
                try:
                    await self._store.release_sum(
                        state, place, positions, lambda: mean_of(effect, shared.window.average())
                    )
                except ContradictedError:
                    self._rounds.contradicted()
                else:
                    self._rounds.released()
                self._queue.extend(self._rounds.effects)
                self._rounds.effects.clear()
            case Over(group, place):
                self._handle(group, Summed(place))
            case Stop(reason):
                for index in range(self._groups):
                    self._handle(index, Stopped(reason))


def mean_of(release: Release, model: Floats) -> Floats:
    """Return the mean over the contributors of a sum that is released: float32 [n]. Moves are from `model`,
    the global one's weights, float32 [weights]. Raises ContradictedError if its projections are others than
    its devices sent.
    """
    attempt = release.attempt
    sum_ = attempt.unmask(release.revealed)
    if release.norms is not None:
        release.norms.check(sum_)
    mean: Floats = attempt.mean_of(sum_, FixedPoint(attempt.round.terms)).astype(np.float32)
    return mean + model[release.positions] if release.moved else mean


def references(shared: SharedModel, attempt: bytes, positions: NDArray[np.int64]) -> Iterator[pb.Frame]:
    """Yield the messages of the global model's weights at these positions, int64 [n]."""
    weights = shared.window.average()[positions]
    for start in range(0, len(weights), CHUNK_WEIGHTS):
        values = weights[start : start + CHUNK_WEIGHTS].astype("<f4").tobytes()
        yield pb.Frame(sum_step=pb.SumStep(attempt=attempt, reference=pb.SumReference(values=values)))
