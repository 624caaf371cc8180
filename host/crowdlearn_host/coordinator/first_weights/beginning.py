"""The beginning of a run whose devices draw its first weights: groups wait until the seed is there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from crowdlearn_device.privacy.first_weights.commitment import MOST_ATTEMPTS
from crowdlearn_device.privacy.first_weights.distributions import Distribution
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.frames import Floats

from crowdlearn_host.coordinator.group.events import Barred, Drawn, Event, Stopped
from crowdlearn_host.coordinator.group.group import Group
from crowdlearn_host.coordinator.group.places import OVER

from .drawing import Drawing


class Beginning:
    """The drawing of the first weights of `groups`, and what follows for them. `records` are events for the
    run's log, `events` those of groups, by index.
    """

    def __init__(
        self,
        drawing: Drawing,
        groups: Sequence[Group],
        attempted: Callable[[int], None] = lambda number: None,
    ) -> None:
        """Hold groups that have not begun. `attempted` keeps the number of an attempt before it begins."""
        self._drawing, self._groups, self._attempted = drawing, groups, attempted
        self.records: list[tuple[str, dict[str, Any]]] = []
        self.events: list[tuple[int, Event]] = []
        self._attempts = 0
        for group in groups:
            group.held = not group.restore_points.points
        self.over = not any(group.held for group in groups)
        """True if groups have what they wait for."""

    @property
    def seed(self) -> bytes:
        """Return the seed, b"" until it is drawn."""
        return self._drawing.seed

    def take_messages(self) -> list[tuple[int, pb.FirstWeights]]:
        """Return the messages to devices, by number, once."""
        out, self._drawing.out = self._drawing.out, []
        return out

    def left(self, device: int) -> None:
        """Note that a device is gone."""
        self._drawing.left(device)

    def answer(self, device: int, message: pb.FirstWeights) -> None:
        """Take a device's answer."""
        self._drawing.answer(device, message)

    def tick(self, now: float) -> None:
        """Let time pass."""
        self._drawing.tick(now)

    def look(self) -> None:
        """Let the devices go that were named, and begin an attempt if all groups have gathered."""
        barred = {device for device, _ in self._drawing.named}
        for device, why in self._drawing.named:
            for index, group in enumerate(self._groups):
                if device in group.devices:
                    name = group.devices[device].name
                    self.records.append(("unrevealed", {"device": name, "reason": why}))
                    self.events.append((index, Barred(device, why)))
        self._drawing.named.clear()
        waiting = [group for group in self._groups if group.phase not in OVER]
        if barred:
            return  # groups are looked at again once these are gone
        if self._drawing.stage == "waiting" and waiting and all(group.gathered for group in waiting):
            here = {
                number: device.identity
                for group in waiting
                for number, device in group.devices.items()
                if number in group.live
            }
            self._attempts += 1
            if self._attempts > 1:
                self.records.append(("first_weights_anew", {"attempt": self._attempts, "devices": len(here)}))
            self._attempted(self._drawing.attempt + 1)
            self._drawing.begin(here)
        if self._drawing.stage == "failed":
            why = (
                f"first weights were not drawn in {MOST_ATTEMPTS} attempts, as devices came and went; "
                "start again, or set privacy.first_weights = 'seed'"
            )
            self.events += [(index, Stopped(why)) for index in range(len(self._groups))]
            self.over = True

    def release(self) -> None:
        """Let groups begin: the first weights are the host's model now."""
        self.over = True
        devices = sum(len(group.live) for group in self._groups)
        self.records.append(("first_weights", {"devices": devices, "attempts": self._attempts}))
        self.events += [(index, Drawn()) for index in range(len(self._groups))]


def drawn_arrays(
    seed: bytes, distributions: Mapping[str, Distribution], given: Mapping[str, Floats]
) -> dict[str, Floats]:
    """Return the first weights of a seed, float32 [neurons, ...] by array: those `given` where it leaves
    them.
    """
    found = {}
    for name, array in given.items():
        distribution = distributions.get(name)
        if distribution is None or distribution.kind == "given":
            found[name] = array
        else:
            found[name] = distribution.drawn(seed, name, 0, len(array), array.shape[1:])
    return found
