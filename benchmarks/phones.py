"""What virtual phones cost: memory and time of a crowd that trains, and whether a hundred deaths leak.

`python -m benchmarks.phones [--quick] [--json FILE]`. Memory is PSS: what n processes share counts 1/n each.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from crowdlearn import phones
from crowdlearn.phones import AdbDevice, RuntimeDeployment, load_signer
from rich.console import Console
from rich.table import Table

from benchmarks.adb import ECHO
from benchmarks.report import importable_elsewhere, write_rows

SAMPLE_SECONDS = 0.5
Row = dict[str, object]


def crowd(count: int) -> list[Row]:
    """Start `count` phones, train one epoch of the demo on them, and stop; memory by kind of process."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "CROWDLEARN_HOME": folder}
        words = ["demo", "--phones", str(count), "--epochs", "1", "--run", f"{folder}/run"]
        command = [sys.executable, "-c", "from crowdlearn_host.cli import main; main()", *words]
        started = time.monotonic()
        peaks: dict[str, list[float]] = {}
        with subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as training:
            while training.poll() is None:
                _sample(folder, peaks)
                time.sleep(SAMPLE_SECONDS)
            seconds = time.monotonic() - started
            output, errors = training.communicate()
        if training.returncode:
            raise SystemExit(errors.decode(errors="replace")[-2000:])
        left = len(_processes(folder))
    accuracy = re.search(rb"test accuracy ([\d.]+)", output)
    rows: list[Row] = [
        _row(f"{count} phones: start, one epoch of the demo, stop", "s", seconds),
        _row(f"{count} phones: test accuracy after that epoch", "%", float(accuracy[1]) if accuracy else 0.0),
        _row(f"{count} phones: processes left behind", "", left),
    ]
    for kind, (most, total) in sorted(peaks.items()):
        rows.append(_row(f"{count} phones: peak PSS of all, {kind} ({most:.0f})", "MB", total))
    each = sum(total for kind, (_, total) in peaks.items() if kind != "zygote") / count
    return [*rows, _row(f"{count} phones: PSS a phone, its process and its runtime", "MB", each)]


def deaths(cycles: int) -> list[Row]:
    """Start a phone with a program, connect, kill it, again and again; what is left over."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        load_signer(home / "key")
        asyncio.run(_die(home))
        before = len(os.listdir("/proc/self/fd"))
        started = time.monotonic()
        for _ in range(cycles):
            asyncio.run(_die(home))
        seconds = (time.monotonic() - started) / cycles
        return [
            _row("a phone's life: start, connect, program, kill", "s", seconds),
            _row(f"{cycles} lives: processes left", "", len(_processes(folder))),
            _row(f"{cycles} lives: file descriptors left", "", len(os.listdir("/proc/self/fd")) - before),
            _row(f"{cycles} lives: folders left", "", len(list((home / "phones").iterdir()))),
        ]


async def _die(home: Path) -> None:
    with phones.running(1, home, keys=[home / "key"], programs=ECHO, preload=()) as (info,):
        device = await AdbDevice.connect(info.serial, key=home / "key")
        deployment = RuntimeDeployment(device)
        await deployment.start()
        (await deployment.connect()).close()
        phones.kill(info.name, home)
        await device.close()


def _processes(home: str) -> list[Path]:
    found = []
    for folder in Path("/proc").iterdir():
        try:
            words = (
                (folder / "cmdline").read_bytes().decode(errors="replace") if folder.name.isdigit() else ""
            )
        except OSError:
            continue
        if "crowdlearn_host.emulator." in words and home in words:
            found.append(folder)
    return found


def _sample(home: str, peaks: dict[str, list[float]]) -> None:
    now: dict[str, list[float]] = {}
    for folder in _processes(home):
        try:
            words = (folder / "cmdline").read_bytes()
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            forked = (
                b"processes.zygote" in words
                and b"processes.zygote" in Path(f"/proc/{parent}/cmdline").read_bytes()
            )
            memory = re.search(r"^Pss:\s+(\d+)", (folder / "smaps_rollup").read_text(), re.M)
        except OSError:
            continue
        kind = "runtimes" if forked else "zygote" if b"processes.zygote" in words else "phones"
        entry = now.setdefault(kind, [0, 0.0])
        entry[0] += 1
        entry[1] += int(memory[1]) / 1000 if memory else 0.0
    for kind, (count, total) in now.items():
        peak = peaks.setdefault(kind, [0, 0.0])
        peak[0], peak[1] = max(peak[0], count), max(peak[1], total)


def _row(what: str, unit: str, value: float) -> Row:
    return {"what": what, "unit": unit, "value": value}


def main() -> None:
    """Measure, print a table, and write JSON if asked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.phones", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="4 phones and 3 lives")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    importable_elsewhere()
    rows = [*crowd(4 if arguments.quick else 32), *deaths(3 if arguments.quick else 100)]
    table = Table("what", "value", title="virtual phones")
    for row in rows:
        table.add_row(str(row["what"]), f"{row['value']:g} {row['unit']}")
    Console().print(table)
    write_rows(arguments.json, rows)


if __name__ == "__main__":
    main()
