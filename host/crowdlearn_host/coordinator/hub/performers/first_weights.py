"""The drawing of the first weights, carried out: messages to devices, and the weights of the seed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from crowdlearn_device.protocol import wire_pb2 as pb

from crowdlearn_host.coordinator.first_weights.beginning import Beginning
from crowdlearn_host.coordinator.storage.store import Store

from .base import HandleEvent, Hub, Together


class FirstWeights(Together):
    """The performer of a `beginning`. `begin_with` makes the first weights of a seed the global model's, on
    disk.
    """

    body = "first_weights"

    def __init__(
        self,
        hub: Hub,
        beginning: Beginning,
        begin_with: Callable[[bytes], None],
        store: Store,
        handle: HandleEvent,
    ) -> None:
        self._hub, self._beginning, self._begin_with = hub, beginning, begin_with
        self._store, self._handle = store, handle
        self._drawn: asyncio.Task[None] | None = None

    def joined(self, device: int) -> None:
        self._change(lambda: None)

    def left(self, device: int) -> None:
        self._change(lambda: self._beginning.left(device))

    def replaced(self, device: int) -> None:
        self.left(device)

    def answer(self, device: int, frame: pb.Frame) -> None:
        self._change(lambda: self._beginning.answer(device, frame.first_weights))

    def tick(self, now: float) -> None:
        self._change(lambda: self._beginning.tick(now))

    def _change(self, change: Callable[[], None]) -> None:
        """Let the drawing know what happened, if it is not over, and carry out what follows."""
        beginning = self._beginning
        if beginning.over:
            return
        change()
        beginning.look()
        for device, message in beginning.take_messages():
            if (to := self._hub.connection(device)) is not None:
                self._hub.send(to, pb.Frame(first_weights=message))
        if beginning.seed and self._drawn is None:
            self._drawn = asyncio.get_running_loop().create_task(self._begin())
        self._tell()

    async def _begin(self) -> None:
        """Begin with the first weights that were drawn."""
        try:
            await self._store.do(self._begin_with, self._beginning.seed)
        except Exception as error:
            self._hub.fail(error)
            return
        self._beginning.release()
        self._tell()

    def _tell(self) -> None:
        beginning = self._beginning
        for name, fields in beginning.records:
            self._hub.tell(name, fields)
        beginning.records.clear()
        events, beginning.events = beginning.events, []
        for index, event in events:
            self._handle(index, event)
