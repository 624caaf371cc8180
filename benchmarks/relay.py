"""What the parameter server's relay moves, beside a bare echo of the same WebSocket library.

Both servers run in processes of their own and take turns; the devices are raw sockets in a third process
that send messages encoded beforehand, so that the server is what is measured. Devices form a ring: each
sends to the next through the relay, or to itself through the echo. Where nats-server is in the PATH, devices
send each other as many bytes through it, too, by its own protocol over TCP: no WebSocket, no check of
senders or generations, no back-pressure.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing as mp
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, Literal

import numpy as np
from crowdlearn.hosting import Group, RunFolder, Server, Settings, SharedModel
from crowdlearn_device.program.manifest import ArraySpec
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.frames import MAX_FRAME, VERSION, encode_frame
from crowdlearn_device.protocol.sizes import websocket_bytes
from crowdlearn_device.security.envelope import Channel
from crowdlearn_device.security.identity import Identity
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from rich.table import Table
from websockets.asyncio.server import ServerConnection, serve
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.uri import parse_uri

from .report import show

DEVICES = 4
RUN = "benchmark"
WEIGHTS = ArraySpec("w", 0, (), trained=True)
SIZES = {"1 kB": 1000, "100 kB": 100_000}
BATCH_BYTES = 1 << 20
ENVELOPE_BYTES = 36
"""Of an envelope beside its content: the header, and the seal's tag."""
SLOW_BYTES_A_SECOND = 20e6
Kind = Literal["echo", "relay", "nats"]
NATS_CONFIG = 'listen: 127.0.0.1:{port}\nmax_pending: 4GB\nwrite_deadline: "120s"\n'
"""A server that drops no slow receiver, as it would by itself."""


def run_server(kind: Kind, folder: str, answer: Pipe) -> None:
    """Process body: serve until the pipe is closed."""
    asyncio.run(_serve(kind, Path(folder), answer))


async def _serve(kind: Kind, folder: Path, answer: Pipe) -> None:
    handle = _echo
    if kind == "relay":
        opened = RunFolder(folder, create=True)
        layout = tuple(((k, k + 1),) for k in range(DEVICES))
        settings = Settings(layout, ("",) * DEVICES, 1, 32, 32, 1, 0.1, 0, 1, devices=DEVICES)
        server = Server(
            *(RUN, [Group(settings)], opened, SharedModel([WEIGHTS], {"w": np.zeros(DEVICES, np.float32)})),
            *(lambda *_: None, lambda *_: None),
        )

        async def handle(connection: ServerConnection) -> None:
            await server.attach(connection, dialled=False)

    async with serve(
        handle, "127.0.0.1", 0, compression=None, max_size=MAX_FRAME, ping_interval=None
    ) as listening:
        answer.send(next(iter(listening.sockets)).getsockname()[1])
        await asyncio.to_thread(answer.poll, None)


async def _echo(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


@dataclass
class Device:
    """A raw connection of a device: what it sends is encoded beforehand, what comes is counted."""

    socket: socket.socket
    number: int
    received: int = 0

    @classmethod
    def connect(cls, port: int, name: str, identity: Identity, *, hello: bool) -> Device:
        link = socket.create_connection(("127.0.0.1", port))
        protocol = ClientProtocol(parse_uri(f"ws://127.0.0.1:{port}/"))
        protocol.send_request(protocol.connect())
        link.sendall(b"".join(protocol.data_to_send()))
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += link.recv(1)
        if not hello:
            return cls(link, 0)
        greeting = pb.Hello(version=VERSION, device=name, identity=identity.public, samples=1000)
        link.sendall(_encoded(pb.Frame(hello=greeting)))
        head = link.recv(2, socket.MSG_WAITALL)
        frame = pb.Frame.FromString(link.recv(head[1], socket.MSG_WAITALL))
        return cls(link, frame.welcome.device)

    @classmethod
    def subscribed(cls, port: int, number: int) -> Device:
        """A client of nats-server that takes what is published for its number."""
        link = socket.create_connection(("127.0.0.1", port))
        link.sendall(f'CONNECT {{"verbose":false}}\r\nSUB device.{number} 1\r\nPING\r\n'.encode())
        answer = b""
        while b"PONG\r\n" not in answer:
            answer += link.recv(4096)
        return cls(link, number)

    def receive(self, wanted: int, rate: float = 0.0) -> None:
        """Read until `wanted` bytes in all have come; no faster than `rate` bytes a second, if given."""
        buffer = bytearray(1 << 18)
        began = time.monotonic()
        before = self.received
        while self.received < wanted:
            count = self.socket.recv_into(buffer, min(len(buffer), wanted - self.received))
            if not count:
                raise ConnectionError("the server closed a connection")
            self.received += count
            if rate:
                time.sleep(max(0.0, (self.received - before) / rate - (time.monotonic() - began)))


def _encoded(frame: pb.Frame) -> bytes:
    return Frame(Opcode.BINARY, encode_frame(frame)).serialize(mask=True)


def messages(identities: Sequence[Identity], sender: int, receiver: int, size: int) -> tuple[bytes, int, int]:
    """A megabyte of sealed envelopes as a device sends them; how many, and their bytes when they come out."""
    mine, theirs = X25519PrivateKey.generate(), X25519PrivateKey.generate().public_key().public_bytes_raw()
    channel = Channel(RUN, 1, sender, identities[sender], mine, receiver, identities[receiver].public, theirs)
    frames = [
        pb.Frame(envelope=channel.seal(pb.PURPOSE_ACTIVATION, os.urandom(size)))
        for _ in range(max(1, BATCH_BYTES // size))
    ]
    out = sum(websocket_bytes(len(encode_frame(frame)), masked=False) for frame in frames)
    return b"".join(map(_encoded, frames)), len(frames), out


def published(receiver: int, size: int) -> tuple[bytes, int, int]:
    """The same for nats-server: as many messages of `size` and an envelope's other bytes."""
    content = os.urandom(size + ENVELOPE_BYTES)
    count = max(1, BATCH_BYTES // size)
    data = f"PUB device.{receiver} {len(content)}\r\n".encode() + content + b"\r\n"
    out = len(f"MSG device.{receiver} 1 {len(content)}\r\n") + len(content) + 2
    return data * count, count, count * out


def crowd(port: int, kind: Kind, identities: Sequence[Identity]) -> list[Device]:
    """The devices, connected; with the relay, once the group has formed."""
    if kind == "nats":
        return [Device.subscribed(port, number) for number in range(DEVICES)]
    names = [f"device-{k}" for k in range(DEVICES)]
    devices = [
        Device.connect(port, name, identities[k], hello=kind == "relay") for k, name in enumerate(names)
    ]
    if kind == "relay":
        for device in devices:  # the assignment comes as soon as the last has joined
            head = device.socket.recv(4, socket.MSG_WAITALL)
            length = head[1] if head[1] < 126 else int.from_bytes(head[2:4], "big")
            device.socket.recv(length - (2 if head[1] < 126 else 0), socket.MSG_WAITALL)
    return devices


def run_devices(ports: dict[Kind, int], orders: Pipe) -> None:
    """Process body: carry out one round an order, (kind, size, batches), and answer with its seconds."""
    identities = [Identity.generate() for _ in range(DEVICES)]
    crowds = {kind: crowd(port, kind, identities) for kind, port in ports.items()}
    batches = {
        size: [messages(identities, k, (k + 1) % DEVICES, size) for k in range(DEVICES)]
        for size in SIZES.values()
    }
    nats = {size: [published((k + 1) % DEVICES, size) for k in range(DEVICES)] for size in SIZES.values()}
    while (order := orders.recv()) is not None:
        kind, size, count = order
        began = time.monotonic()
        sent = nats if kind == "nats" else batches
        _exchange(crowds[kind], sent[size], count, via=0 if kind == "echo" else -1)
        orders.send((time.monotonic() - began, DEVICES * count * batches[size][0][1]))


def _exchange(
    devices: Sequence[Device], batches: Sequence[tuple[bytes, int, int]], count: int, via: int
) -> None:
    def send(device: Device, data: bytes) -> None:
        for _ in range(count):
            device.socket.sendall(data)

    with ThreadPoolExecutor(2 * len(devices)) as threads:
        under_way = [
            *(threads.submit(send, device, batches[k][0]) for k, device in enumerate(devices)),
            *(
                threads.submit(device.receive, device.received + count * batches[(k + via) % DEVICES][2])
                for k, device in enumerate(devices)
            ),
        ]
        for end in as_completed(under_way):
            end.result()


def run_slow_receiver(port: int, size: int, megabytes: int, answer: Pipe) -> None:
    """Process body: a device sends as fast as it may to one that reads slowly."""
    identities = [Identity.generate() for _ in range(DEVICES)]
    devices = crowd(port, "relay", identities)
    data, _, out = messages(identities, 0, 1, size)

    def send() -> None:
        for _ in range(megabytes):
            devices[0].socket.sendall(data)

    sender = threading.Thread(target=send)
    sender.start()
    devices[1].receive(out * megabytes, SLOW_BYTES_A_SECOND)
    sender.join()
    answer.send(devices[1].received)


def nats_server(folder: str) -> tuple[list[str], int] | None:
    """The command that starts nats-server, and its port; None if it is not installed."""
    beside_python = f"{os.environ.get('PATH', '')}{os.pathsep}{Path(sys.executable).parent}"
    if (program := shutil.which("nats-server", path=beside_python)) is None:
        return None
    with socket.socket() as tried:
        tried.bind(("127.0.0.1", 0))
        port = int(tried.getsockname()[1])
    config = Path(folder) / "nats.conf"
    config.write_text(NATS_CONFIG.format(port=port))
    return [program, "-c", str(config)], port


class Processes:
    """The processes of the benchmark, ended when it ends."""

    def __init__(self) -> None:
        self._beside: list[subprocess.Popen[bytes]] = []
        self._context = mp.get_context("spawn")
        self._started: list[tuple[SpawnProcess, Pipe]] = []

    def start(self, body: Any, *arguments: Any) -> tuple[SpawnProcess, Pipe]:
        mine, theirs = self._context.Pipe()
        process = self._context.Process(target=body, args=(*arguments, theirs), daemon=True)
        process.start()
        self._started.append((process, mine))
        return process, mine

    def beside(self, started: tuple[list[str], int]) -> tuple[int, int]:
        """Start another program's server; its port, once it listens, and its process."""
        command, port = started
        nowhere = subprocess.DEVNULL
        process = subprocess.Popen(command, stdout=nowhere, stderr=nowhere)
        self._beside.append(process)
        until = time.monotonic() + 30
        while True:
            with suppress(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port)).close()
                return port, process.pid
            if time.monotonic() > until or process.poll() is not None:
                raise RuntimeError(f"{command[0]} does not listen")
            time.sleep(0.05)

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        for other in self._beside:
            other.terminate()
            other.wait()
        for process, pipe in self._started:
            pipe.close()
            process.terminate()
            process.join()


def cpu_seconds(pid: int | None) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident(pid: int | None) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def throughput(rounds: int, seconds: float) -> list[dict[str, Any]]:
    """Both servers by size of message: messages a second, and how many a second of the server's CPU time."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder, Processes() as processes:
        started: dict[Kind, tuple[SpawnProcess, Pipe]] = {
            "echo": processes.start(run_server, "echo", folder),
            "relay": processes.start(run_server, "relay", f"{folder}/run"),
        }
        ports = {kind: int(pipe.recv()) for kind, (_, pipe) in started.items()}
        servers = {kind: process.pid for kind, (process, _) in started.items()}
        if (found := nats_server(folder)) is not None:
            ports["nats"], servers["nats"] = processes.beside(found)
        _, devices = processes.start(run_devices, ports)
        for label, size in SIZES.items():
            count = 2
            rates: dict[Kind, list[float]] = {kind: [] for kind in servers}
            loads: dict[Kind, list[float]] = {kind: [] for kind in servers}
            for number in range(rounds + 1):
                for kind, pid in servers.items():
                    before = cpu_seconds(pid)
                    devices.send((kind, size, count))
                    took, moved = devices.recv()
                    if number:
                        rates[kind].append(moved / took)
                        loads[kind].append(moved / max(cpu_seconds(pid) - before, 1e-3))
                    else:
                        spent = took
                if not number:
                    count = max(1, round(count * seconds / spent))
            ratios = [a / b for a, b in zip(rates["relay"], rates["echo"], strict=True)]
            work = [a / b for a, b in zip(loads["relay"], loads["echo"], strict=True)]
            beside = {f"{kind}_us_of_cpu": 1e6 / statistics.median(times) for kind, times in loads.items()}
            rows.append(
                {
                    "message": label,
                    "echo_messages_per_second": statistics.median(rates["echo"]),
                    "relay_messages_per_second": statistics.median(rates["relay"]),
                    "ratio": statistics.median(ratios),
                    "ratio_per_cpu_second": statistics.median(work),
                    "rounds": rounds,
                    **beside,
                }
            )
        devices.send(None)
    return rows


def slow_receiver(size: int, megabytes: int) -> dict[str, Any]:
    """The relay's memory while a device floods one that reads slowly."""
    with tempfile.TemporaryDirectory() as folder, Processes() as processes:
        server, pipe = processes.start(run_server, "relay", f"{folder}/run")
        _, devices = processes.start(run_slow_receiver, pipe.recv(), size, megabytes)
        before = largest = resident(server.pid)
        while not devices.poll(0.02):
            largest = max(largest, resident(server.pid))
        return {
            "message": f"{size // 1000} kB",
            "moved_megabytes": devices.recv() / 1e6,
            "resident_before_megabytes": before / 1e6,
            "resident_growth_megabytes": (largest - before) / 1e6,
        }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument("--json", type=Path, help="write the rows here as well")
    arguments = parser.parse_args(argv)
    rounds, seconds = (5, 0.7) if arguments.quick else (15, 1.5)
    moved = throughput(rounds, seconds)
    beside = [key for key in moved[0] if key.endswith("_us_of_cpu")]
    table = Table("message", "echo 1/s", "relay 1/s", "relay / echo", "the same per CPU second of the server")
    for key in beside:
        table.add_column(key.replace("_us_of_cpu", ", us of CPU"))
    for row in moved:
        table.add_row(
            row["message"],
            f"{row['echo_messages_per_second']:,.0f}",
            f"{row['relay_messages_per_second']:,.0f}",
            f"{row['ratio']:.2f}",
            f"{row['ratio_per_cpu_second']:.2f}",
            *(f"{row[key]:.2f}" for key in beside),
        )
    memory = [slow_receiver(size, 60 if arguments.quick else 300) for size in SIZES.values()]
    growth = Table(
        "message", "moved MB", "resident before MB", "growth MB", title="receiver that reads 20 MB/s"
    )
    for row in memory:
        growth.add_row(*(v if isinstance(v, str) else f"{v:.1f}" for v in row.values()))
    show(arguments.json, [*moved, *memory], table, growth)


if __name__ == "__main__":
    main()
