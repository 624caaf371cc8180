"""The carrier over adb: brings the runtime to a device, and keeps a connection to it."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial

from crowdlearn_device.security.proof import bound_to_token
from crowdlearn_device.transport.retry import Retry
from crowdlearn_device.transport.serve import TRY_LATER
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from crowdlearn_host.adb.deployment.awake import Means, awake
from crowdlearn_host.adb.deployment.claim import EVERY_SECONDS, Claim, Holder
from crowdlearn_host.adb.deployment.runtimes import deployment_for
from crowdlearn_host.adb.deployment.shell import Deployment
from crowdlearn_host.adb.services.device import AdbDevice
from crowdlearn_host.coordinator.hub.arrival import Dialled
from crowdlearn_host.coordinator.hub.server import Server
from crowdlearn_host.devices.discovery import dial, named
from crowdlearn_host.errors import FleetError, TrainingError

from .base import Carrier, Reach, cancelled

RENEWALS_A_SECOND = 10
"""The most renewals of the claims on all phones together: a large fleet renews them less often."""
HELLO_BYTES = 1 << 16
"""The longest frame before a device has proven its identity."""
FIRST_RETRY, LAST_RETRY = 0.2, 10.0
"""Seconds between attempts to reach a device again."""


class Adb(Carrier):
    """The carrier of phones over adb: by address, on USB, or behind an adb server, as devices/discovery.py
    finds them.
    """

    name = "adb"

    def wanted(self, reach: Reach) -> bool:
        return bool(reach.serials)

    @asynccontextmanager
    async def reaching(self, reach: Reach) -> AsyncIterator[Sequence[asyncio.Task[None]]]:
        fleet = AdbFleet(reach)
        connections = [
            AdbConnection(fleet, serial, number, partial(reach.files_of, place))
            for place, (number, serial) in enumerate(zip(reach.numbers, reach.serials, strict=False))
        ]
        links = [asyncio.create_task(each.keep()) for each in connections]
        try:
            yield links
        finally:
            await cancelled(links)


@dataclass(frozen=True)
class AdbFleet:
    """The devices of a run that are reached over adb; `declined` has by serial the reason why a device would
    not take part when it was asked last.
    """

    reach: Reach
    declined: dict[str, str] = field(default_factory=dict)

    @property
    def server(self) -> Server:
        """Return the server of the run."""
        return self.reach.server

    @property
    def trained(self) -> bool:
        """Return True if the run has got anywhere."""
        return any(group.restore_points.points for group in self.server.groups)

    def decline(self, serial: str, reason: str) -> None:
        """Note that a device takes no part. Raises TrainingError if none is left, and nothing is trained."""
        self.declined[serial] = reason
        somebody = self.reach.config.fleet.joining or any(group.live for group in self.server.groups)
        if not (somebody or self.trained or set(self.reach.serials) - set(self.declined)):
            why = "; ".join(f"{serial}: {reason}" for serial, reason in self.declined.items())
            raise TrainingError(f"no device takes part ({why}); see to that and start again")


class AdbConnection:
    """The keeper of a device's connection, with the `files` for its name on it; new to the run it gets
    `number`.
    """

    def __init__(
        self, fleet: AdbFleet, serial: str, number: int, files: Callable[[str], Mapping[str, bytes]]
    ) -> None:
        self._fleet, self._reach, self._server = fleet, fleet.reach, fleet.server
        self._serial, self._number = serial, number
        self._name = serial
        self._token = secrets.token_hex(16)
        self._files = files
        self._retry = Retry(FIRST_RETRY, LAST_RETRY)
        self._welcomed = False
        self._unfit = False
        self._last_event = ("", "")

    async def keep(self) -> None:
        """Bring the runtime to the device and keep a connection to it until the run is over, or over for it.

        If nothing is trained yet, raises FleetError for a device that cannot be reached or used at first.
        Raises TrainingError if every device of the fleet declines.
        """
        while not self._over:
            try:
                async with await dial(self._serial, key=self._reach.key) as device:
                    await self._deploy(device)
            except (FleetError, OSError, WebSocketException) as error:
                # What never was there is a mistake in the fleet; in a run under way it may come back.
                if self._mistaken:
                    raise FleetError(named(self._serial, error)) from error
                self._tell("unreachable", str(error))
                await self._pause()

    @property
    def _over(self) -> bool:
        return self._unfit or self._server.over.is_set()

    @property
    def _mistaken(self) -> bool:
        return not self._welcomed and not self._fleet.trained

    async def _deploy(self, device: AdbDevice) -> None:
        """Have the runtime run on the device as long as it is connected, and the run lasts."""
        named = (await device.shell("getprop ro.serialno")).stdout.decode(errors="replace").strip()
        name = self._name = named or self._serial
        arguments = ["--name", name, "--threads", "1"]
        config = self._reach.config
        arguments += [f"--lowest-battery={config.fleet.lowest_battery}"]
        arguments += [f"--isolation={config.fleet.isolation}"]
        kind = self._reach.classes.get(name)
        if kind is not None and not kind.samples:
            arguments.append("--no-data")
        elif config.device_data:
            arguments += ["--data", config.device_data]
        arguments += self._reach.extra
        folder = self._server.folder
        every = max(EVERY_SECONDS, len(self._reach.serials) / RENEWALS_A_SECOND)
        holder = Holder.here(folder.path.resolve().name, folder.id, every)
        keep_awake = awake(device) if config.fleet.keep_awake else nullcontext()
        async with Claim(device, holder) as claim, keep_awake as means:
            await self._serve(device, arguments, name, claim, means)

    async def _serve(
        self, device: AdbDevice, arguments: list[str], name: str, claim: Claim, means: Means | None
    ) -> None:
        """Have the runtime run on a phone that is this run's, and kept awake by these means.

        Raises FleetError if it is no longer this run's.
        """
        deployment, brought = await deployment_for(device, self._reach.config.fleet.runtime, arguments)
        files = {**self._files(name), "token": self._token.encode()}
        sent = brought + await deployment.install(files)
        self._server.tell("deployed", {"device": name, "serial": self._serial, "bytes": sent, "awake": means})
        await deployment.start()
        try:
            while not self._over and device.lost is None and claim.lost is None:
                await self._connect(device, deployment)
                await self._pause()
        finally:
            if device.lost is None and claim.lost is None:
                await deployment.stop()
        if claim.lost is not None:
            raise FleetError(claim.lost)

    async def _connect(self, device: AdbDevice, deployment: Deployment) -> None:
        """Serve one connection, from hello to its end."""
        sock = await deployment.connect()
        async with connect(
            "ws://device/",
            sock=sock,
            additional_headers={"Authorization": f"Bearer {self._token}"},
            compression=None,
            max_size=HELLO_BYTES,
            open_timeout=60,
            ping_interval=None,
        ) as connection:
            began = time.monotonic()
            try:
                fit = await self._server.attach(
                    Dialled(connection, carrier=lambda: device.transport_of(sock)),
                    dialled=True,
                    number=self._number,
                    named=self._name,
                    binding=bound_to_token(self._token.encode()),
                )
            except FleetError as error:
                reason = connection.close_reason or str(error)
                if connection.close_code != TRY_LATER and self._mistaken:
                    raise FleetError(reason) from error
                self._tell("declined", reason)
                self._fleet.decline(self._serial, reason)
                return
            self._welcomed, self._unfit, self._last_event = True, not fit, ("", "")
            self._fleet.declined.pop(self._serial, None)
            self._retry.lasted(time.monotonic() - began)

    def _tell(self, event: str, reason: str) -> None:
        """Report a problem once, until the reason is another."""
        if self._last_event != (event, reason):
            self._last_event = event, reason
            reason = reason.removeprefix(f"{self._serial} cannot be reached: ")
            known = self._serial if self._name == self._serial else f"{self._name} ({self._serial})"
            self._server.tell(event, {"device": known, "reason": reason[:300]})

    async def _pause(self) -> None:
        if not self._over:
            await self._retry.pause(self._server.over)
