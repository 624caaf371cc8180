"""What a sample and a message cost in CPU time: MNIST's MLP in 5 pieces over virtual phones and adb.

Each way trains the same run of its own, in turns: in micro-batches of 16 samples, which was the default
once, and as they are cut if nobody says how. With `--before` micro-batches of 16 are also trained by the
code of then, out of this repository. It ran programs in the device's process, so today's default takes
another turn with programs that are not isolated. With `--beside FOLDER` the code of another checkout trains
both; with `--at-once`, too, it trains as nobody says, at the same time as today's, so that other work slows
both alike. Told is the CPU time of the host's process, of the virtual phones with the device runtimes on
them, and of all, from the first mini-batch to the last, by sample and by message between devices. The
samples are noise in the form of MNIST's.
"""

from __future__ import annotations

import argparse
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]
from crowdlearn_host.common.files import read_lines
from rich.table import Table

from .report import show

PIECES = 5
BATCH = 64
MAIN = "from crowdlearn_host.cli import main; main()"


@dataclass(frozen=True)
class Way:
    """Samples of a micro-batch (None: the default), whether programs run apart, and whose code trains."""

    micro: int | None
    isolated: bool = True
    code: Path | None = None


DEFAULT = "as nobody says"
WAYS = {"micro-batches of 16": Way(16), DEFAULT: Way(None)}
ROOT = Path(__file__).parent.parent
BEFORE = "14ef2129267f"
"""The last commit whose default were micro-batches of 16."""


def config_of(data: Path, way: Way) -> str:
    """The run of a way, as TOML."""
    lines = [
        'name = "message-cost"',
        'model = "mlp:784-400-200-100-10"',
        f'data = "{data}"',
        "[group]",
        f"pieces = {PIECES}",
        "[training]",
        f"batch = {BATCH}",
        "epochs = 1",
        'kernels = "by_size"',
        *([f"micro_batch = {way.micro}"] if way.micro else []),
        "[fleet]",
        f"virtual = {PIECES}",
        *([] if way.isolated else ['isolation = "none"']),
    ]
    return "\n".join(lines) + "\n"


def give_data(folder: Path, mini_batches: int) -> None:
    """Noise, so many mini-batches for each phone."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for split, count in (("train", PIECES * mini_batches * BATCH), ("test", 100)):
        inputs, labels = rng.random((count, 784), np.float32), rng.integers(0, 10, count)
        np.savez(folder / f"{split}.npz", inputs=inputs, labels=labels)


def code_of(commit: str, folder: Path) -> Path:
    """Write the repository as it was at a commit into `folder`; ends the program where it cannot be had."""
    folder.mkdir()
    packed = subprocess.run(["git", "-C", str(ROOT), "archive", commit], capture_output=True)
    if packed.returncode:
        raise SystemExit(f"no code of {commit} here: {packed.stderr.decode(errors='replace').strip()}")
    subprocess.run(["tar", "-x", "-C", str(folder)], input=packed.stdout, check=True)
    return folder


class Spent:
    """CPU seconds by kind of process, of all that have a home's environment."""

    def __init__(self, home: Path, host: int) -> None:
        self._home, self._host = str(home), host
        self._of: dict[int, tuple[str, float]] = {}

    def look(self) -> dict[str, float]:
        """Seconds so far; those of processes that have ended are not forgotten."""
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get("CROWDLEARN_HOME") == self._home:
                    times = process.cpu_times()
                    self._of[process.pid] = self._kind(process), times.user + times.system
        totals = {"host": 0.0, "phones": 0.0}
        for kind, seconds in self._of.values():
            totals[kind] += seconds
        return totals

    def _kind(self, process: psutil.Process) -> str:
        return "host" if process.pid == self._host else "phones"


def measure(folder: Path, home: Path, data: Path, way: Way, mini_batches: int) -> dict[str, Any]:
    """One run of so many mini-batches in all; `home` keeps programs for the next."""
    folder.mkdir()
    config = folder / "config.toml"
    config.write_text(config_of(data, way))
    environment = {**os.environ, "CROWDLEARN_HOME": str(home), "OMP_NUM_THREADS": "1"}
    if way.code is not None:
        parts = ("host", "export", "device_runtime")
        environment["PYTHONPATH"] = os.pathsep.join(str(way.code.resolve() / part) for part in parts)
    run, metrics = folder / "run", folder / "run" / "metrics.jsonl"
    with (folder / "log").open("w") as log:
        command = [sys.executable, "-W", "ignore", "-c", MAIN, "train", str(config), "--run", str(run)]
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        spent = Spent(home, process.pid)
        while process.poll() is None and not (metrics.exists() and metrics.stat().st_size):
            time.sleep(0.05)
        first = last = spent.look()
        while process.poll() is None:
            if metrics.read_bytes().count(b"\n") < mini_batches:
                last = spent.look()
            time.sleep(0.1)
    if process.returncode:
        raise RuntimeError((folder / "log").read_text()[-2000:])
    samples = sum(row["rows"] for row in read_lines(metrics))
    query = "select sum(messages) from traffic where direction = 'up' and purpose in ('activation', 'error')"
    with closing(sqlite3.connect(run / "run.db")) as db:
        messages = db.execute(query).fetchone()[0]
    cpu = {kind: last[kind] - first[kind] for kind in first}
    return {
        "cpu_us_per_sample": 1e6 * sum(cpu.values()) / samples,
        "host_us_per_message": 1e6 * cpu["host"] / messages,
        "phone_us_per_message": 1e6 * cpu["phones"] / messages,
        "messages_per_mini_batch": messages * BATCH / samples,
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one turn, and fewer mini-batches")
    parser.add_argument("--json", type=Path, help="write the rows here as well")
    parser.add_argument("--beside", type=Path, help="a checkout of other code, measured in turn")
    parser.add_argument(
        "--at-once", action="store_true", help="the default alone, at the same time as the other code's"
    )
    parser.add_argument(
        "--before",
        nargs="?",
        const=BEFORE,
        metavar="COMMIT",
        help=f"the code of a commit ({BEFORE}), in turn",
    )
    arguments = parser.parse_args(argv)
    if arguments.at_once and (arguments.beside is None or arguments.before is not None):
        parser.error("--at-once goes with --beside FOLDER, and not with --before")
    turns, mini_batches = (1, 30) if arguments.quick else (3, 150)
    ways = {DEFAULT: WAYS[DEFAULT]} if arguments.at_once else dict(WAYS)
    if arguments.beside is not None:
        if not arguments.at_once:
            ways["micro-batches of 16, other code"] = Way(16, code=arguments.beside)
        ways[f"{DEFAULT}, other code"] = Way(None, code=arguments.beside)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments.before is not None:
            ways[f"{DEFAULT}, not isolated"] = Way(None, isolated=False)
            before = code_of(arguments.before, folder / "before")
            ways[f"micro-batches of 16, code of {arguments.before}"] = Way(16, code=before)
        found: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
        give_data(folder / "data", mini_batches)
        with ThreadPoolExecutor(len(ways) if arguments.at_once else 1) as pool:
            for turn in range(turns):
                runs = [
                    pool.submit(
                        measure,
                        folder / f"{turn}-{number}",
                        folder / (f"home-{number}" if arguments.at_once else "home"),
                        folder / "data",
                        way,
                        PIECES * mini_batches,
                    )
                    for number, way in enumerate(ways.values())
                ]
                for name_of, run in zip(ways, runs, strict=True):
                    found[name_of].append(run.result())
    rows: list[dict[str, Any]] = [
        {"way": way, **{key: statistics.median(row[key] for row in costs) for key in costs[0]}}
        for way, costs in found.items()
    ]
    usual = next(row["cpu_us_per_sample"] for row in rows if row["way"] == DEFAULT)
    for row in rows:
        row["default_over_this"] = usual / row["cpu_us_per_sample"]
    table = Table(*(key.replace("_", " ") for key in rows[0]))
    for row in rows:
        table.add_row(*(value if isinstance(value, str) else f"{value:,.2f}" for value in row.values()))
    show(arguments.json, rows, table)


if __name__ == "__main__":
    main()
