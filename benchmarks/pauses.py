"""How long the loop of a host is held up in a run with evaluations: MNIST's MLP in 4 pieces over virtual
phones.

The run is `crowdlearn train` with the global model evaluated after every epoch on 10,000 samples. Told is
what the host tells Prometheus: the most by which its loop was late, and the most of it in which its thread
computed. The rest is a processor that others had: on a busy machine that is most. Samples are noise.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from .report import machine, write_rows

PIECES, BATCH, MINI_BATCHES, TESTED = 4, 64, 20, 10_000
"""MINI_BATCHES are those of each phone in an epoch."""
MAIN = "from crowdlearn_host.cli import main; main()"
LOOK_SECONDS = 2.0


def give_data(folder: Path) -> None:
    """Noise in the form of MNIST."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for split, count in (("train", PIECES * MINI_BATCHES * BATCH), ("test", TESTED)):
        inputs, labels = rng.random((count, 784), np.float32), rng.integers(0, 10, count)
        np.savez(folder / f"{split}.npz", inputs=inputs, labels=labels)


def config_of(data: Path, port: int) -> str:
    """The run, as TOML."""
    return "\n".join(
        [
            'name = "pauses"',
            'model = "mlp:784-400-200-100-10"',
            f'data = "{data}"',
            f"group = {{ pieces = {PIECES} }}",
            f'training = {{ batch = {BATCH}, epochs = 100000, kernels = "by_size" }}',
            f'metrics = {{ listen = "127.0.0.1:{port}" }}',
            f"fleet = {{ virtual = {PIECES} }}\n",
        ]
    )


def asked(port: int) -> dict[str, float]:
    """The metrics without labels that the host tells."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        lines = [line for line in answer.read().decode().splitlines() if line[:1] != "#" and "{" not in line]
    return {name: float(value) for name, value in (line.split(" ") for line in lines)}


def measure(folder: Path, seconds: float) -> dict[str, Any]:
    """One run of so many seconds from its first mini-batch on."""
    give_data(folder / "data")
    with socket.socket() as tried:
        tried.bind(("127.0.0.1", 0))
        port = int(tried.getsockname()[1])
    config, run = folder / "config.toml", folder / "run"
    config.write_text(config_of(folder / "data", port))
    environment = {**os.environ, "CROWDLEARN_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-c", MAIN, "train", str(config), "--run", str(run)]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        fields: dict[str, float] = {}
        began = None
        try:
            while process.poll() is None and (began is None or time.monotonic() - began < seconds):
                time.sleep(LOOK_SECONDS)
                with suppress(OSError):
                    fields = asked(port)
                if began is None and fields.get("crowdlearn_samples_total"):
                    began = time.monotonic()
        finally:
            process.send_signal(signal.SIGINT)
            process.wait()
    if began is None:
        raise RuntimeError((folder / "log").read_text()[-2000:])
    return {
        "seconds": seconds,
        "mini_batches": fields["crowdlearn_samples_total"] / BATCH,
        "evaluations": (run / "events.jsonl").read_text().count('"event": "evaluated"'),
        "late_milliseconds": 1000 * fields["crowdlearn_loop_late_seconds"],
        "longest_milliseconds": 1000 * fields["crowdlearn_loop_longest_seconds"],
        "longest_own_milliseconds": 1000 * fields["crowdlearn_loop_longest_own_seconds"],
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print a table, and write the row if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="15 seconds instead of 10 minutes")
    parser.add_argument("--json", type=Path, help="write the row here as well")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        row = measure(Path(folder), 15.0 if arguments.quick else 600.0)
    table = Table(*row, title=machine())
    table.add_row(*(f"{value:.4g}" for value in row.values()))
    Console().print(table)
    write_rows(arguments.json, [row])


if __name__ == "__main__":
    main()
