"""What floods and intruders get at the doors: python -m benchmarks.doors [--quick] [--json FILE]."""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from crowdlearn import phones
from crowdlearn.hosting import Enrolment
from crowdlearn.phones import AdbDevice
from crowdlearn_device.platform.confinement import landlock_version
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.frames import VERSION, encode_frame
from crowdlearn_device.security.identity import Identity
from crowdlearn_device.security.proof import answer, bound_to_pin, new_nonce
from crowdlearn_host.emulator.settings import FILES
from rich.console import Console
from rich.table import Table
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from benchmarks.report import importable_elsewhere, machine, write_rows

MB = 1 << 20
ATTACKER, OTHER = "127.0.0.2", "127.0.0.1"
"""Addresses of this computer: whoever floods has another than who joins."""
JOIN_SECONDS = 10.0
ARRIVAL_SECONDS = 60.0
"""Patience with a message of others: both its ends share this process with those who flood."""
SNOOP = {"snoop": "benchmarks.doors.snoop:main"}
Row = dict[str, Any]


class Host:
    """A host in a process of its own, and what it takes."""

    def __init__(self, home: Path) -> None:
        self.home = home
        command = [sys.executable, "-m", "benchmarks.doors.host", str(home)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        self.idle = self._memory("VmRSS")

    def peak(self) -> int:
        """Bytes that the process took at most since the last `reset`."""
        return self._memory("VmHWM")

    def reset(self) -> None:
        Path(f"/proc/{self._process.pid}/clear_refs").write_text("5")

    def disk(self) -> int:
        return sum(path.stat().st_size for path in (self.home / "run").rglob("*") if path.is_file())

    def close(self) -> None:
        with suppress(subprocess.TimeoutExpired):
            self._process.communicate(timeout=20)
        self._process.kill()
        self._process.wait()

    def _memory(self, name: str) -> int:
        lines = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith(name))


@contextmanager
def a_host() -> Iterator[Host]:
    with tempfile.TemporaryDirectory() as home:
        host = Host(Path(home))
        try:
            yield host
        finally:
            host.close()


def row(door: str, attack: str, figure: float, limit: float, unit: str, *, at_least: bool = False) -> Row:
    figure = round(figure, 3)
    held = figure >= limit if at_least else figure <= limit
    what = {"door": door, "attack": attack}
    return {**what, "figure": figure, "limit": limit, "unit": unit, "held": held}


async def dial(port: int, address: str = OTHER) -> ClientConnection:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return await connect(
        f"wss://127.0.0.1:{port}",
        ssl=context,
        compression=None,
        proxy=None,
        local_addr=(address, 0),
        max_size=None,
    )


async def join(host: Host, name: str, token: str) -> ClientConnection:
    """A device of the host's. Raises OSError, WebSocketException or TimeoutError if it is not let in."""
    async with asyncio.timeout(JOIN_SECONDS):
        device = await dial(host.port)
        key, shown = Identity.generate(), new_nonce()
        body = pb.Hello(
            version=VERSION, device=name, identity=key.public, samples=9, token=token, nonce=shown
        )
        await device.send(pb.Frame(hello=body).SerializeToString())
        reply = await device.recv(decode=False)
        asked = pb.Frame.FromString(reply).challenge
        certificate = device.transport.get_extra_info("ssl_object").getpeercert(True)
        binding = bound_to_pin(hashlib.sha256(certificate).hexdigest())
        proof = answer(key, body, asked, binding)
        await device.send(pb.Frame(proof=proof).SerializeToString())
        await device.recv()
        return device


def silent_connections(count: int) -> Row:
    with a_host() as host:
        host.reset()
        held = []
        for number in range(count):
            with suppress(OSError):
                own = f"127.0.{number % 50 + 1}.3", 0
                held.append(socket.create_connection(("127.0.0.1", host.port), 5, source_address=own))
        time.sleep(1)
        peak = host.peak()
        for each in held:
            each.close()
        return row("host's port", f"{count} silent connections of 50 hosts", peak / MB, memory(host), "MB")


def shaken_hands(count: int) -> Row:
    async def shake(host: Host) -> None:
        async def one(number: int) -> None:
            with suppress(OSError, WebSocketException, TimeoutError):
                device = await dial(host.port, f"127.0.{number % 50 + 1}.4")
                await device.send(bytes(60_000))

        await asyncio.gather(*map(one, range(count)))

    with a_host() as host:
        host.reset()
        asyncio.run(shake(host))
        return row("host's port", f"{count} strangers that shook hands", host.peak() / MB, memory(host), "MB")


def large_envelopes(senders: int, seconds: float) -> Row:
    """Members that send what they may to one that does not read."""
    size = 60 * MB

    async def attack(host: Host) -> None:
        enrolment = Enrolment(host.home)
        names = [f"phone-{number}" for number in range(senders + 1)]
        devices = [await join(host, name, enrolment.enrol(name)) for name in names]
        devices[-1].transport.pause_reading()

        async def send(number: int) -> None:
            envelope = pb.Envelope(sender=number, receiver=senders, sealed=bytes(size))
            frame = encode_frame(pb.Frame(envelope=envelope))
            while True:
                await devices[number].send(frame)

        sending = [asyncio.create_task(send(number)) for number in range(senders)]
        await asyncio.sleep(seconds)
        for task in sending:
            task.cancel()
        await asyncio.gather(*sending, return_exceptions=True)
        for device in devices:
            device.transport.abort()

    with a_host() as host:
        host.reset()
        asyncio.run(attack(host))
        attacked = f"{senders} send envelopes of 60 MB to one that does not read"
        return row("member", attacked, host.peak() / MB, memory(host), "MB")


def colluding(pairs: int, seconds: float) -> list[Row]:
    """Members that send what they may to as many that do not read, and one that sends to one that reads."""
    size = 60 * MB

    async def attack(host: Host) -> int:
        enrolment = Enrolment(host.home)
        names = [f"phone-{number}" for number in range(2 * pairs + 2)]
        devices = [await join(host, name, enrolment.enrol(name)) for name in names]
        for deaf in devices[pairs : 2 * pairs]:
            deaf.transport.pause_reading()

        async def send(number: int, receiver: int) -> None:
            sealed = bytes(size)
            envelope = pb.Envelope(sender=number, receiver=receiver, sealed=sealed)
            with suppress(WebSocketException):
                while True:
                    await devices[number].send(encode_frame(pb.Frame(envelope=envelope)))

        sending = [asyncio.create_task(send(number, pairs + number)) for number in range(pairs)]
        await asyncio.sleep(seconds / 2)
        sending.append(asyncio.create_task(send(2 * pairs, 2 * pairs + 1)))
        arrived = 0
        with suppress(TimeoutError, WebSocketException):
            async with asyncio.timeout(ARRIVAL_SECONDS):
                while not arrived:
                    arrived += len(await devices[-1].recv(decode=False)) > size
        for task in sending:
            task.cancel()
        await asyncio.gather(*sending, return_exceptions=True)
        for device in devices:
            device.transport.abort()
        return arrived

    with a_host() as host:
        host.reset()
        arrived = asyncio.run(attack(host))
        text = f"{pairs} send envelopes of 60 MB to {pairs} that do not read"
        return [
            row("member", text, host.peak() / MB, memory(host), "MB"),
            row("member", f"{text}: one of others that arrives", arrived, 1, "messages", at_least=True),
        ]


def memory(host: Host) -> float:
    """The limit of a host's memory under a flood, in MB."""
    return round((2 * host.idle + 64 * MB) / MB, 1)


def knocks(seconds: float, a_second: int, joins: int) -> Row:
    """Joins that get through while one address knocks."""
    over, made = threading.Event(), [0]

    def flood(port: int) -> None:
        began = time.monotonic()
        while not over.is_set():
            if made[0] > (time.monotonic() - began) * a_second:
                time.sleep(0.001)
                continue
            made[0] += 1
            with suppress(OSError):
                knocking = socket.socket()
                knocking.setblocking(False)
                knocking.bind((ATTACKER, 0))
                knocking.connect_ex(("127.0.0.1", port))
                knocking.close()

    async def all_join(host: Host, tokens: dict[str, str]) -> int:
        async def one(number: int, name: str) -> bool:
            await asyncio.sleep(seconds * number / len(tokens))
            try:
                await (await join(host, name, tokens[name])).close()
            except (OSError, WebSocketException, TimeoutError):
                return False
            return True

        return sum(await asyncio.gather(*(one(number, name) for number, name in enumerate(tokens))))

    with a_host() as host:
        enrolment = Enrolment(host.home)
        tokens = {f"phone-{number}": enrolment.enrol(f"phone-{number}") for number in range(joins)}
        flooding = threading.Thread(target=flood, args=(host.port,))
        began = time.monotonic()
        flooding.start()
        through = asyncio.run(all_join(host, tokens))
        over.set()
        flooding.join()
        rate = made[0] / (time.monotonic() - began)
    attack = f"{rate:.0f} knocks/s from one address: joins that get in"
    return row("host's port", attack, through / joins, 0.95, "share", at_least=True)


def frames_of_a_member(what: str, frames: Callable[[], Iterator[pb.Frame]], limit: int) -> Row:
    async def send(host: Host, token: str) -> None:
        device = await join(host, "phone-1", token)
        with suppress(WebSocketException, OSError):
            for frame in frames():
                await device.send(frame.SerializeToString())
            await asyncio.wait_for(await device.ping(), 60)
        await device.close()

    with a_host() as host:
        token = Enrolment(host.home).enrol("phone-1")
        before = host.disk()
        asyncio.run(send(host, token))
        return row("member", f"{what}: the run's folder grows", (host.disk() - before) / MB, limit / MB, "MB")


def faults(count: int) -> Row:
    def frames() -> Iterator[pb.Frame]:
        for number in range(count):
            yield pb.Frame(fault=pb.Fault(generation=0, kind=pb.FAULT_WIRE, reason=f"{number} " + "x" * 400))

    return frames_of_a_member(f"{count} faults", frames, 1 * MB)


def snapshots(count: int) -> Row:
    def frames() -> Iterator[pb.Frame]:
        for number in range(count):
            sealed = bytes(MB)
            yield pb.Frame(
                snapshot=pb.Snapshot(boundary=1000 + number, sealed=sealed, parts=1, ephemeral=bytes(32))
            )

    return frames_of_a_member(f"{count} snapshots of 1 MB", frames, 1 * MB)


def visitors() -> list[Row]:
    """What a program of a virtual phone reads of the computer, and whose keys the phone trusts."""

    async def read(serial: str, path: Path) -> bytes:
        async with await AdbDevice.connect(serial) as device:
            return (await device.shell(f"cd /data/local/tmp; snoop {path.name}")).stdout

    async def intrude(serial: str, key: Path) -> bool:
        with suppress(Exception):
            await (await AdbDevice.connect(serial, key=key, accept_timeout=1.0)).close()
            return True
        return False

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        (home / "secret").write_text("secret")
        with phones.running(1, home, programs=SNOOP, preload=()) as (info,):
            link = home / "phones" / info.name / FILES / "data/local/tmp" / "link"
            link.symlink_to(home / "secret")
            found = b"secret" in asyncio.run(read(info.serial, link))
            entered = asyncio.run(intrude(info.serial, home / "strange-key"))
        text = f"files of the computer read through a link (Landlock {landlock_version()})"
        rows.append(row("virtual phone", text, float(found), 0, "files"))
        rows.append(row("virtual phone", "entered with a key of nobody", float(entered), 0, "visits"))
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="less of everything")
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument("--strict", action="store_true", help="end with 1 if a limit is not held")
    arguments = parser.parse_args(argv)
    importable_elsewhere()
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    scale = 1 if arguments.quick else 4
    rows = [
        silent_connections(500 * scale),
        shaken_hands(50 * scale),
        large_envelopes(2, 5.0 * scale),
        *colluding(4 * scale, 10.0 * scale),
        knocks(5.0 * scale, 5000, 20 * scale),
        faults(5000 * scale),
        snapshots(15 * scale),
        *visitors(),
    ]
    table = Table("door", "attack", "figure", "limit", "unit", "held", title=machine())
    for each in rows:
        cells = (each[name] for name in ("door", "attack", "figure", "limit", "unit", "held"))
        table.add_row(*map(str, cells))
    Console().print(table)
    write_rows(arguments.json, rows)
    if arguments.strict and not all(each["held"] for each in rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
