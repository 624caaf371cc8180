"""What every benchmark says beside its figures, and how it keeps them."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from crowdlearn_device.platform.files import write_atomically
from rich.console import Console
from rich.table import Table


def machine() -> str:
    """The machine and the day, in one line."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.machine()
    load = os.getloadavg()[0]
    day = time.strftime("%Y-%m-%d")
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}, load {load:.1f}, {day}"


def known(option: str, names: Sequence[str], those: Collection[str]) -> None:
    """End the program, naming what there is, where a name is none of `those`."""
    for name in names:
        if name not in those:
            raise SystemExit(f"{option} {name}: there is {', '.join(those)}")


def write_rows(path: Path | None, rows: Sequence[dict[str, Any]]) -> None:
    """Write the rows as JSON, where a file is asked for; its folder is made."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps({"rows": list(rows)}, indent=1).encode() + b"\n")


def show(path: Path | None, rows: Sequence[dict[str, Any]], *tables: Table, width: int | None = None) -> None:
    """Print the machine and these tables, and write the rows where a file is asked for."""
    console = Console(width=width)
    console.print(machine())
    for table in tables:
        console.print(table)
    write_rows(path, rows)


def importable_elsewhere() -> None:
    """Let processes that run in other folders, as programs of virtual phones do, import this package."""
    paths = [str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
