"""What a host keeps while mini-batches go by: memory, open files, and its folder on disk.

The host is one process with the real server, coordinator and run folder; devices speak the real protocol over
loopback and compute nothing. Twenty groups train until so many mini-batches are over; the host is looked at
ten times on the way. `growth` compares the last look with the first after a tenth of the way.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from .crowd_device import Load
from .relay import resident
from .report import machine, write_rows
from .scale import SIZE, Crowd

GROUPS, LOOKS = 20, 10
LOAD = Load(messages=2, size=200)
MESSAGES = 2 * LOAD.messages * (SIZE - 1)
"""Of a mini-batch."""


def look(crowd: Crowd, folder: Path) -> dict[str, Any]:
    """Return what the host's process and its folder take now; sizes in bytes."""
    pid = crowd.host.pid
    return {
        "mini_batches": crowd.sent()[0] // MESSAGES,
        "resident_bytes": resident(pid),
        "open_files": len(os.listdir(f"/proc/{pid}/fd")),
        "folder_bytes": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
    }


def soak(folder: Path, mini_batches: int) -> list[dict[str, Any]]:
    """Train so many mini-batches in all groups together; a row for each look."""
    crowd = Crowd(folder, GROUPS, 1 << 20, LOAD)
    rows: list[dict[str, Any]] = []
    began = time.monotonic()
    try:
        for step in range(1, LOOKS + 1):
            while crowd.sent()[0] < step * mini_batches * MESSAGES // LOOKS:
                time.sleep(0.1)
            row = {"seconds": time.monotonic() - began, **look(crowd, folder)}
            for name in ("resident_bytes", "open_files", "folder_bytes"):
                row[f"{name}_growth"] = row[name] - rows[0][name] if rows else 0
            row["folder_bytes_a_mini_batch"] = row["folder_bytes"] / max(row["mini_batches"], 1)
            rows.append(row)
            print(row, file=sys.stderr, flush=True)
    finally:
        crowd.stop()
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """Soak, print a table, and write the rows if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="10,000 mini-batches instead of 100,000")
    parser.add_argument("--json", type=Path, help="write the rows here as well")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        rows = soak(Path(folder) / "run", 10_000 if arguments.quick else 100_000)
    table = Table(*rows[0], title=machine())
    for row in rows:
        table.add_row(*(f"{value:.3g}" if isinstance(value, float) else str(value) for value in row.values()))
    Console().print(table)
    write_rows(arguments.json, rows)


if __name__ == "__main__":
    main()
