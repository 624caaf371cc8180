"""Devices and their slow links as processes of their own. The sockets are this machine's (AF_UNIX): no TCP of
the loopback, with its segments of 64 kB, comes on top of the link that is emulated.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing as mp
import os
import socket
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from crowdlearn.phones import DelayLine, Direction, LinkModel
from crowdlearn_device.data.dataset import Dataset
from crowdlearn_device.member.member import Member
from crowdlearn_device.program.executor import ProgramStore
from crowdlearn_device.protocol.frames import MAX_FRAME
from crowdlearn_device.security.identity import Identity
from crowdlearn_device.transport.driver import Driver
from executorch.extension.pybindings import _portable_lib
from websockets.asyncio.client import unix_connect
from websockets.asyncio.connection import Connection

PIECES = 5
LINK = LinkModel(down=20, up=20, round_trip=40)
READ_BYTES = 4096
QUEUE_BYTES = 16 << 10
"""What a link queues before it takes no more: 6.5 ms of it, as fq_codel would keep it."""
UNSENT_BYTES = 8 << 10
"""What the system takes of a sender before the link does."""


def processes(module: str) -> Any:
    """Processes that share one import of torch, and of the benchmark that starts them."""
    context = mp.get_context("forkserver")
    context.set_forkserver_preload([module, "torch", "crowdlearn_device.program.executor"])
    return context


def run_device(home: str, name: str, samples: int, seed: int) -> None:
    """Process body: one device, until the run is over. It computes on one thread: five devices share this
    machine's cores, and threads that wait for each other there wait for other devices too. Its samples are
    noise in the form of MNIST: what is timed does not depend on it.
    """
    torch.set_num_threads(1)
    _portable_lib._unsafe_reset_threadpool(1)
    rng = np.random.default_rng(seed)
    inputs = rng.random((samples, 784), np.float32)
    asyncio.run(_device(Path(home), name, Dataset(inputs, rng.integers(0, 10, len(inputs)))))


async def _device(home: Path, name: str, data: Dataset) -> None:
    async with unix_connect(str(home / f"{name}.sock"), compression=None, max_size=MAX_FRAME) as connection:
        queue_little(connection)
        programs = ProgramStore(home / name / "programs")
        member = Member(name, home / name, Identity.generate(), len(data), lambda: data, programs)
        await Driver(connection, member, asyncio.Event()).run()


def queue_little(connection: Connection) -> None:
    """Leave what waits for the link with its sender, not in buffers of the system."""
    sock = connection.transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UNSENT_BYTES)


def run_links(folder: str, answer: Pipe) -> None:
    """Process body: a socket per phone, whose connections cross the phone's link to the server."""
    asyncio.run(_links(Path(folder), answer))


async def _links(folder: Path, answer: Pipe) -> None:
    with contextlib.suppress(PermissionError):
        os.nice(-10)  # a radio does not wait for a phone's processor
    loop = asyncio.get_running_loop()
    delay = LINK.round_trip / 2000
    for k in range(PIECES):
        up, down = Direction(LINK.up, delay), Direction(LINK.down, delay)

        def dialled(up: Direction = up, down: Direction = down) -> _End:
            near, far = _End(up), _End(down)
            near.other, far.other = far, near
            near.joining = loop.create_task(
                loop.create_unix_connection(lambda: far, str(folder / "server.sock"))
            )
            return near

        await loop.create_unix_server(dialled, str(folder / f"phone-{k}.sock"))
    answer.send(None)
    await asyncio.to_thread(answer.poll, None)


class _End(asyncio.BufferedProtocol):
    """One end of a link: what it reads leaves at the other end when the link has carried it. It reads no more
    than the link's queue holds.
    """

    other: _End
    joining: asyncio.Task[Any]

    def __init__(self, way: Direction) -> None:
        self._way = way
        self._line: DelayLine[bytes] = DelayLine(way, lambda data: self.other.transport.write(data))
        self._buffer = bytearray(READ_BYTES)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)
        self.transport = transport

    def get_buffer(self, sizehint: int) -> bytearray:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._line.put(bytes(self._buffer[:nbytes]), nbytes)
        loop = asyncio.get_running_loop()
        queue = QUEUE_BYTES * 8e-6 / LINK.up
        if self._way.free_at - loop.time() > queue:
            self.transport.pause_reading()
            loop.call_at(self._way.free_at - queue / 2, self.transport.resume_reading)
