"""What a host costs with 100, 1000 and 10,000 devices: CPU of a message, memory, idle load, relay processes,
a killed host or relay, and twice the load that fits.

The host is one process, with the real server, coordinator and run folder; devices (crowd_device.py) speak
the real protocol over loopback and compute nothing. Groups have 5 devices. One group trains alone first;
then all do at once. A killed host is started again on the same folder while the devices stay: no mini-batch
may be missing or trained twice after its boundary was committed. Relay processes carry what the CPU of the
busiest process allows: two cores that devices share cannot show it as messages a second. A host takes on
no new groups while its loop is late (hub/pressure.py): twice as many groups come as it can bear, and some
wait until others have ended.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import signal
import socket
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

import numpy as np
from crowdlearn.hosting import (
    Dialled,
    Group,
    RelayedArrival,
    RunFolder,
    Server,
    Settings,
    SharedModel,
    SilentDevice,
    exposed,
    relaying,
)
from crowdlearn_device.program.manifest import ArraySpec
from crowdlearn_device.protocol.frames import MAX_FRAME
from rich.table import Table
from websockets.asyncio.server import ServerConnection, serve

from .crowd_device import LightDevice, Load
from .relay import cpu_seconds, resident
from .report import show

SIZE = 5
BATCH = 1
WARM = 500
"""Messages of a group before anything is measured."""
SLICE, BEARABLE, LATER = 0.05, 0.02, 6.0
"""Of a host with more than it can bear, in seconds: how often its loop is held up, by how much it may be late
before it takes on no more, and how long the second half of its devices stays away.
"""
WEIGHTS = ArraySpec("w", 0, (), trained=True)


def settings_of(devices: int, size: int) -> Settings:
    """A group of `size` that begins with `devices`; pieces are of one neuron."""
    layout = tuple(((k, k + 1),) for k in range(SIZE))
    return Settings(
        layout,
        ("",) * SIZE,
        1,
        BATCH,
        1,
        1,
        0.1,
        0,
        1 << 30,
        devices=size,
        grace_seconds=3600.0 if devices < size else 60.0,
        alone=True,
    )


def run_host(folder: str, port: int, groups: int, size: int, relays: int, fits: int, ready: Pipe) -> None:
    """Process body: serve a run until it is over."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    asyncio.run(_host(Path(folder), port, groups, size, relays, fits, ready))


async def _host(path: Path, port: int, groups: int, size: int, relays: int, fits: int, ready: Pipe) -> None:
    settings = settings_of(SIZE, size)
    with RunFolder(path, create=not (path / "run.db").exists()) as folder:
        states = [folder.load_group(number) for number in range(groups)]
        made = [Group(settings) if s is None else Group.from_json(settings, s) for s in states]
        shared = SharedModel([WEIGHTS], {"w": np.zeros(SIZE, np.float32)}, omega=1)
        server = Server("run", made, folder, shared, lambda *_: None, lambda *_: None)

        async def handle(connection: ServerConnection) -> None:
            number = int(connection.request.path[1:]) if connection.request else None
            await server.attach(Dialled(connection, may_move=True), dialled=False, number=number)

        async def relayed(arrival: RelayedArrival) -> None:
            with suppress(SilentDevice):  # more came at once than may wait; they come again
                await server.attach(arrival, dialled=False, number=int(arrival.path[1:]))

        pids: list[int] = []
        async with AsyncExitStack() as stack:
            if relays:
                pool = await stack.enter_async_context(relaying(relays, server, "127.0.0.1", None, relayed))
                server.relays, pids = pool, pool.pids
            await stack.enter_async_context(
                serve(
                    handle,
                    "127.0.0.1",
                    port,
                    compression=None,
                    max_size=MAX_FRAME,
                    ping_interval=None,
                    open_timeout=120,
                    backlog=4096,
                )
            )
            metrics = await stack.enter_async_context(exposed(server, "127.0.0.1:0"))
            ready.send(("listening", pids, metrics))
            ticking = asyncio.create_task(server.ticking())
            burden = asyncio.create_task(_burden(server, fits))
            await server.over.wait()
            await server.close()
            await ticking
            burden.cancel()
        state: list[tuple[int, str]] = [(group.boundary, group.phase) for group in made]
        ready.send(state if server.error is None else repr(server.error))


async def _burden(server: Server, fits: int) -> None:
    """Hold the loop up as a computer would be that is busy all the time with `fits` groups; 0: not at all."""
    server.pressure.most_late = BEARABLE if fits else server.pressure.most_late
    while fits:
        working = sum(group.phase == "running" for group in server.groups)
        time.sleep(2 * SLICE * working / fits)
        await asyncio.sleep(SLICE)


def run_devices(
    port: int, count: int, size: int, samples: int, load: Load, comes_later: float, orders: Pipe
) -> None:
    """Process body: the devices of all groups; tells, when asked, how many messages they have sent."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    asyncio.run(_devices(port, count, size, samples, load, comes_later, orders))


async def _devices(
    port: int, count: int, size: int, samples: int, load: Load, comes_later: float, orders: Pipe
) -> None:
    devices = [LightDevice(f"device-{number:05d}", samples, load) for number in range(count)]
    serving = []
    for number, device in enumerate(devices):
        if comes_later and number == count // 2:
            await asyncio.sleep(comes_later)
        serving.append(asyncio.create_task(device.serve(port, number // SIZE * size + number % SIZE)))
        if number % 50 == 49:
            await asyncio.sleep(0.02)
    answering = asyncio.create_task(_answer(devices, orders))
    await asyncio.gather(*serving)
    answering.cancel()
    orders.send(("over", [device.trained for device in devices]))


async def _answer(devices: Sequence[LightDevice], orders: Pipe) -> None:
    while True:
        while not orders.poll():
            await asyncio.sleep(0.01)
        orders.recv()
        here = sum(device.welcomed for device in devices)
        orders.send(("so far", (sum(device.sent for device in devices), here)))


class Crowd:
    """A host and its devices, each in a process of its own."""

    def __init__(
        self,
        folder: Path,
        groups: int,
        samples: int,
        load: Load,
        size: int = SIZE,
        relays: int = 0,
        fits: int = 0,
        comes_later: float = 0.0,
    ) -> None:
        self._context = get_context("spawn")
        self._folder, self._groups, self._size, self._relays = folder, groups, size, relays
        self._fits = fits
        with socket.socket() as tried:
            tried.bind(("127.0.0.1", 0))
            self.port = int(tried.getsockname()[1])
        self.start_host()
        self._orders, theirs = self._context.Pipe()
        arguments = (self.port, groups * SIZE, size, samples, load, comes_later, theirs)
        self._devices = self._context.Process(target=run_devices, args=arguments, daemon=True)
        self._devices.start()

    def start_host(self) -> None:
        self._ready, theirs = self._context.Pipe()
        size, relays, fits = self._size, self._relays, self._fits
        arguments = (str(self._folder), self.port, self._groups, size, relays, fits, theirs)
        self.host = self._context.Process(target=run_host, args=arguments, daemon=True)
        self.host.start()
        port, self.relays, self._metrics = self._ready.recv()
        assert port == "listening"

    def kill_host(self) -> None:
        assert self.host.pid is not None
        os.kill(self.host.pid, signal.SIGKILL)
        self.host.join()

    def kill_relay(self) -> None:
        """Kill the relay process of some groups; the host starts another."""
        os.kill(self.relays.pop(), signal.SIGKILL)

    def metrics(self) -> dict[str, float]:
        """Values that the host tells Prometheus, by name and labels."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._metrics}/metrics", timeout=30) as answer:
            lines = answer.read().decode().splitlines()
        parts = (line.rpartition(" ") for line in lines if not line.startswith("#"))
        return {name.removeprefix("crowdlearn_"): float(value) for name, _, value in parts}

    def sent(self) -> tuple[int, int]:
        """Messages that devices have sent to each other, and devices that are connected."""
        with suppress(BrokenPipeError):  # the run is over, which they have told
            self._orders.send("how many")
        kind, count = self._orders.recv()
        if kind == "over":
            self._over = count
            return -1, 0
        return count

    def end(self) -> tuple[list[dict[int, int]], list[tuple[int, str]]]:
        """Wait for the end: the mini-batches that each device trained, and where each group stands."""
        trained = getattr(self, "_over", None)
        if trained is None:
            kind, trained = self._orders.recv()
            assert kind == "over"
        answer = self._ready.recv()
        if isinstance(answer, str):
            raise RuntimeError(answer)
        self.stop()
        return trained, answer

    def stop(self) -> None:
        for process in (self.host, self._devices):
            process.terminate()
            process.join()


def cost(folder: Path, groups: int, seconds: float, load: Load, relays: int = 0) -> dict[str, Any]:
    """CPU of a message with all groups training, of the host and its relays, and of the busiest of these
    processes; and their memory.
    """
    crowd = Crowd(folder, groups, 1 << 20, load, relays=relays)
    _all_here(crowd, groups * SIZE)
    while crowd.sent()[0] < groups * WARM:
        time.sleep(0.2)
    processes = [crowd.host.pid, *crowd.relays]
    sent, _ = crowd.sent()
    before, began = [cpu_seconds(pid) for pid in processes], time.monotonic()
    time.sleep(seconds)
    more, _ = crowd.sent()
    spent = [cpu_seconds(pid) - cpu for pid, cpu in zip(processes, before, strict=True)]
    took, messages = time.monotonic() - began, max(more - sent, 1)
    row = {
        "devices": groups * SIZE,
        "groups": groups,
        "relays": relays,
        "messages_per_second": messages / took,
        "host_us_per_message": 1e6 * sum(spent) / messages,
        "busiest_us_per_message": 1e6 * max(spent) / messages,
        "host_resident_megabytes": sum(map(resident, processes)) / 1e6,
        **_lateness(crowd),
    }
    crowd.stop()
    return row


def _lateness(crowd: Crowd) -> dict[str, float]:
    """The host's loop: how late it was lately, and at most because of its own work, in milliseconds."""
    metrics = crowd.metrics()
    return {
        "late_milliseconds": 1000 * metrics["loop_late_seconds"],
        "longest_own_pause_milliseconds": 1000 * metrics["loop_longest_own_seconds"],
    }


def overloaded(folder: Path, groups: int, samples: int) -> dict[str, Any]:
    """Twice as many groups come to a host as it can bear, which is emulated by holding its loop up; half of
    them come when the others have trained for a while.
    """
    load = Load(4, 200)
    crowd = Crowd(folder, 2 * groups, samples, load, fits=groups, comes_later=LATER)
    put_off = here = 0.0
    while crowd.sent()[0] >= 0:
        with suppress(OSError):  # the host has ended
            metrics = crowd.metrics()
            put_off, here = metrics["put_off_total"], max(here, metrics["devices_connected"])
        time.sleep(0.2)
    trained, stands = crowd.end()
    wanted = samples * SIZE // BATCH
    return {
        "offered_groups": 2 * groups,
        "most_devices_at_once": here,
        "put_off": put_off,
        "mini_batches": wanted * 2 * groups,
        "lost": _lost(trained, 2 * groups, wanted),
        "groups_that_ended": sum(stand == (wanted, "done") for stand in stands),
    }


def _lost(trained: Sequence[dict[int, int]], groups: int, wanted: int) -> int:
    """Mini-batches that no device of their group has trained."""
    lost = 0
    for group in range(groups):
        done = set().union(*(trained[group * SIZE + k] for k in range(SIZE)))
        lost += len(set(range(1, wanted + 1)) - done)
    return lost


def idle(folder: Path, groups: int, seconds: float) -> dict[str, Any]:
    """A host whose groups wait for one device each."""
    crowd = Crowd(folder, groups, 10, Load(), size=SIZE + 1)
    _all_here(crowd, groups * SIZE)
    time.sleep(2.0)
    cpu, began = cpu_seconds(crowd.host.pid), time.monotonic()
    time.sleep(seconds)
    spent, took = cpu_seconds(crowd.host.pid) - cpu, time.monotonic() - began
    row = {
        "idle_devices": groups * SIZE,
        "percent_of_a_core": 100 * spent / took,
        "host_resident_megabytes": resident(crowd.host.pid) / 1e6,
    }
    crowd.stop()
    return row


def killed(folder: Path, groups: int, samples: int, kills: int, relays: int = 0) -> dict[str, Any]:
    """A run whose host is killed and started again, or, with `relays`, one of these: what became of its
    mini-batches.
    """
    crowd = Crowd(folder, groups, samples, Load(4, 200), relays=relays)
    _all_here(crowd, groups * SIZE)
    for _ in range(kills):
        time.sleep(1.0)
        if crowd.sent()[0] < 0:
            break
        if relays:
            crowd.kill_relay()
        else:
            crowd.kill_host()
            crowd.start_host()
    trained, stands = crowd.end()
    wanted = samples * SIZE // BATCH
    return {
        "killed_devices": groups * SIZE,
        "killed": "relay" if relays else "host",
        "kills": kills,
        "mini_batches": wanted * groups,
        "lost": _lost(trained, groups, wanted),
        "groups_that_ended": sum(stand == (wanted, "done") for stand in stands),
    }


def _all_here(crowd: Crowd, devices: int) -> None:
    while (sent := crowd.sent())[0] >= 0 and sent[1] < devices:
        time.sleep(0.2)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="1 and 20 groups alone, and shorter")
    parser.add_argument("--json", type=Path, help="write the rows here as well")
    arguments = parser.parse_args(argv)
    seconds = 3.0 if arguments.quick else 10.0
    crowds = (1, 20) if arguments.quick else (1, 20, 200, 2000)
    rows: list[dict[str, Any]] = []

    def done(row: dict[str, Any]) -> None:
        rows.append(row)
        print(row, file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory() as folder:
        for groups in crowds:
            row = cost(Path(folder) / f"cost-{groups}", groups, seconds, Load())
            first = rows[0] if rows else row
            done(row | {"ratio": row["host_us_per_message"] / first["host_us_per_message"]})
        loaded = crowds[1]
        for relays in (1, 2):
            done(cost(Path(folder) / f"relays-{relays}", loaded, seconds, Load(), relays))
        rows[-1]["carried_by_two_over_one"] = (
            rows[-2]["busiest_us_per_message"] / rows[-1]["busiest_us_per_message"]
        )
        done(overloaded(Path(folder) / "overloaded", crowds[1], 100))
        done(idle(Path(folder) / "idle", crowds[-1], seconds))
        for groups in crowds[1:]:
            done(killed(Path(folder) / f"killed-{groups}", groups, 10, 2))
            done(killed(Path(folder) / f"relay-killed-{groups}", groups, 10, 2, relays=2))
    tables = []
    for row in rows:
        tables.append(Table(show_header=False))
        for key, value in row.items():
            tables[-1].add_row(
                key.replace("_", " "), f"{value:.3g}" if isinstance(value, float) else str(value)
            )
    show(arguments.json, rows, *tables)


if __name__ == "__main__":
    main()
