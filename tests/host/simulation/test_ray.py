"""On a Ray cluster of two nodes a run gives the same bits, even where a worker is killed."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import psutil
import pytest
from crowdlearn_host.simulation.engine import run, start
from crowdlearn_host.simulation.learners.workload import Pass
from crowdlearn_host.simulation.setting import Setting
from crowdlearn_host.simulation.tasks import GroupTask
from crowdlearn_host.simulation.workers import InProcess, RayTasks

ray = pytest.importorskip("ray", reason="ray is not installed (crowdlearn[ray])")


def test_two_nodes_give_the_same_bits_as_one_process(cluster: object, crowd: Callable[..., Setting]) -> None:
    setting = crowd()
    assert len(ray.nodes()) == 2
    with RayTasks(setting.workload) as workers:
        state = run(setting, workers)
    np.testing.assert_array_equal(state.weights, run(setting, InProcess(setting.workload)).weights)


def test_a_worker_killed_at_work_changes_nothing(cluster: object, crowd: Callable[..., Setting]) -> None:
    setting = crowd()
    initial = start(setting)
    task = GroupTask(tuple(Pass(d, 0) for d in range(12)) * 60, initial.weights[0], initial.slots[0], 0.01)
    with RayTasks(setting.workload) as workers, ThreadPoolExecutor(1) as thread:
        running = thread.submit(lambda: list(workers.each([task, task])))
        killed = 0
        while not killed and not running.done():
            for process in at_work():
                process.kill()
                killed += 1
        results = running.result()
    assert killed
    expected = next(InProcess(setting.workload).each([task]))
    for result in results:
        np.testing.assert_array_equal(result.weights, expected.weights)


def at_work() -> list[psutil.Process]:
    """This test's Ray processes that train a group now."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if "ray::_train_once" in " ".join(process.cmdline()):
                found.append(process)
    return found
