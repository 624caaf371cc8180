"""What waits for the disk, or computes for long, in one thread beside the relay's loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from typing import Any, ParamSpec, TypeVar

import numpy as np
from crowdlearn_device.privacy.aggregation.fixed_point import Words
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.frames import Floats
from numpy.typing import NDArray

from crowdlearn_host.coordinator.group.effects import Commit
from crowdlearn_host.coordinator.group.restore_points import Place
from crowdlearn_host.methods.slicenet.audit import Suspicion

from .run_folder import SUMS, RunFolder, line
from .shared_model import SharedModel

P = ParamSpec("P")
T = TypeVar("T")

LOG_SECONDS = 0.25
"""The longest time that a line of a log waits for others."""


@dataclass(frozen=True)
class Saved:
    """A group as it is to be on disk, with the traffic of its devices, and the round that it closes."""

    group: int
    state: Mapping[str, Any]
    traffic: Sequence[Mapping[str, str | int]]
    commit: Commit | None = None


class Store:
    """A run's folder and its shared model, which one thread alone touches: what is asked of it is done in
    that order. Groups that are to be saved at the same time share a transaction.

    Rounds enter the window with the group that shared them, unless `synchronous`: then `release` lets them.
    """

    def __init__(self, folder: RunFolder, shared: SharedModel, *, synchronous: bool) -> None:
        self.shared = shared
        self.chosen: Mapping[str, Floats] | None = None
        """The model that validation chose, once it has."""
        self._folder = folder
        self._synchronous = synchronous
        self._pool = ThreadPoolExecutor(1, "crowdlearn-store")
        self._lock = Lock()
        self._saving: list[Saved] = []
        self._saved: asyncio.Future[None] | None = None
        self._suspicions: list[Suspicion] = []
        self._metrics: list[tuple[float, Mapping[str, Any]]] = []
        self._events: list[bytes] = []
        self._logging: asyncio.TimerHandle | None = None
        self._ending = False
        folder.open_shared(shared)

    async def close(self) -> None:
        """Do what was asked for; from now on logs are written at once, for nothing is relayed any more."""
        self._ending = True
        if self._logging is not None:
            self._logging.cancel()
        await self.do(self._write_logs)

    async def do(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return the result of `work`, done in the thread; it raises what that raises."""
        return await asyncio.wrap_future(self._pool.submit(work, *args, **kwargs))

    async def save(self, saved: Saved) -> None:
        """Save all of it: it is on disk when this returns, and what it commits is in the shared model."""
        with self._lock:
            self._saving.append(saved)
            if self._saved is None:
                self._saved = asyncio.wrap_future(self._pool.submit(self._save))
            done = self._saved
        await asyncio.shield(done)

    def _save(self) -> None:
        with self._lock:
            batch, self._saving, self._saved = self._saving, [], None
        records = [record for saved in batch for record in self._closed(saved)]
        if not self._synchronous:
            records += self.shared.entering(records)
        self._write_logs()
        groups = {saved.group: saved.state for saved in batch}
        self._folder.save(groups, [row for saved in batch for row in saved.traffic], records)
        self._judge(records)
        self._take_in(records)

    def _closed(self, saved: Saved) -> list[bytes]:
        commit = saved.commit
        return self.shared.close(saved.group, commit.generation, commit.place) if commit else []

    def _take_in(self, records: Sequence[bytes]) -> None:
        for record in records:
            self.shared.take_in(record)
        if records:
            self._folder.compact(self.shared)

    async def release(self, reached: Place | None) -> None:
        """Let rounds that began before `reached` (None: all) enter the window."""
        await self.do(self._release, reached)

    def _release(self, reached: Place | None) -> None:
        if records := self.shared.entering(reached=reached):
            self._folder.save({}, records=records)
            self._judge(records)
            self._take_in(records)

    def _judge(self, records: Sequence[bytes]) -> None:
        found = self.shared.judge(records)
        with self._lock:
            self._suspicions += found

    def take_suspicions(self) -> list[Suspicion]:
        """Return what the audit of uploads found suspicious, once."""
        with self._lock:
            found, self._suspicions = self._suspicions, []
        return found

    async def keep_sum(self, state: Mapping[str, Any], total: Words | None) -> None:
        """Keep all of a run's secure sums: it is on disk when this returns. `total` is that of the attempt
        under way, uint32 [n].
        """
        await self.do(self._folder.save_sum, state, total)

    async def release_sum(
        self, state: Mapping[str, Any], place: Place, positions: NDArray[np.int64], mean: Callable[[], Floats]
    ) -> None:
        """Release the mean of a secure sum, float32 [n], at these positions, int64 [n]. When this returns it
        is in the shared model, and on disk together with `state`. Raises AggregationError if it cannot be
        unmasked.
        """

        def release() -> None:
            records = self.shared.summed(int(state["number"]) - 1, place, positions, mean())
            self._folder.save({SUMS: state}, records=records)
            self._take_in(records)

        await self.do(release)

    async def save_snapshot(self, group: int, part: pb.Snapshot) -> frozenset[int] | None:
        """Save a part as Snapshots.save does."""
        return await self.do(self._folder.save_snapshot, group, part, self.shared.state_bytes)

    async def forget_snapshots(self, group: int, generation: int, boundary: int) -> None:
        await self.do(self._folder.forget_snapshots, group, generation, boundary)

    def load_snapshot(
        self, group: int, generation: int, boundary: int, piece: int, *, keys_only: bool = False
    ) -> Iterator[pb.Frame]:
        """Return a stored snapshot's parts, as a device is sent them, to be iterated in this thread; with
        `keys_only` its first without content.
        """
        for part in self._folder.load_snapshot(group, generation, boundary, piece):
            if keys_only:
                part.ClearField("sealed")
            yield pb.Frame(snapshot=part)
            if keys_only:
                return

    def log(self, event: str, fields: Mapping[str, Any], on_error: Callable[[Exception], None]) -> None:
        """Have a line in the run's logs soon: on disk before anything that is saved after it."""
        with self._lock:
            if event == "progress":  # after every mini-batch: the thread makes lines of them
                self._metrics.append((time.time(), fields))
            else:
                self._events.append(line({"event": event, **fields}))
        if self._ending:
            self._write_logs()
        elif self._logging is None:
            later = asyncio.get_running_loop().call_later
            self._logging = later(LOG_SECONDS, self._start_logging, on_error)

    def _start_logging(self, on_error: Callable[[Exception], None]) -> None:
        def done(written: asyncio.Future[None]) -> None:
            if not written.cancelled() and isinstance(error := written.exception(), Exception):
                on_error(error)

        self._logging = None
        asyncio.wrap_future(self._pool.submit(self._write_logs)).add_done_callback(done)

    def _write_logs(self) -> None:
        with self._lock:
            metrics, self._metrics = self._metrics, []
            events, self._events = self._events, []
        self._folder.log(b"".join(line(fields, at) for at, fields in metrics), b"".join(events))
