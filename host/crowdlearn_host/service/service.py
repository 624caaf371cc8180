"""The service itself: it gives runs of the queue the devices that are there, and keeps them going."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crowdlearn_device.platform.files import write_atomically

from crowdlearn_host.common.files import locked
from crowdlearn_host.errors import ConfigError, HostError, RunError
from crowdlearn_host.spec.run_spec import RunSpec

from .cohort import Cohort
from .description import cohort_of, for_devices, named, spec_of
from .jobs import Job, Jobs
from .pace import Pace
from .process import RunProcess
from .reception import MOST_WAITING, Reception, Visitor
from .selection.base import Candidate
from .selection.registry import SELECTIONS
from .worker import FAILED, HELD_UP

LOOK_SECONDS = 1.0
"""The seconds between two looks at the queue, which other processes add to."""
LOOKS_PART = 4
"""After a look so many times as long as it took pass before the next: all of them take a fifth of a core."""
ENROLLED_SECONDS = 5.0
MOST_TRIES = 5
"""The most tries of a run whose process ends without a reason."""
FIRST_PAUSE = 2.0
"""Seconds before that; twice as long each time."""
HELD_UP_SECONDS = 30.0
"""The seconds before a run goes on whose disk was full, or whose folder another process had."""

log = logging.getLogger("crowdlearn.service")


@dataclass(frozen=True)
class Asked:
    """A run as it is described, and the names of the devices that may take part; None if all may."""

    spec: RunSpec
    devices: frozenset[str] | None


class Service:
    """A service in `folder`: at most `at_once` runs side by side. `home` holds certificate and enrolments."""

    def __init__(
        self,
        folder: Path,
        home: Path,
        *,
        at_once: int = 2,
        most_waiting: int = MOST_WAITING,
        lots: random.Random | None = None,
    ) -> None:
        self.folder, self.at_once = folder, at_once
        self.jobs = Jobs(folder)
        self.lots = lots or random.Random()
        self.pace = Pace(self.lots)
        self._changed, self._closing = asyncio.Event(), asyncio.Event()
        self.reception = Reception(home, self.pace, self._changed.set, most_waiting, self._belongs)
        self.running: dict[int, RunProcess] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._sending: set[asyncio.Task[None]] = set()
        self._enough_since: dict[int, float] = {}
        """The time since when enough devices have been here, by run."""
        self._host = ""
        self.port = 0

    @asynccontextmanager
    async def open(self, listen: str) -> AsyncIterator[int]:
        """Let devices arrive at `listen` (HOST:PORT) while the context lasts; gives the port. Runs that a
        service of this folder had under way go on. Raises RunError if another service uses the folder.
        """
        async with AsyncExitStack() as stack:
            stack.enter_context(locked(self.folder))
            stack.enter_context(self.jobs.held())
            self._host = listen.rpartition(":")[0]
            self.port = await stack.enter_async_context(self.reception.open(listen))
            for job in self.jobs.all("running"):
                log.info("run %s goes on", job.label)
                self._start(job)
            looking = asyncio.create_task(self._look())
            try:
                yield self.port
            finally:
                self._closing.set()
                looking.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await looking
                await asyncio.gather(*(process.stop() for process in self.running.values()))
                await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def _belongs(self, device: str) -> bool:
        """Return whether a run under way needs a device."""
        try:
            return self.jobs.needs(self.running, device)
        except RunError as error:
            log.error("%s", error)
            return True

    async def _look(self) -> None:
        """Do what there is to do, whenever something has changed, and now and then. With many devices a look
        takes its time: then they are fewer.
        """
        checked, told = time.monotonic(), ""
        while True:
            self._changed.clear()
            began = time.monotonic()
            try:
                self._follow()
                self._send_members()
                self._begin_runs()
                if time.monotonic() - checked >= ENROLLED_SECONDS:
                    checked = time.monotonic()
                    self.reception.check_enrolled()
                told = ""
            except (HostError, OSError) as error:  # a full disk, a damaged file: what runs goes on
                if str(error) != told:
                    told = str(error)
                    log.error("%s", error)
            except Exception:
                log.exception("the queue could not be looked at; report it with this log")
            took = time.monotonic() - began
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):  # wait_for may swallow a cancellation
                    await self._changed.wait()
            await asyncio.sleep(min(LOOKS_PART * took, LOOK_SECONDS))

    def _follow(self) -> None:
        """End runs that their users cancelled, and start those again whose processes have ended."""
        going = {job.id: job for job in self.jobs.all("running")}
        for number, process in self.running.items():
            if number not in going:
                self._later(process.stop())
        for number, job in going.items():
            if number not in self.running:
                self._start(job)

    def _send_members(self) -> None:
        """Send devices to their runs, as far as those listen."""
        for number, process in self.running.items():
            if not process.port:
                continue
            wanted = self.jobs.members(number)
            here = [
                visitor for name, wants in wanted.items() if wants and (visitor := self.reception.here(name))
            ]
            left = process.job.seats - len(wanted)
            asked = self._asked(process.job) if left > 0 else None
            if asked is not None and (more := self._chosen(asked, left)):
                self.jobs.choose(number, [visitor.name for visitor in more])
                here += more
            for visitor in here:
                self._later(visitor.go_to(process.port))

    def _later(self, doing: Any) -> None:
        task = asyncio.ensure_future(doing)
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    def _free(self) -> list[Visitor]:
        """Return devices that wait and belong to no run under way."""
        taken: set[str] = set()
        for number in self.running:
            taken |= {name for name, wants in self.jobs.members(number).items() if wants}
        waiting = (self.reception.here(name) for name in self.reception.waiting if name not in taken)
        return [visitor for visitor in waiting if visitor is not None]

    def _asked(self, job: Job) -> Asked | None:
        """Return the description of a run; None if it, or its fleet, cannot be read any more. Then it has
        failed, unless it is under way: that goes on with the devices that it has.
        """
        try:
            spec = spec_of(job)
            return Asked(spec, named(spec))
        except ConfigError as error:
            if job.state == "waiting":
                self.jobs.end(job.id, "failed", str(error))
                log.error("run %s failed: %s", job.label, error)
            return None

    def _chosen(self, asked: Asked, most: int, kept: frozenset[str] = frozenset()) -> list[Visitor]:
        """Return at most so many devices for a run, without those `kept` for others."""
        selection = SELECTIONS[asked.spec.crowd.selection](self.lots)
        free = {
            visitor.name: visitor
            for visitor in self._free()
            if visitor.name not in kept and (asked.devices is None or visitor.name in asked.devices)
        }
        chosen = selection.choose(self._candidates(list(free.values())), most)
        return [free[each.name] for each in chosen]

    def _candidates(self, visitors: Sequence[Visitor]) -> list[Candidate]:
        known, now, clock = self.jobs.chosen(), time.time(), time.monotonic()
        candidates = []
        for each in visitors:
            last, runs = known.get(each.name, (-math.inf, 0))
            rested = max(0.0, now - last)
            candidates.append(
                Candidate(each.name, each.samples, each.state, clock - each.since, rested, runs)
            )
        return candidates

    def _begin_runs(self) -> None:
        """Begin runs that have their devices, those of high priority first. A run that waits for a few more
        keeps what it could have from those below it.
        """
        kept: frozenset[str] = frozenset()
        for job in self.jobs.all("waiting"):
            if len(self.running) >= self.at_once:
                return
            asked = self._asked(job)
            if asked is None:
                continue
            cohort = cohort_of(asked.spec)
            chosen = self._chosen(asked, cohort.seats, kept)
            enough = len(chosen) >= cohort.fewest
            since = self._enough_since.setdefault(job.id, time.monotonic()) if enough else time.monotonic()
            if not enough:
                self._enough_since.pop(job.id, None)
            elif cohort.begins(len(chosen), time.monotonic() - since):
                self._enough_since.pop(job.id, None)
                self._begin(job, asked.spec, cohort, [visitor.name for visitor in chosen])
            else:
                kept |= {visitor.name for visitor in chosen}

    def _begin(self, job: Job, spec: RunSpec, cohort: Cohort, devices: Sequence[str]) -> None:
        groups = cohort.groups(len(devices))
        seats = groups * cohort.size if spec.crowd.fleet is None else len(devices)
        devices = devices[:seats]
        begun = for_devices(spec, seats, groups, f"{self._host}:0")
        self.jobs.begin(job, groups, devices, seats, begun.to_toml())
        log.info("run %s begins: %d devices in %d groups", job.label, len(devices), groups)
        self._start(self.jobs.job(job.id))

    def run_folder(self, job: Job) -> Path:
        """Return where a run is, or will be."""
        return self.folder / "runs" / job.label

    def _start(self, job: Job) -> None:
        description = self.folder / "descriptions" / f"{job.label}.toml"
        description.parent.mkdir(mode=0o700, exist_ok=True)
        (self.folder / "runs").mkdir(mode=0o700, exist_ok=True)
        write_atomically(description, job.description.encode(), private=True)
        devices = json.dumps(sorted(self.jobs.members(job.id)))
        write_atomically(description.with_suffix(".devices"), devices.encode(), private=True)
        process = self.running[job.id] = RunProcess(job, description, self.run_folder(job), self._reported)
        self._tasks[job.id] = asyncio.create_task(self._keep(process))

    async def _keep(self, process: RunProcess) -> None:
        """Have the process of a run go on until it has ended; `_follow` starts it again if the run has
        not.
        """
        job = process.job
        try:
            code = await process.run()
            if process.result is not None and code == 0:
                self.jobs.end(job.id, "done", _in_words(process.result))
                log.info("run %s is done: %s", job.label, _in_words(process.result))
            elif code == FAILED:
                self.jobs.end(job.id, "failed", process.why(code))
                log.error("run %s failed: %s", job.label, process.why(code))
            elif code == HELD_UP:
                log.error("run %s is held up: %s", job.label, process.why(code))
                await self._pause(HELD_UP_SECONDS)
            elif not process.stopping and not self._closing.is_set():
                tries = self.jobs.tried(job.id)
                log.warning("run %s: %s", job.label, process.why(code))
                if tries >= MOST_TRIES:
                    self.jobs.end(job.id, "failed", process.why(code))
                else:
                    await self._pause(FIRST_PAUSE * 2 ** (tries - 1))
        except (HostError, OSError) as error:  # no process can be started, or nothing can be written
            log.error("run %s: %s", job.label, error)
            await self._pause(FIRST_PAUSE)
        except Exception:
            log.exception("run %s cannot be followed; report it with this log", job.label)
            await self._pause(FIRST_PAUSE)
        finally:
            del self.running[job.id], self._tasks[job.id]
            self._changed.set()

    async def _pause(self, seconds: float) -> None:
        """Wait, unless the service closes."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closing.wait()

    def _reported(self, job: Job, name: str, fields: dict[str, Any]) -> None:
        """Act on an event of a run."""
        if name == "let_go":
            self.jobs.let_go(job.id, str(fields["device"]))
        elif name != "progress":
            log.info("run %s: %s %s", job.label, name, fields)
        self._changed.set()


def _in_words(result: dict[str, Any]) -> str:
    accuracy = result.get("accuracy")
    return "no test data" if accuracy is None else f"test accuracy {accuracy:.4f}"
