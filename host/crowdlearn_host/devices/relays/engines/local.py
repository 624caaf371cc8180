"""Relays as processes of this computer."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
from pathlib import Path

from crowdlearn_host.errors import FleetError

from ..channel import Channel
from .base import Engine, Running, port_of

START_SECONDS = 60.0
"""The seconds in which a process that was started has to listen."""


class Process(Running):
    """A process of this computer, and our end of a pair of sockets."""

    def __init__(self, process: subprocess.Popen[bytes], channel: Channel, port: int) -> None:
        super().__init__(channel, f":{port}")
        self._process, self.pid = process, process.pid

    async def end(self) -> int | None:
        self._process.terminate()
        return await asyncio.to_thread(self._process.wait)


class Local(Engine):
    """The engine that starts processes of this computer."""

    name = "local"

    async def start(self, host: str, home: Path | None) -> Running:
        ours, theirs = socket.socketpair()
        with theirs:
            command = [
                sys.executable,
                "-m",
                "crowdlearn_host.devices.relays.process",
                str(theirs.fileno()),
                host,
            ]
            process = subprocess.Popen(
                [*command, "" if home is None else str(home)],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )
        channel, port = None, None
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(START_SECONDS):
                    channel = await Channel.over(ours)
                    port = await port_of(channel)
        finally:  # also if the host stops meanwhile
            if port is None:
                process.kill()
                process.wait()
                ours.close() if channel is None else channel.close()
        if channel is not None and port is not None:
            return Process(process, channel, port)
        raise FleetError(f"a relay process did not listen on {host or 'this computer'} within a minute")
