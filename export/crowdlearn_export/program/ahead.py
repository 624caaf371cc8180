"""Compiling methods ahead, in several processes where there are processors and memory for them.

A helper is a Python process of its own: it is sent the task once, then the numbers of methods, one at a time,
and leaves what it compiled in the folder of methods. What a helper cannot do, whatever the reason, is left to
the process that started it, which fails, if it must, with the error itself.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import IO, Any

from crowdlearn_device.optimizers.base import Optimizer
from crowdlearn_device.program.manifest import Backend

from crowdlearn_export.errors import ExportError
from crowdlearn_export.graph.neuron_graph import NeuronGraph
from crowdlearn_export.losses.base import Loss
from crowdlearn_export.losses.registry import CROSS_ENTROPY
from crowdlearn_export.stages.piece_stages import piece_stages
from crowdlearn_export.stages.stage import Stage

from .backends import OTHER, near_border
from .methods import Methods

LEAST = 16
"""Methods for which a helper pays: it takes seconds to start."""
HELPER_BYTES = 800_000_000
"""Memory that must be free for each helper."""

OnMethod = Callable[[int, int], None]
"""Called with the number of methods that are compiled, and that are to be."""
Job = tuple[int, Backend | None]
"""The number of a stage of the task, and the backend, None for the one that its size suggests."""


@dataclass(frozen=True)
class Task:
    """The methods of pieces of several shapes of a network."""

    graph: NeuronGraph
    shapes: tuple[tuple[int, ...], ...]
    optimizer: Optimizer
    methods: Methods
    loss: Loss = CROSS_ENTROPY
    private: bool = False

    def stages(self) -> list[Stage]:
        """Return one stage of each kind, always in the same order."""
        of = [
            stage
            for owned in self.shapes
            for stage in piece_stages(self.graph, owned, self.optimizer, self.loss, private=self.private)
        ]
        return list({stage.kind: stage for stage in reversed(of)}.values())


def ignored(done: int, of: int) -> None:
    """Drop a report of how far compiling is."""


def compile_ahead(task: Task, on_method: OnMethod = ignored, *, either: bool = False) -> None:
    """Compile every method of the task that is not kept yet; if `either`, those that both backends may be
    sensible for with both.

    Raises LoweringError for an operation that no phone can run correctly.
    """
    stages = task.stages()
    first: list[Job] = [(i, None) for i, stage in enumerate(stages) if task.methods.kept(stage) is None]
    _compile(task, stages, first, on_method)
    if either:
        _compile(task, stages, _others(task, stages), on_method)


def _others(task: Task, stages: Sequence[Stage]) -> list[Job]:
    """Return the methods that the other backend may be sensible for as well, and were not compiled for it
    yet.
    """
    jobs: list[Job] = []
    for i, stage in enumerate(stages):
        suggested = task.methods.compiled(stage)
        if near_border(suggested.multiplications):
            other = OTHER[suggested.backend]
            jobs += [(i, other)] if task.methods.kept(stage, other) is None else []
    return jobs


def _compile(task: Task, stages: Sequence[Stage], jobs: Sequence[Job], on_method: OnMethod) -> None:
    waiting = deque(jobs)
    if jobs:
        on_method(0, len(jobs))
    with contextlib.ExitStack() as stack:
        helpers = [stack.enter_context(_Helper(task, waiting)) for _ in range(_helpers(len(jobs)))]
        with contextlib.suppress(IndexError):
            while True:
                index, backend = waiting.popleft()
                task.methods.compiled(stages[index], backend)
                if waiting:
                    on_method(len(jobs) - len(waiting), len(jobs))
        for helper in helpers:
            helper.finish()
    if jobs:
        on_method(len(jobs), len(jobs))


class _Helper(Thread):
    """A thread that hands jobs to a process of its own, until none is left or the process fails."""

    def __init__(self, task: Task, waiting: deque[Job]) -> None:
        super().__init__(daemon=True)
        self._task, self._waiting, self._busy = task, waiting, False
        # -P: a user's folder must not shadow the packages that the helper imports.
        self._process: subprocess.Popen[bytes] = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def __enter__(self) -> _Helper:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self.join()

    def finish(self) -> None:
        """Wait for the last job, but not for a process that still starts: no job is left for it."""
        if not self._busy:
            self._process.kill()
        self.join()

    def run(self) -> None:
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(OSError, IndexError, EOFError, pickle.PickleError), process:
            pickle.dump(self._task, process.stdin)
            process.stdin.flush()
            if pickle.load(process.stdout) is not True:  # until then it only starts
                return
            while True:
                job = self._waiting.popleft()
                self._busy = True
                pickle.dump(job, process.stdin)
                process.stdin.flush()
                pickle.load(process.stdout)


def _helpers(jobs: int) -> int:
    """Return how many helpers pay for so many jobs, and fit in the processors and the memory that are
    free.
    """
    fitting = _free_bytes() // HELPER_BYTES
    return min(len(os.sched_getaffinity(0)) - 1, jobs // LEAST, fitting) if fitting else 0


def _free_bytes() -> int:
    """Return memory that can be taken: what the system tells, and what the control group leaves; else
    none.
    """
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return 0
    with contextlib.suppress(OSError, ValueError):
        group = Path("/sys/fs/cgroup")
        most, taken = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
        free = min(free, most - taken)
    return free


def main() -> None:
    """Compile the methods of the task on standard input whose numbers follow it, and answer each on standard
    output.
    """
    given: IO[bytes] = sys.stdin.buffer
    with os.fdopen(os.dup(1), "wb") as answers:
        os.dup2(2, 1)  # what libraries print is no answer
        task: Task = pickle.load(given)
        stages = task.stages()
        answer: Any = True
        while True:
            pickle.dump(answer, answers)
            answers.flush()
            try:
                index, backend = pickle.load(given)
            except EOFError:
                return
            with contextlib.suppress(ExportError, RuntimeError):
                task.methods.compiled(stages[index], backend)


if __name__ == "__main__":
    main()
