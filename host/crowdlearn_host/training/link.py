"""The way to one device over adb: bring the runtime there, and keep a connection to it."""

from __future__ import annotations

import asyncio
import random
import secrets
from pathlib import Path

from crowdlearn_device.wire import MAX_FRAME
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from ..adb.deployment import RuntimeDeployment
from ..errors import FleetError
from ..fleet.discovery import dial
from ..server.server import Server
from .config import TrainConfig

FIRST_RETRY, LAST_RETRY = 0.2, 10.0
"""Seconds between attempts to reach a device again, doubling, with jitter."""


async def keep_linked(
    server: Server,
    number: int,
    serial: str,
    files: dict[str, bytes],
    config: TrainConfig,
    key: Path | None = None,
) -> None:
    """Bring the runtime to a device and keep a connection to it until the run is over."""
    token = secrets.token_hex(16)
    wait, first = FIRST_RETRY, True
    while not server.over.is_set():
        try:
            async with await dial(serial, key=key) as device:
                name = (await device.shell("getprop ro.serialno")).stdout.decode(
                    errors="replace"
                ).strip() or serial
                arguments = ["--name", name, "--threads", "1"]
                arguments += [f"--lowest-battery={config.fleet.lowest_battery}"]
                if config.device_data:
                    arguments += ["--data", config.device_data]
                deployment = RuntimeDeployment(device, arguments=arguments)
                sent = await deployment.install({**files, "token": token.encode()})
                server.tell("deployed", {"device": name, "bytes": sent})
                await deployment.start()
                try:
                    while not server.over.is_set() and device.lost is None:
                        async with connect(
                            "ws://device/",
                            sock=await deployment.connect(),
                            additional_headers={"Authorization": f"Bearer {token}"},
                            compression=None,
                            max_size=MAX_FRAME,
                            open_timeout=60,
                            ping_timeout=60,
                        ) as connection:
                            first = False
                            wait = FIRST_RETRY
                            await server.attach(connection, dialled=True, number=number)
                        if not server.over.is_set():
                            await asyncio.sleep(wait * random.uniform(0.5, 1.5))
                            wait = min(2 * wait, LAST_RETRY)
                finally:
                    if device.lost is None:
                        await deployment.stop()
        except (FleetError, OSError, WebSocketException) as error:
            # A device that never was there is a mistake in the fleet; in a run under way it may come back.
            if first and not any(group.points for group in server.groups):
                raise FleetError(f"{serial}: {error}") from error
            server.tell("unreachable", {"device": serial, "reason": str(error)[:300]})
            await asyncio.sleep(wait * random.uniform(0.5, 1.5))
            wait = min(2 * wait, LAST_RETRY)
