"""Lines of a run: one that waits or is held up says for which devices and how long, off a terminal too."""

from __future__ import annotations

import io
import re
import threading
from typing import Any

import pytest
from crowdlearn_host.cli.console import silence
from crowdlearn_host.cli.console.progress import TrainingProgress
from crowdlearn_host.cli.console.silence import Working
from rich.console import Console

Event = tuple[str, dict[str, Any]]


class Screen(io.StringIO):
    """Standard output that is no terminal; `until` waits for a line."""

    def __init__(self) -> None:
        super().__init__()
        self._changed = threading.Condition()

    def write(self, text: str) -> int:
        with self._changed:
            self._changed.notify_all()
            return super().write(text)

    def until(self, words: str) -> str:
        with self._changed:
            assert self._changed.wait_for(lambda: words in self.getvalue(), timeout=60), self.getvalue()
        return self.getvalue()


def lines(*events: Event) -> list[str]:
    """What is printed off a terminal, without the time that begins each line."""
    screen = Screen()
    with TrainingProgress(Console(file=screen, width=80)) as progress:
        for event, fields in events:
            progress.show(event, fields)
    told = screen.getvalue().splitlines()
    assert all(re.match(r"\[\d+:\d\d\] ", line) for line in told)
    return [line.partition("] ")[2] for line in told]


GATHERING: list[Event] = [
    ("listening", {"address": "0.0.0.0:8765", "port": 8765, "devices": 2}),
    ("gathering", {"named": ["192.0.2.7:5555"], "joining": 2}),
]


def test_a_run_that_waits_says_where_it_listens_which_devices_came_and_which_are_missing() -> None:
    told = lines(
        *GATHERING,
        ("joined", {"device": "tablet"}),
        ("deployed", {"device": "pixel", "serial": "192.0.2.7:5555", "bytes": 1000}),
        ("joined", {"device": "pixel"}),
        ("left", {"device": "tablet", "reason": "the connection broke"}),
        ("joined", {"device": "watch"}),
        ("joined", {"device": "tablet"}),
    )
    listening, first, *rest = told
    assert listening.startswith("listening on 0.0.0.0:8765 for 2 devices to dial in; 'crowdlearn enrol NAME'")
    missing = "0 of 3 devices are here; missing: 192.0.2.7:5555, 2 to dial in at 0.0.0.0:8765"
    assert first == f"waiting for devices: {missing}"
    assert rest == [
        "tablet joined: 1 of 3 devices are here; missing: 192.0.2.7:5555, 1 to dial in at 0.0.0.0:8765",
        "pixel: 1.0 kB pushed",
        "pixel joined: 2 of 3 devices are here; missing: 1 to dial in at 0.0.0.0:8765",
        "tablet left: the connection broke",
        "watch joined: 2 of 3 devices are here; missing: 1 to dial in at 0.0.0.0:8765",
        "tablet joined: 3 of 3 devices are here",
    ]


def test_a_killed_phone_is_told_once_with_its_name_and_how_long_the_run_waits() -> None:
    why = "3 pieces need as many devices, 2 are here; missing: phone-1"
    told = lines(
        ("left", {"device": "phone-1", "reason": "the connection broke"}),
        ("recovering", {"why": "phone-1 left: the connection broke", "boundary": 60}),
        ("paused", {"why": why, "grace": 60.0}),
    )
    assert told == [
        "phone-1 left: the connection broke",
        f"paused: {why}; waiting 60 s, then continuing without them if possible",
    ]


def test_a_recovery_for_another_reason_is_told() -> None:
    left = {"device": "phone-1", "reason": "the connection broke"}
    assert lines(("left", left), ("recovering", {"why": "phone-2 left: stuck", "boundary": 60})) == [
        "phone-1 left: the connection broke",
        "recovering: phone-2 left: stuck",
    ]


def test_all_devices_that_the_plan_does_not_name_are_told_in_one_line() -> None:
    strangers = [("stands_in", {"device": f"phone-{i}", "planned": f"device-{i}"}) for i in range(5)]
    told = lines(*GATHERING, *strangers[:3], ("assigned", {}), *strangers[3:])
    together = "; ".join(f"phone-{i}, which takes what was planned for device-{i}" for i in range(3))
    assert told[2:] == [
        f"the plan does not name {together}",
        *(f"the plan does not name phone-{i}, which takes what was planned for device-{i}" for i in (3, 4)),
    ]
    (waiting,) = lines(*(("samples_unused", {"device": f"phone-{i}", "samples": 60}) for i in range(2)))
    assert waiting.endswith("never dominator: 60 of phone-0; 60 of phone-1")


def test_exports_are_counted() -> None:
    compiled = [("compiled", {"done": done, "of": 3}) for done in range(4)]
    assert lines(*compiled) == [f"compiling slice programs: {done} of 3 methods" for done in (0, 3)]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(silence, "SOON", 0.05)


STATES: dict[str, tuple[list[Event], str]] = {
    "nothing yet": ([], "reading the model and the data, since 0:00"),
    "an export": (
        [("compiled", {"done": 2, "of": 3})],
        "compiling slice programs: 2 of 3 methods, since 0:00",
    ),
    "missing devices": (GATHERING, "waiting for devices, since 0:00: 0 of 3 devices are here; missing: "),
    "a pause": (
        [("paused", {"why": "phone-1 is gone", "grace": 9.0})],
        "paused: phone-1 is gone, since 0:00; it",
    ),
    "slow mini-batches": (
        [("progress", {"epoch": 1, "boundary": 7, "rows": 32, "loss": 0.5, "bytes": {"error": 2000}})],
        "epoch 2: 32 of 64 samples, ",
    ),
}


@pytest.mark.parametrize("state", STATES)
def test_a_silent_run_says_again_what_it_does(impatient: None, state: str) -> None:
    events, words = STATES[state]
    screen = Screen()
    with TrainingProgress(Console(file=screen, width=80)) as progress:
        progress.show("prepared", {"samples": 64})
        for event, fields in events:
            progress.show(event, fields)
        screen.until(words)


def test_other_work_says_what_step_it_is_at_and_since_when(impatient: None) -> None:
    screen = Screen()
    with Working(Console(file=screen, width=80), "reading net.py") as working:
        screen.until("reading net.py, since 0:00")
        working.step("compiling layers", 2, 3)
        screen.until("compiling layers: 2 of 3, since 0:00")


def test_work_that_is_soon_over_says_nothing() -> None:
    screen = Screen()
    with Working(Console(file=screen, width=80), "looking for phones") as working:
        working.step("still looking")
    assert screen.getvalue() == ""


def test_a_terminal_gets_one_line_that_moves(impatient: None) -> None:
    screen = Screen()
    with Working(Console(file=screen, width=80, force_terminal=True), "reading net.py"):
        screen.until("reading net.py")
    assert "[0:" not in screen.getvalue()
