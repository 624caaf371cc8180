"""The app's programs in processes that Android isolates: its own classes and libraries on a Java VM, held by
Landlock.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from crowdlearn_device.app.programs import ISOLATED, OWN, Programs
from crowdlearn_device.app.status import Status
from crowdlearn_device.errors import ProgramError
from crowdlearn_device.platform.confinement import landlock_version
from crowdlearn_device.program.isolation.isolated import IsolatedExecutor
from crowdlearn_device.program.replay import replay_arrays

from benchmarks.android.app.isolated_process import ProgramProcess
from benchmarks.android.jvm import JavaVm, java_vm
from benchmarks.android.library import Missing
from benchmarks.android.programs import Program, programs

AGREEMENT = 1e-5


class Phone:
    """The part of the app's Java half that begins and ends processes for programs."""

    def __init__(self, classes: list[Path], vm: JavaVm) -> None:
        self.environment = vm.of_isolated()
        self._classes = ":".join(map(str, classes))
        self.processes: dict[int, ProgramProcess] = {}
        self.ended: list[int] = []

    def facts(self) -> str:
        return "{}"

    meters = facts

    def show(self, status: str) -> None: ...

    def program(self, descriptor: int) -> int:
        process = ProgramProcess(self._classes, self.environment, descriptor)
        self.processes[process.pid] = process
        return process.pid

    def endProgram(self, number: int) -> None:
        if (process := self.processes.pop(number, None)) is not None:
            self.ended.append(process.unbind())


@pytest.fixture(scope="module")
def vm(android_cache: Path) -> JavaVm:
    pytest.importorskip("jpype", reason="pip install jpype1")
    try:
        return java_vm(android_cache)
    except Missing as reason:
        pytest.skip(str(reason))


def load(phone: Phone, pte: bytes) -> IsolatedExecutor:
    status = Status()
    executor = Programs(phone, status).load(pte)
    assert isinstance(executor, IsolatedExecutor)
    assert status.programs == ISOLATED
    return executor


@pytest.fixture(scope="module")
def step() -> Program:
    return next(programs(["plain"]))


@pytest.fixture
def phone(app_classes: list[Path], vm: JavaVm, monkeypatch: pytest.MonkeyPatch) -> Iterator[Phone]:
    monkeypatch.delattr(os, "memfd_create")  # the Python of an app is built for Androids that have none
    phone = Phone(app_classes, vm)
    yield phone
    for number in list(phone.processes):
        phone.endProgram(number)


def test_a_step_computes_what_executorch_does(phone: Phone, step: Program) -> None:
    found = replay_arrays(load(phone, step.pte), step.inputs)
    assert set(found) == set(step.expected)
    for key, wanted in step.expected.items():
        largest = float(np.abs(wanted).max(initial=0)) or 1.0
        assert float(np.abs(found[key] - wanted).max(initial=0)) <= AGREEMENT * largest, key


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT])
def test_a_program_that_crashes_costs_its_process_and_the_next_run_has_another(
    phone: Phone, step: Program, number: int
) -> None:
    executor, given = load(phone, step.pte), step.inputs
    before = replay_arrays(executor, given)
    os.kill(executor.pid, number)
    phone.processes[executor.pid].wait()
    with pytest.raises(ProgramError, match="is damaged or malicious: it ended its process"):
        replay_arrays(executor, given)
    after = replay_arrays(executor, given)
    assert all(np.array_equal(before[key], after[key]) for key in before)
    assert phone.ended[0] in (-signal.SIGSEGV, -signal.SIGABRT)  # a Java VM ends so when it crashes


def test_a_process_ends_when_android_unbinds_it_whatever_its_program_does(
    phone: Phone, step: Program
) -> None:
    executor = load(phone, step.pte)
    phone.endProgram(executor.pid)
    assert phone.ended == [-signal.SIGKILL]


@pytest.mark.skipif(not landlock_version(), reason="this kernel has no Landlock to play isolation by")
def test_no_path_leads_to_the_program_but_that_of_its_descriptor(
    app_classes: list[Path], vm: JavaVm, phone: Phone, step: Program
) -> None:
    phone.environment = vm.environment  # without the library that opens descriptors
    with pytest.raises(ProgramError):
        load(phone, step.pte)


def test_what_no_library_loads_is_refused(phone: Phone) -> None:
    with pytest.raises(ProgramError):
        Programs(phone, Status()).load(bytes(4) + b"ET12" + bytes(200))


def test_where_android_isolates_nothing_or_its_owner_wants_it_so_they_run_in_the_app(step: Program) -> None:
    class Old:
        asked = 0

        def program(self, descriptor: int) -> int:
            self.asked += 1
            return 0

    old, status = Old(), Status()
    pte = step.pte
    for isolated_wanted, asked in ((True, 1), (False, 1)):
        Programs(old, status, isolated=isolated_wanted).load(pte)  # type: ignore[arg-type]
        assert (old.asked, status.programs) == (asked, OWN)
    assert status.programs != ISOLATED


def test_a_process_that_does_not_begin_is_told(step: Program) -> None:
    class Full:
        def program(self, descriptor: int) -> int:
            return -1

    with pytest.raises(ProgramError, match="no process for a program could be started"):
        Programs(Full(), Status()).load(step.pte)  # type: ignore[arg-type]
