"""Device runtimes in this process, reached over real sockets: the whole protocol without adb and phones."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from crowdlearn_device.protocol.frames import MAX_FRAME
from crowdlearn_device.transport.serve import serve_device
from crowdlearn_host.coordinator.group.group import Group
from crowdlearn_host.coordinator.hub.server import Server
from crowdlearn_host.coordinator.storage.run_folder import RunFolder
from crowdlearn_host.runs.groups import device_files, groups_of, shared_model_of
from crowdlearn_host.runs.prepare import prepare
from crowdlearn_host.spec.run_spec import RunSpec
from websockets.asyncio.client import connect

Events = list[tuple[str, dict[str, Any]]]
LIMIT_SECONDS = 360


async def train_on_sockets(
    folder: Path, config: RunSpec, devices: int, make: Callable[..., Server] = Server
) -> tuple[Server, Events]:
    """Train a configuration on device runtimes that listen on ports of this machine."""
    prepared = prepare(config, lambda event, fields: None)
    events: Events = []
    groups = [Group(settings) for settings in groups_of(prepared, devices)]
    server = make(
        run="run",
        groups=groups,
        folder=RunFolder(folder / "run", create=True),
        shared=shared_model_of(prepared, len(groups)),
        synchronous=config.sharing.synchronous,
        on_event=lambda event, fields: events.append((event, fields)),
        on_checkpoint=lambda group, epoch, arrays: None,
        seats=prepared.plan.seats,
    )
    async with AsyncExitStack() as stack:
        attached = []
        files_of, seats = device_files(prepared, devices), list(prepared.plan.seats)
        numbers = list(prepared.plan.seats.values()) or range(devices)
        for number in range(devices):
            home = folder / f"device-{number}"
            files = files_of[seats.index(home.name) if home.name in seats else number]
            for name, content in files.items():
                (home / name).parent.mkdir(parents=True, exist_ok=True)
                (home / name).write_bytes(content)
            serving = asyncio.create_task(serve_device(home, home / "data", home.name, 0), name=home.name)
            stack.push_async_callback(stopped, serving)
            while not (home / "port").exists():
                await asyncio.sleep(0)
            address = f"ws://127.0.0.1:{(home / 'port').read_text().strip()}/"
            shown = {"Authorization": f"Bearer {(home / 'token').read_text()}"}
            dialling = connect(address, max_size=MAX_FRAME, compression=None, additional_headers=shown)
            connection = await stack.enter_async_context(dialling)
            attached.append(
                asyncio.create_task(server.attach(connection, dialled=True, number=numbers[number]))
            )
        await asyncio.wait_for(server.over.wait(), LIMIT_SECONDS)
        await server.close()
        await asyncio.gather(*attached)
    server.folder.close()
    return server, events


async def stopped(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
