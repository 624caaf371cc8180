"""Devices that come to a service all at once, and wait there for a run: CPU and memory of each, under TLS.

The service is `crowdlearn serve`, with a run in its queue that wants more devices than there are. The devices
are those of `crowdlearn-device join`, in one process: they dial by TLS, show a token, prove their identity
and wait. All begin at the same moment, from one address; those that are turned away come again after pauses
that grow. Told is the CPU of the service until all wait, its memory beyond that with one device,
and its load while they wait.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from crowdlearn_device.transport.join import join_host
from rich.table import Table

from .relay import cpu_seconds, resident
from .report import show

COMMAND = [sys.executable, "-c", "from crowdlearn_host.cli import main; main()"]
RUN = """
name = "crowd"
model = "mlp:64-16-10"
data = "digits"
device_data = "there"
group = { pieces = 2, groups = 10000 }
crowd = { wait = 0 }
"""
LOOK_SECONDS, IDLE_SECONDS, MOST_SECONDS = 0.5, 10.0, 600.0


class Service:
    """`crowdlearn serve` in a folder, with a queue of one run."""

    def __init__(self, folder: Path) -> None:
        self._environment = {**os.environ, "CROWDLEARN_HOME": str(folder / "home")}
        self._folder = folder / "service"
        config = folder / "crowd.toml"
        config.write_text(RUN)
        words = [*COMMAND, "serve", str(self._folder), "--listen", "127.0.0.1:0"]
        self.process = subprocess.Popen(
            words, env=self._environment | {"COLUMNS": "200"}, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if "devices arrive" in line:
                self.address = line.rpartition(" ")[2].strip()
            if "page and metrics" in line:
                self._page = line.partition(": ")[2].strip()
            if "add runs" in line:
                break
        self._crowdlearn("submit", str(config), "--to", str(self._folder))

    def _crowdlearn(self, *words: str) -> str:
        ran = subprocess.run([*COMMAND, *words], env=self._environment, capture_output=True, check=True)
        return ran.stdout.decode()

    def enrol(self, names: Sequence[str]) -> list[Mapping[str, str]]:
        return list(json.loads(self._crowdlearn("enrol", "--json", *names)))

    def waiting(self) -> int:
        with urllib.request.urlopen(self._page + "status.json", timeout=60) as answer:
            return int(json.load(answer)["devices_waiting"])

    def end(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()


async def measure(folder: Path, devices: int) -> dict[str, Any]:
    service = await asyncio.to_thread(Service, folder)
    try:
        return await _measured(service, folder, devices)
    finally:
        await asyncio.to_thread(service.end)


async def _measured(service: Service, folder: Path, devices: int) -> dict[str, Any]:
    first, *others = await asyncio.to_thread(service.enrol, [f"device-{k}" for k in range(devices + 1)])
    data, pid, over = folder / "data", service.process.pid, asyncio.Event()
    data.mkdir()
    np.savez(data / "train.npz", inputs=np.zeros((8, 64), np.float32), labels=np.zeros(8, np.int64))

    def joins(row: Mapping[str, str]) -> asyncio.Task[None]:
        name, url = row["device"], f"wss://{service.address}"
        return asyncio.create_task(join_host(folder / name, data, name, url, row["token"], row["pin"], over))

    joining = [joins(first)]
    while not await asyncio.to_thread(service.waiting):  # what the service needs for the first, it has then
        await asyncio.sleep(LOOK_SECONDS)
    empty, cpu, began = resident(pid), cpu_seconds(pid), time.monotonic()
    joining += map(joins, others)
    half = 0.0
    while (here := await asyncio.to_thread(service.waiting)) <= devices:
        took = time.monotonic() - began
        half = half or (took if here > devices / 2 else 0.0)
        if took > MOST_SECONDS:
            raise TimeoutError(f"{here} of {devices} devices came within {MOST_SECONDS:.0f} s")
        await asyncio.sleep(LOOK_SECONDS)
    arrived = cpu_seconds(pid) - cpu
    row = {
        "devices": devices,
        "seconds_until_half_wait": half or time.monotonic() - began,
        "seconds_until_all_wait": time.monotonic() - began,
        "service_milliseconds_of_cpu_a_device": 1e3 * arrived / devices,
        "kilobytes_a_device": (resident(pid) - empty) / 1e3 / devices,
        "service_megabytes": resident(pid) / 1e6,
    }
    cpu, began = cpu_seconds(pid), time.monotonic()
    await asyncio.sleep(IDLE_SECONDS)
    row["percent_of_a_core"] = 100 * (cpu_seconds(pid) - cpu) / (time.monotonic() - began)
    for task in joining:
        task.cancel()
    await asyncio.gather(*joining, return_exceptions=True)
    return row


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="100 devices alone")
    parser.add_argument("--devices", type=int, nargs="+", default=[100, 1000], help="devices at a time")
    parser.add_argument("--json", type=Path, help="write the rows here as well")
    arguments = parser.parse_args(argv)
    logging.disable(logging.WARNING)
    rows = []
    for devices in [100] if arguments.quick else arguments.devices:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(asyncio.run(measure(Path(folder), devices)))
    table = Table("", *(f"{row['devices']:,} devices" for row in rows))
    for key in list(rows[0])[1:]:
        table.add_row(key.replace("_", " "), *(f"{row[key]:,.3g}" for row in rows))
    show(arguments.json, rows, table)


if __name__ == "__main__":
    main()
