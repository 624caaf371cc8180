"""What adb costs on loopback: our connection, stock adb-shell and the adb program against one virtual phone.

`python -m benchmarks.adb [--quick] [--json FILE]`. Rounds are interleaved: a busy machine slows everyone.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from adb_shell.adb_device import AdbDevice as AdbShellDevice
from adb_shell.transport.tcp_transport import TcpTransport
from crowdlearn import phones
from crowdlearn.phones import AdbDevice, FullSendTransport, RuntimeDeployment, load_signer, parse_address
from rich.console import Console
from rich.table import Table

from .report import importable_elsewhere, write_rows

REMOTE = "/data/local/tmp/blob"
MEGABYTE = 1_000_000
STREAMS = 16
ECHO = {"crowdlearn-device": "benchmarks.echo:main"}
BARS = {"push": 60.0, "pull": 30.0, "stat": 2.0}


@dataclass(frozen=True)
class Row:
    """One figure: the median of its rounds, the best and the worst; `bar` is what ours must reach."""

    what: str
    who: str
    unit: str
    median: float
    worst: float
    best: float
    rounds: int
    bar: float | None = None


Measured = dict[tuple[str, str, str], list[float]]


async def measure(megabytes: int, rounds: int) -> list[Row]:
    """Every figure on a phone of its own."""
    found: Measured = {}
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        signer = load_signer(home / "key")
        blob = home / "blob"
        blob.write_bytes(os.urandom(megabytes * MEGABYTE))
        with phones.running(1, home, programs=ECHO, preload=(), auto_accept=True) as (phone,):
            async with await AdbDevice.connect(phone.serial, key=home / "key") as device:
                await _ours(found, device, blob, rounds=1)
                found.clear()
                stock = AdbShellDevice(TcpTransport(*parse_address(phone.serial)), 10)
                sending = AdbShellDevice(FullSendTransport(*parse_address(phone.serial)), 10)
                for shell in (stock, sending):
                    await asyncio.to_thread(shell.connect, rsa_keys=[signer], auth_timeout_s=10)
                program = _Program(shutil.which("adb"), home, phone.serial)
                for _ in range(rounds):
                    await _ours(found, device, blob, rounds=1)
                    await asyncio.to_thread(
                        _adb_shell, found, "adb-shell as shipped", stock, blob, push=False
                    )
                    await asyncio.to_thread(
                        _adb_shell, found, "adb-shell, full sends", sending, blob, push=True
                    )
                    await asyncio.to_thread(program.measure, found, blob)
                await _streams(found, device, megabytes)
                program.stop()
                for shell in (stock, sending):
                    shell.close()
    return [_row(key, values) for key, values in found.items()]


async def _ours(found: Measured, device: AdbDevice, blob: Path, *, rounds: int) -> None:
    megabytes = blob.stat().st_size / MEGABYTE
    for _ in range(rounds):
        seconds = await _seconds(lambda: device.push(blob, REMOTE))
        _note(found, "push", "crowdlearn", "MB/s", megabytes / seconds)
        seconds = await _seconds(lambda: device.pull_to(REMOTE, blob.with_name("back")))
        _note(found, "pull", "crowdlearn", "MB/s", megabytes / seconds)
        for _ in range(20):
            _note(found, "stat", "crowdlearn", "ms", 1000 * await _seconds(lambda: device.stat(REMOTE)))
        for _ in range(5):
            _note(
                found, "shell true", "crowdlearn", "ms", 1000 * await _seconds(lambda: device.shell("true"))
            )


def _adb_shell(found: Measured, who: str, device: AdbShellDevice, blob: Path, *, push: bool) -> None:
    megabytes = blob.stat().st_size / MEGABYTE
    back = str(blob.with_name("back"))
    # As shipped a push of this size breaks: what a send leaves over is dropped.
    if push:
        _note(found, "push", who, "MB/s", megabytes / _blocking(lambda: device.push(str(blob), REMOTE)))
    _note(found, "pull", who, "MB/s", megabytes / _blocking(lambda: device.pull(REMOTE, back)))
    for _ in range(5):
        _note(found, "stat", who, "ms", 1000 * _blocking(lambda: device.stat(REMOTE)))
        _note(found, "shell true", who, "ms", 1000 * _blocking(lambda: device.shell("true")))


class _Program:
    """The adb program of this computer, if there is one, with a server of its own."""

    def __init__(self, program: str | None, home: Path, serial: str) -> None:
        self._program = program
        self._serial = serial
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        self._environment = {**os.environ, "HOME": str(home), "ANDROID_ADB_SERVER_PORT": str(port)}
        self._run("connect", serial)
        self._run("-s", serial, "wait-for-device")

    def measure(self, found: Measured, blob: Path) -> None:
        if self._program is None:
            return
        megabytes = blob.stat().st_size / MEGABYTE
        target = ("-s", self._serial)
        back = str(blob.with_name("back"))
        seconds = _blocking(lambda: self._run(*target, "push", str(blob), REMOTE))
        _note(found, "push", "adb program", "MB/s", megabytes / seconds)
        seconds = _blocking(lambda: self._run(*target, "pull", REMOTE, back))
        _note(found, "pull", "adb program", "MB/s", megabytes / seconds)
        seconds = _blocking(lambda: self._run(*target, "shell", "true"))
        _note(found, "shell true", "adb program", "ms", 1000 * seconds)

    def stop(self) -> None:
        self._run("kill-server")

    def _run(self, *words: str) -> None:
        if self._program:
            subprocess.run([self._program, *words], env=self._environment, capture_output=True, check=True)


async def _streams(found: Measured, device: AdbDevice, megabytes: int) -> None:
    """Both ways at once on 16 streams to a program that echoes; the slowest stream tells starvation."""
    deployment = RuntimeDeployment(device)
    await deployment.start()
    content = bytes(megabytes * MEGABYTE // STREAMS)

    async def echoed() -> float:
        sock = await deployment.connect()
        loop = asyncio.get_running_loop()
        started = time.perf_counter()
        sending = loop.create_task(loop.sock_sendall(sock, content))
        left = len(content)
        while left:
            left -= len(await loop.sock_recv(sock, 1 << 18))
        await sending
        sock.close()
        return time.perf_counter() - started

    seconds = await asyncio.gather(*(echoed() for _ in range(STREAMS)))
    name = f"{STREAMS} streams both ways"
    _note(found, name, "crowdlearn", "MB/s", 2 * STREAMS * len(content) / MEGABYTE / max(seconds))
    _note(found, f"{name}, slowest / fastest", "crowdlearn", "ratio", max(seconds) / min(seconds))
    await deployment.stop()


async def _seconds(work: Callable[[], Awaitable[object]]) -> float:
    started = time.perf_counter()
    await work()
    return time.perf_counter() - started


def _blocking(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _note(found: Measured, what: str, who: str, unit: str, value: float) -> None:
    found.setdefault((what, who, unit), []).append(value)


def _row(key: tuple[str, str, str], values: list[float]) -> Row:
    what, who, unit = key
    worst, best = (min(values), max(values)) if unit == "MB/s" else (max(values), min(values))
    bar = BARS.get(what) if who == "crowdlearn" else None
    return Row(what, who, unit, statistics.median(values), worst, best, len(values), bar)


def main() -> None:
    """Measure, print a table, and write JSON if asked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.adb", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="less data and fewer rounds")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    importable_elsewhere()
    rows = asyncio.run(measure(16 if arguments.quick else 100, 3 if arguments.quick else 7))
    rows.sort(key=lambda row: (row.what, row.who))
    table = Table("what", "who", "median", "worst", "best", "bar", title="adb on loopback, one virtual phone")
    for row in rows:
        figures = [f"{value:.2f} {row.unit}" for value in (row.median, row.worst, row.best)]
        table.add_row(row.what, row.who, *figures, "" if row.bar is None else f"{row.bar:g} {row.unit}")
    Console().print(table)
    write_rows(arguments.json, [asdict(row) for row in rows])


if __name__ == "__main__":
    main()
