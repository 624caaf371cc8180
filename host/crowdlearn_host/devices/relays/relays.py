"""The relay processes of a host: started, listened to, and started again if they die."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from crowdlearn_host.coordinator.hub.server import Server
from crowdlearn_host.errors import FleetError

from .channel import Kind, Message
from .engines.base import Engine, Running
from .engines.registry import ENGINES
from .relayed_stream import RelayedArrival

OnArrival = Callable[[RelayedArrival], Awaitable[None]]
FIRST_PAUSE, LAST_PAUSE = 0.1, 10.0
"""Seconds before a relay that died is started again: longer if it died soon."""
STEADY_SECONDS = 30.0


class _Place:
    """A relay that runs, and the devices there."""

    def __init__(self, pool: Pool, running: Running) -> None:
        self.running, self.channel = running, running.channel
        self.known: dict[int, int] = {}
        self._pool = pool
        self._arrivals: dict[int, RelayedArrival] = {}
        self._serving: set[asyncio.Task[None]] = set()

    async def listen(self) -> None:
        """Serve the relay's messages, until it has ended."""
        while (message := await self.channel.next()) is not None:
            self._take(message)
        for arrival in self._arrivals.values():
            arrival.gone("the relay process ended")

    def _take(self, message: Message) -> None:
        identifier = message.connection
        if message.kind == Kind.ARRIVED:
            arrival = RelayedArrival(self.channel, identifier, message.json())
            self._arrivals[identifier] = arrival
            task = asyncio.ensure_future(self._pool.on_arrival(arrival))
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)
        elif message.kind == Kind.COUNTED:
            self._pool.server.relayed(message.json())
        elif (known := self._arrivals.get(identifier)) is not None:
            match message.kind:
                case Kind.FRAME:
                    known.came(message.content)
                case Kind.WENT:
                    known.went(message.number())
                case Kind.GONE:
                    known.gone(message.content.decode(errors="replace"))
                    del self._arrivals[identifier]


class Pool:
    """The relay processes; groups are dealt out to them in turn."""

    def __init__(
        self,
        count: int,
        server: Server,
        host: str,
        home: Path | None,
        on_arrival: OnArrival,
        engine: Engine,
    ) -> None:
        self.server, self.on_arrival = server, on_arrival
        self._host, self._home, self._engine = host, home, engine
        self._places: list[_Place | None] = [None] * count

    @property
    def pids(self) -> list[int]:
        """Return process ids of the relays that run on this computer."""
        running = (place.running.pid for place in self._places if place is not None)
        return [pid for pid in running if pid is not None]

    def address(self, group: int) -> str:
        """Return where the devices of a group find their relay: HOST:PORT, or ":PORT" at the host that they
        have; "" if it does not run.
        """
        place = self._places[group % len(self._places)]
        return "" if place is None else place.running.address

    def stands(self, group: int, generation: int) -> None:
        """Send a group's relay its generation: envelopes of others are dropped."""
        place = self._places[group % len(self._places)]
        if place is not None and place.known.get(group) != generation:
            place.known[group] = generation
            place.channel.say_json(Kind.GROUP, {"group": group, "generation": generation})

    async def keep(self, index: int, started: asyncio.Event) -> None:
        """Have a relay run at this place until cancelled."""
        pause = FIRST_PAUSE
        while True:
            began = time.monotonic()
            fields: dict[str, Any] = {"relay": index}
            try:
                place = _Place(self, await self._engine.start(self._host, self._home))
            except FleetError as error:
                if not started.is_set():
                    raise
                fields["reason"] = str(error)
            else:
                self._places[index] = place
                started.set()
                try:
                    await place.listen()
                finally:
                    self._places[index] = None
                    place.channel.close()
                    fields["status"] = await place.running.end()
            pause = FIRST_PAUSE if time.monotonic() - began > STEADY_SECONDS else min(2 * pause, LAST_PAUSE)
            self.server.tell(
                "relay_failed" if "reason" in fields else "relay_ended", fields | {"again_in": pause}
            )
            await asyncio.sleep(pause)


@asynccontextmanager
async def relaying(
    count: int,
    server: Server,
    host: str,
    home: Path | None,
    on_arrival: OnArrival,
    engine: str = "local",
) -> AsyncIterator[Pool]:
    """Have `count` relay processes listen at `host` while the context lasts, with TLS by the certificate in
    `home` (None: none). Each connection is given to `on_arrival`. They run on this computer, or on the nodes
    of a cluster if `engine` is "ray", each at its node's own address.

    Raises FleetError if one cannot be started.
    """
    pool = Pool(count, server, host, home, on_arrival, ENGINES[engine])
    started = [asyncio.Event() for _ in range(count)]
    keeping = [asyncio.create_task(pool.keep(index, event)) for index, event in enumerate(started)]

    def kept(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and isinstance(error := task.exception(), Exception):
            server.fail(error)  # devices would be sent to a relay that nobody starts again

    for task in keeping:
        task.add_done_callback(kept)

    async def all_started() -> None:
        for event in started:
            await event.wait()

    here = asyncio.create_task(all_started())
    try:
        await asyncio.wait({here, *keeping}, return_when=asyncio.FIRST_COMPLETED)
        for task in keeping:
            if task.done():
                task.result()
        yield pool
    finally:
        here.cancel()
        for task in keeping:
            task.cancel()
        await asyncio.gather(here, *keeping, return_exceptions=True)
