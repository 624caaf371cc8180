"""This computer as a subject of measurement: the same programs, and PyTorch beside them."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from crowdlearn_device.energy.meters import METERS, readable
from crowdlearn_device.energy.readings import Provenance
from crowdlearn_device.energy.step_time import StepTime, measure_step
from crowdlearn_device.program.executor import ProgramStore

from .subject import Condition, Edge, Program, Subject


class ComputerSubject(Subject):
    """The computer that this runs on; programs run in this process, in a thread of their own."""

    name, model, virtual, has_radio = "this computer", "", False, False
    time_provenance, time_source = Provenance.MEASURED, "monotonic clock"

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def meet_meter(self) -> None:
        """Take the first of this device's own meters that can be read."""
        found, self.unread = await readable(METERS)
        await self.choose_meter(found)

    async def condition(self) -> Condition:
        return Condition()

    def runs(self, program: Program) -> bool:
        return True

    async def install(self, programs: list[Program]) -> None:
        for program in programs:
            for name, content in program.files.items():
                (self._folder / name).write_bytes(content)

    async def step(self, program: Program, seconds: float, begin: Edge, end: Edge) -> StepTime:
        loop = asyncio.get_running_loop()

        def work() -> StepTime:
            if program.eager is None:
                store = ProgramStore(self._folder)

                def rest() -> None:
                    asyncio.run_coroutine_threadsafe(begin(), loop).result()

                return measure_step(store, program.sha256, seconds, rest)
            program.eager()
            asyncio.run_coroutine_threadsafe(begin(), loop).result()
            steps, began = 0, time.monotonic()
            while steps == 0 or time.monotonic() - began < seconds:
                program.eager()
                steps += 1
            return StepTime(steps, program.batch, time.monotonic() - began)

        timed = await asyncio.to_thread(work)
        await end()
        return timed


@contextmanager
def computer_subject() -> Iterator[ComputerSubject]:
    """Yield this computer, with a folder for programs for the length of a block."""
    with tempfile.TemporaryDirectory() as folder:
        yield ComputerSubject(Path(folder))
