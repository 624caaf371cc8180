"""How far the groups of a run are, by what is on disk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TypeVar

from .group import Group
from .restore_points import Place

T = TypeVar("T")
OVER = ("done", "stopped")
TRAINED = (*OVER, "choosing")
"""Phases in which a group trains no more."""
RESTING = (*OVER, "paused")


class Places:
    """The place of each group. What is asked of all of them costs the same however many there are, as long as
    they keep together.
    """

    def __init__(self, groups: Sequence[Group]) -> None:
        self._of: list[tuple[Place, str]] = [(group.schedule.place, group.phase) for group in groups]
        self._under_way = Counter(place for place, phase in self._of if phase not in TRAINED)
        self._over = sum(phase in OVER for _, phase in self._of)
        self._epochs = Counter(epoch for (epoch, _), phase in self._of if phase not in RESTING)

    def __getitem__(self, group: int) -> Place:
        return self._of[group][0]

    def stands(self, group: int, phase: str) -> None:
        """Note a group's phase, at the place where it was. It has trained once that is on disk."""
        if phase not in TRAINED and phase != self._of[group][1]:
            self.put(group, self._of[group][0], phase)

    def put(self, group: int, place: Place, phase: str) -> None:
        """Note a group's new place."""
        before, was = self._of[group]
        self._of[group] = place, phase
        self._over += (phase in OVER) - (was in OVER)
        if was not in TRAINED:
            _less(self._under_way, before)
        if phase not in TRAINED:
            self._under_way[place] += 1
        if was not in RESTING:
            _less(self._epochs, before[0])
        if phase not in RESTING:
            self._epochs[place[0]] += 1

    @property
    def all_over(self) -> bool:
        return self._over == len(self._of)

    @property
    def reached(self) -> Place | None:
        """Return how far the last of the groups is that still train."""
        return min(self._under_way, default=None)

    def ended(self, epoch: int) -> bool:
        """Return whether no group that is at work has this epoch before it."""
        return all(at > epoch for at in self._epochs)


def _less(counter: Counter[T], key: T) -> None:
    counter[key] -= 1
    if not counter[key]:
        del counter[key]
