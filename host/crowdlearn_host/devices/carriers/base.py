"""The base of carriers: ways by which a run reaches its devices."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from crowdlearn_host.coordinator.hub.records import OnEvent
from crowdlearn_host.coordinator.hub.server import Server
from crowdlearn_host.planner.problem.fleet import DeviceClass
from crowdlearn_host.spec.run_spec import RunSpec


@dataclass(frozen=True)
class Reach:
    """The devices that a run is to reach, and what it has for them.

    `serials` are those that the host connects to, `numbers` theirs in the run. `files_of` gives the files for
    a device by its place among the serials and its name. `home` holds certificate and enrolments; `key` is
    the private adb key, if not ~/.android/adbkey. `extra` are further arguments of the device runtime,
    `classes` the planned classes by device.
    """

    server: Server
    config: RunSpec
    on_event: OnEvent
    home: Path
    serials: Sequence[str] = ()
    numbers: Sequence[int] = ()
    files_of: Callable[[int, str], Mapping[str, bytes]] = lambda place, name: {}
    key: Path | None = None
    extra: Sequence[str] = ()
    classes: Mapping[str, DeviceClass] = field(default_factory=dict)


class Carrier(ABC):
    """A way by which a run reaches devices. What it carries is a WebSocket, given to `Server.attach`."""

    name: ClassVar[str]

    @abstractmethod
    def wanted(self, reach: Reach) -> bool:
        """Return whether the run has devices of this way."""

    @abstractmethod
    def reaching(self, reach: Reach) -> AbstractAsyncContextManager[Sequence[asyncio.Task[None]]]:
        """Reach the devices, again and again, while the context lasts.

        Gives a task for each device that the host connects to. It ends when the run is over for that device.
        Raises FleetError if no device can be reached so.
        """


async def cancelled(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Cancel tasks, and wait until they have ended."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
