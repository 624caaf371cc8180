"""Fuzz every target in turn and tell what was found; needs `atheris` (pip install atheris)."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.fuzz.targets import TARGETS, seeds_of
from benchmarks.report import write_rows

GRACE_SECONDS = 240
NOT_ENDED = -1
MAX_SAID = 3000


def fuzz(name: str, corpus: Path, seconds: int) -> dict[str, object]:
    """One target for that long: executions, size of the corpus, peak memory, and findings."""
    seeds_of(TARGETS[name], corpus)  # made here, for that takes a while and is not what is timed
    before = set(corpus.glob(f"finding-{name}-*"))
    command = [sys.executable, "-m", "benchmarks.fuzz.worker", name, str(corpus / name), str(seconds)]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds + GRACE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as late:  # what was found lies on disk
        output = late.stderr.decode(errors="replace") if isinstance(late.stderr, bytes) else ""
        done = subprocess.CompletedProcess(command, NOT_ENDED, "", f"{output}\nit did not end in time")

    def stat(key: str) -> int:
        found = re.findall(rf"stat::{key}:\s+(\d+)", done.stderr)
        return int(found[-1]) if found else 0

    return {
        "target": name,
        "seconds": seconds,
        "executions": stat("number_of_executed_units"),
        "corpus": len(list((corpus / name).iterdir())),
        "peak_mb": stat("peak_rss_mb"),
        "findings": len(set(corpus.glob(f"finding-{name}-*")) - before),
        "exit_code": done.returncode,
        "said": "" if done.returncode == 0 else _explanation(done.stdout + done.stderr),
    }


def _explanation(text: str) -> str:
    exception = text.find("=== Uncaught Python exception")
    return text[-MAX_SAID:] if exception < 0 else text[exception : exception + MAX_SAID]


def main() -> int:
    """The exit code says whether nothing was found."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", choices=[*TARGETS, []], help="default: all")
    parser.add_argument("--seconds", type=int, default=300, help="for each target")
    parser.add_argument("--hour", action="store_true", help="an hour over all of them together")
    parser.add_argument("--quick", action="store_true", help="two seconds each")
    parser.add_argument(
        "--corpus", type=Path, default=Path("runs/fuzz"), help="kept and grown from run to run"
    )
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if find_spec("atheris") is None:
        print("benchmarks.fuzz needs atheris: pip install atheris", file=sys.stderr)
        return 1
    arguments.corpus.mkdir(parents=True, exist_ok=True)
    seconds = 2 if arguments.quick else arguments.seconds
    if arguments.hour:
        seconds = 3600 // len(arguments.targets or TARGETS)
    rows = [fuzz(name, arguments.corpus, seconds) for name in arguments.targets or TARGETS]
    table = Table(title=f"fuzzing, {seconds} s a target")
    columns = ["target", "executions", "corpus", "peak_mb", "findings", "exit_code"]
    for column in columns:
        table.add_column(column, justify="left" if column == "target" else "right")
    for row in rows:
        table.add_row(*(str(row[column]) for column in columns))
    Console().print(table)
    for row in rows:
        if row["said"]:
            print(f"--- {row['target']}\n{row['said']}")
    write_rows(arguments.json, rows)
    return 0 if all(row["exit_code"] == 0 for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
