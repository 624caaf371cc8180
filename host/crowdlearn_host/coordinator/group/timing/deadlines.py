"""Deadlines: whom to ask, and whom to let go, when a stage takes longer than the run has taught."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass

from .pace import Pace


@dataclass(frozen=True)
class Verdict:
    """Devices to be asked whether they are there, those that did not answer, and those that hold the group
    up; `lost` where all devices are waiting.
    """

    ask: Sequence[int] = ()
    silent: Sequence[int] = ()
    stuck: Sequence[int] = ()
    lost: bool = False


class Watch:
    """The deadlines of a group: all devices are asked before any of them is given up."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._asked_in: tuple[object, ...] = ()
        self._waiting: set[int] = set()

    def waits(self, device: int) -> None:
        """Note a device's answer that it waits for others."""
        self._waiting.add(device)

    def look(
        self,
        now: float,
        stage: tuple[object, ...],
        live: Set[int],
        late: Callable[[Set[int]], Set[int]],
        *,
        working: bool,
    ) -> Verdict:
        """Look at the clock. `stage` is what is being done, its kind first; `late` returns the devices that
        owe something in it, given those that wait for others.
        """
        self._pace.tick(now, stage, working=working)
        ask, silent = self._pace.to_ask(live), self._pace.silent(live)
        if silent or not self._pace.overdue:
            return Verdict(ask, silent)
        self._pace.restart()
        if self._asked_in != stage:
            self._asked_in, self._waiting = stage, set()
            return Verdict(sorted(live))
        stuck = sorted(late(self._waiting) & live)
        return Verdict(ask, stuck=stuck, lost=not stuck)
