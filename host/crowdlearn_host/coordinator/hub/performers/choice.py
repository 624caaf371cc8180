"""The choice of the model that devices keep, once no group trains any more."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from crowdlearn_device.protocol.frames import Floats

from crowdlearn_host.coordinator.group.events import Chosen
from crowdlearn_host.coordinator.group.group import Group
from crowdlearn_host.coordinator.group.places import OVER
from crowdlearn_host.coordinator.storage.store import Store

from .base import HandleEvent, Together


class Choice(Together):
    """The groups that wait for the model. `on_choose` has it chosen, and calls `chosen`."""

    def __init__(
        self, groups: Sequence[Group], on_choose: Callable[[], None], store: Store, handle: HandleEvent
    ) -> None:
        self._groups, self._on_choose, self._store, self._handle = groups, on_choose, store, handle
        self._waiting: set[int] = set()
        self._asked = False

    def wait(self, group: int) -> None:
        """Let a group that has trained wait for the model."""
        self._waiting.add(group)
        self._look()

    def tick(self, now: float) -> None:
        self._look()

    def _look(self) -> None:
        """Have the model chosen, once, if no group trains any more."""
        if self._asked or not self._waiting:
            return
        if all(index in self._waiting or group.phase in OVER for index, group in enumerate(self._groups)):
            self._asked = True
            self._on_choose()

    def chosen(self, model: Mapping[str, Floats]) -> None:
        """Have devices keep this model: float32 [neurons, ...] by array."""
        self._store.chosen = model
        for index in sorted(self._waiting):
            self._handle(index, Chosen())
