"""The record of a run: what happened, in its log and for its viewer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from crowdlearn_host.coordinator.storage.store import Store

from .repeated import Repeated
from .throughput import Throughput

OnEvent = Callable[[str, dict[str, Any]], None]


class Records:
    """The events of a run, written by the `store` and shown by `on_event`; repeated ones are counted."""

    def __init__(
        self,
        store: Store,
        throughput: Throughput,
        on_event: OnEvent,
        fail: Callable[[Exception], None],
        *,
        of_groups: bool,
    ) -> None:
        self._store, self._throughput, self._on_event, self._fail = store, throughput, on_event, fail
        self._of_groups = of_groups
        self._repeated = Repeated()

    def add(self, group: int | None, event: str, fields: dict[str, Any]) -> None:
        """Record an event, of a group if it is of one."""
        times = self._repeated.times(event, fields)
        if times == 0:
            return
        if times > 1:
            fields = {**fields, "times": times}
        if group is not None and self._of_groups:
            fields = {"group": group, **fields}
        logged = fields
        if event == "progress":
            fields = {**fields, **self._throughput.trained(fields["rows"])}
            logged = self._throughput.logged(fields)
        self._store.log(event, logged, self._fail)
        self._on_event(event, fields)
