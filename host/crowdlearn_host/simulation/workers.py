"""Who trains the groups: this process, several, or a Ray cluster; the results are the same."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from itertools import count
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, TypeVar, cast

import numpy as np
import torch
from crowdlearn_device.platform.files import naming
from crowdlearn_device.protocol.frames import Floats
from threadpoolctl import ThreadpoolController

from crowdlearn_host.errors import TrainingError
from crowdlearn_host.simulation.learners.dense_learner import DenseLearner
from crowdlearn_host.simulation.learners.group import GroupModel, warm_up
from crowdlearn_host.simulation.learners.workload import Workload

from . import mapped
from .mapped import Packed
from .tasks import Task

AHEAD = 4
"""Results a worker that may wait for an earlier one: each is as large as a model."""
ATTEMPTS = 3
"""The tries of a task whose workers die before the run fails."""
WORKLOAD = "workload"
"""The file that processes map theirs from."""
LARGE = 1 << 17
"""Bytes of a result that goes through a file: a pipe takes milliseconds for a model."""
Outcome = TypeVar("Outcome")


@dataclass(frozen=True)
class Kept:
    """A task whose weights lie in a file, which all tasks of a batch have in common."""

    task: Task[object]
    path: Path


@dataclass(frozen=True)
class InFile:
    """A result that lies in a file, for its arrays are large."""

    path: Path


class Workers(Protocol):
    """The workers that train and evaluate side by side. Close it when done; it is its own context manager."""

    def each(self, tasks: Sequence[Task[Outcome]]) -> Iterator[Outcome]:
        """Yield the results in the order of the tasks, few of them ahead of the caller.

        Raises TrainingError if a task fails.
        """
        ...

    def warm(self) -> None:
        """Wait until all that is loaded or compiled once is: it belongs to no round."""
        ...

    def __enter__(self) -> Workers: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class InProcess:
    """The worker that trains one group after the other, in this process."""

    def __init__(self, workload: Workload) -> None:
        self._workload = DenseLearner.prepared(workload)
        self._model = GroupModel(self._workload)

    def each(self, tasks: Sequence[Task[Outcome]]) -> Iterator[Outcome]:
        for task in tasks:
            try:
                with one_thread():
                    outcome = task.run(self._model)
            except Exception as error:  # as in the other workers: a user's model may raise anything
                raise TrainingError(f"a group could not train: {error}") from error
            yield outcome

    def warm(self) -> None:
        with one_thread(), suppress(Exception):  # what fails here fails in the first round, and is told there
            warm_up(self._workload)

    def __enter__(self) -> InProcess:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class Processes:
    """The workers that train groups in processes of one thread each; one that dies is replaced and its task
    repeated.
    """

    def __init__(self, workload: Workload, count: int) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="crowdlearn-")
        folder = Path(self._folder.name)
        with naming(folder):
            Packed(DenseLearner.prepared(workload)).write(folder / WORKLOAD)
        self._context = multiprocessing.get_context("spawn")
        self._workers: dict[Connection, BaseProcess] = {}
        self._starting: set[Connection] = set()
        self._died = self._batches = 0
        self._common: tuple[Floats, Path] | None = None
        """Weights in common that lie in a file: those that are tested are trained next."""
        for _ in range(count):
            self._start()

    @property
    def pids(self) -> list[int]:
        """Return the processes' ids."""
        return [cast(int, process.pid) for process in self._workers.values()]

    def _start(self) -> None:
        here, there = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(there, self._folder.name), daemon=True)
        process.start()
        there.close()
        self._workers[here] = process
        self._starting.add(here)

    def warm(self) -> None:
        while self._starting:
            for ready in wait(list(self._starting)):
                self._has_started(cast("Connection", ready))

    def _has_started(self, connection: Connection) -> None:
        """Take the word of a new worker that it is ready, or replace it. Raises TrainingError if that does
        not help.
        """
        self._starting.discard(connection)
        try:
            connection.recv()
            self._died = 0
        except (EOFError, OSError) as error:
            self._died += 1
            self._replace(connection)
            if self._died == ATTEMPTS * len(self._workers):
                raise TrainingError(
                    "worker processes die as they start; is there memory for them?"
                ) from error

    def each(self, tasks: Sequence[Task[Outcome]]) -> Iterator[Outcome]:
        sent = self._kept(tasks)
        yield from self._results(tasks if sent is None else sent)

    def _kept(self, tasks: Sequence[Task[Outcome]]) -> list[Kept] | None:
        """Return the tasks with the weights that are common to them in a file: a pipe takes milliseconds for
        each copy. None if they have none in common, or there is no room for them.
        """
        weights = getattr(tasks[0], "weights", None) if len(tasks) > 1 else None
        if weights is None or any(getattr(task, "weights", None) is not weights for task in tasks):
            return None
        if self._common is None or not np.array_equal(self._common[0], weights):
            self._forget()
            self._batches += 1
            path = Path(self._folder.name) / f"weights-{self._batches}"
            try:
                Packed(weights).write(path)
            except OSError:
                path.unlink(missing_ok=True)
                return None
            self._common = mapped.read(path), path
        return [Kept(replace(cast(Any, task), weights=None), self._common[1]) for task in tasks]

    def _forget(self) -> None:
        """Remove the file of weights in common."""
        if self._common is not None:
            self._common[1].unlink(missing_ok=True)
        self._common = None

    def _results(self, tasks: Sequence[Any]) -> Iterator[Any]:
        results: dict[int, Any] = {}
        waiting = list(reversed(range(len(tasks))))
        attempts = [0] * len(tasks)
        busy: dict[Connection, int] = {}

        def hand_out(due: int) -> None:
            for connection in list(self._workers):
                free = connection not in busy and connection not in self._starting
                if free and waiting and waiting[-1] < due + AHEAD * len(self._workers):
                    busy[connection] = waiting.pop()
                    self._send(connection, tasks[busy[connection]])

        for due in range(len(tasks)):
            while due not in results:
                hand_out(due)
                for ready in wait([*busy, *self._starting]):
                    connection = cast("Connection", ready)
                    if connection in self._starting:
                        self._has_started(connection)
                        continue
                    number = busy.pop(connection)
                    try:
                        outcome = connection.recv()
                    except (EOFError, OSError) as error:
                        attempts[number] += 1
                        self._replace(connection)
                        if attempts[number] == ATTEMPTS:
                            raise TrainingError(
                                f"{ATTEMPTS} worker processes died on one group; is there memory for them?"
                            ) from error
                        waiting.append(number)
                        continue
                    if isinstance(outcome, Exception):
                        raise TrainingError(f"a group could not train: {outcome}") from outcome
                    if isinstance(outcome, InFile):
                        outcome, path = mapped.read(outcome.path), outcome.path
                        path.unlink()
                    results[number] = outcome
            hand_out(due)  # before the caller takes its time over the result
            yield results.pop(due)

    def _send(self, connection: Connection, task: Task[object] | Kept) -> None:
        with suppress(OSError):  # a dead worker's connection is ready at once, and its reader replaces it
            connection.send(task)

    def _replace(self, connection: Connection) -> None:
        self._workers.pop(connection).join()
        connection.close()
        self._start()

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        for connection, process in self._workers.items():
            process.terminate()
            process.join()
            connection.close()
        self._folder.cleanup()


class RayTasks:
    """The workers that train groups as tasks of a Ray cluster, which repeats those whose worker or node it
    loses.
    """

    def __init__(self, workload: Workload) -> None:
        try:
            import ray
        except ImportError as error:
            raise TrainingError(
                "ray is not installed; install crowdlearn[ray] or use --engine local"
            ) from error
        if not ray.is_initialized():
            ray.init(log_to_driver=False)
        self._ray = ray
        self._workload = ray.put(DenseLearner.prepared(workload))
        self._train = ray.remote(num_cpus=1, max_retries=ATTEMPTS)(_train_once)

    def each(self, tasks: Sequence[Task[Outcome]]) -> Iterator[Outcome]:
        futures = [self._train.remote(self._workload, task) for task in tasks][::-1]
        try:
            while futures:
                yield cast("Outcome", self._ray.get(futures.pop()))
        except self._ray.exceptions.RayError as error:
            raise TrainingError(f"the Ray cluster could not train a group: {error}") from error

    def warm(self) -> None:
        pass  # tasks run wherever the cluster likes

    def __enter__(self) -> RayTasks:
        return self

    def __exit__(self, *_: object) -> None:
        del self._workload


def _train_once(workload: Workload, task: Task[Outcome]) -> Outcome:
    with one_thread():
        return task.run(GroupModel(workload))


@contextmanager
def one_thread() -> Iterator[None]:
    """Yield products on one thread: groups run side by side, and sums do not depend on the machine's
    cores.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with _threads().limit(limits=1, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(before)


@cache
def _threads() -> ThreadpoolController:
    """Return the limits of the libraries that are loaded, which takes milliseconds to find out."""
    return ThreadpoolController()


def _serve(connection: Connection, folder: str) -> None:
    """Run a worker process: train the tasks that come until the connection closes."""
    with one_thread():
        try:
            workload: Workload = mapped.read(Path(folder) / WORKLOAD)
            model = GroupModel(workload)
            with suppress(Exception):  # what fails here fails in the first round, and is told there
                warm_up(workload)
            connection.send(None)
            kept: tuple[Path, Floats] | None = None
            for number in count():
                task: Task[object] | Kept = connection.recv()
                try:
                    if isinstance(task, Kept):
                        if kept is None or kept[0] != task.path:
                            kept = task.path, mapped.read(task.path)
                            kept[1].flags.writeable = False
                        task = cast("Task[object]", replace(cast(Any, task.task), weights=kept[1]))
                    result = task.run(model)
                    path = Path(folder) / f"result-{os.getpid()}-{number}"
                    connection.send(_through_file(result, path))
                except Exception as error:
                    connection.send(error)
        except (EOFError, OSError, KeyboardInterrupt):
            return


def _through_file(result: object, path: Path) -> object:
    """Return the result, or where it lies if it is large and there is room for it."""
    packed = Packed(result)
    if packed.nbytes >= LARGE:
        try:
            packed.write(path)
        except OSError:
            path.unlink(missing_ok=True)
        else:
            return InFile(path)
    return result
