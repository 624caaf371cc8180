"""Rounds of measurement: every device rests, computes each program and moves bytes in each of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from crowdlearn_device.energy.readings import Used
from crowdlearn_device.energy.step_time import StepTime

from crowdlearn_host.errors import FleetError

from .subject import Program, Recording, Subject


class Kind(StrEnum):
    """The work of a window."""

    IDLE = "idle"
    STEPS = "steps"
    SEND = "send"
    RECEIVE = "receive"


@dataclass(frozen=True)
class Window:
    """A stretch of one round in which a device did one kind of work. It is `dropped`, with the reason, if its
    condition was wrong before or after; it has no energy (`used`) if the meter could not tell, for `why`.
    """

    kind: Kind
    program: str
    used: Used | None
    parts: tuple[float, float, float] | None
    timed: StepTime | None
    moved: int
    celsius: float | None
    dropped: str
    why: str


OnStep = Callable[[str, int, int], None]
"""A function that takes what begins now, its number, and how many there are."""


def count_windows(subjects: Sequence[Subject], programs: Sequence[Program], rounds: int) -> int:
    """Count the windows of an experiment."""
    return rounds * sum(len(_work(subject, programs)) for subject in subjects)


async def run_rounds(
    subjects: Sequence[Subject], programs: Sequence[Program], rounds: int, seconds: float, on_step: OnStep
) -> list[list[Window]]:
    """Measure in windows of so many seconds; the windows of each device.

    One device works at a time, for virtual phones share this computer, and real ones the air. Every second
    round goes the other way round, so that what warms up or runs down falls on all alike. A device that
    fails is left out from then on, with a window that tells why.
    """
    windows: list[list[Window]] = [[] for _ in subjects]
    failed: set[int] = set()
    number, total = 0, count_windows(subjects, programs, rounds)
    for turn in range(rounds):
        for k, subject in enumerate(subjects):
            work = _work(subject, programs)
            for kind, program in work if turn % 2 == 0 else reversed(work):
                number += 1
                if k in failed:
                    continue
                name = program.name if program else kind.value
                on_step(f"round {turn + 1}, {subject.name}: {name}", number, total)
                try:
                    windows[k].append(await _window(subject, kind, program, seconds))
                except FleetError as error:
                    failed.add(k)
                    failure = Window(kind, name, None, None, None, 0, None, "failed", str(error))
                    windows[k].append(failure)
    return windows


def _work(subject: Subject, programs: Sequence[Program]) -> list[tuple[Kind, Program | None]]:
    work: list[tuple[Kind, Program | None]] = [(Kind.IDLE, None)] if subject.meter is not None else []
    work += [(Kind.STEPS, program) for program in programs if subject.runs(program)]
    if subject.has_radio and subject.meter is not None:
        work += [(Kind.SEND, None), (Kind.RECEIVE, None)]
    return work


async def _window(subject: Subject, kind: Kind, program: Program | None, seconds: float) -> Window:
    before = await subject.condition()
    recording = Recording(subject)
    timed, moved = None, 0
    if program is not None:
        timed = await subject.step(program, seconds, recording.begin, recording.end)
    else:
        await recording.begin()
        if kind is Kind.IDLE:
            await asyncio.sleep(seconds)
        else:
            moved = await subject.move(kind is Kind.SEND, seconds)
        await recording.end()
    after = await subject.condition()
    return Window(
        kind,
        program.name if program else "",
        recording.used,
        recording.parts,
        timed,
        moved,
        after.celsius,
        before.problem or after.problem,
        recording.why,
    )
