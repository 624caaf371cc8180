"""What random deaths, delays and damaged messages cost a run: nothing but time.

`python -m benchmarks.chaos [--seconds 300] [--quick] [--json FILE] [--seed N] [--staleness 1]` trains the
same small network twice on the same eight virtual phones: undisturbed, and under blows. A blow kills the
device runtime of a phone, stops it for a while, unplugs the phone, or kills the host process, which is then
resumed. The relay damages and repeats messages meanwhile. Both runs must end with the same weights.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crowdlearn import load_run, phones
from crowdlearn.phones import AdbDevice
from rich.console import Console
from rich.table import Table

from benchmarks.report import write_rows

PHONES = 8
PIECES = 4
BATCH = 32
BLOWS = (
    "runtime killed",
    "runtime stopped for 1 to 4 s",
    "phone unplugged for 1 s",
    "host killed and resumed",
)
WEIGHTS = (4, 2, 2, 1)
MEAN_SECONDS = 3.0
"""Between two blows, and between two messages that are tampered with."""
SHARE_UNDISTURBED = 0.35
"""Of the time asked for; what is left is for the run under blows."""
QUICK_SECONDS = 25.0
CONFIG = """\
name = "chaos"
data = "digits"
model = "mlp:64-48-32-10"
[group]
pieces = {pieces}
[training]
epochs = {epochs}
batch = {batch}
snapshot_every = 2
staleness = {staleness}
learning_rate = 0.05
grace_seconds = 300
[fleet]
phones = {serials}
"""


@dataclass(frozen=True)
class Outcome:
    """A finished run: its folder, seconds from the first to the last mini-batch, and the blows it took."""

    folder: Path
    seconds: float
    blows: Counter[str]


def start_host(folder: Path, seed: int, mean: float) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "benchmarks.chaos.host", str(folder), str(seed), str(mean)]
    with folder.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log)


def finish(folder: Path, host: subprocess.Popen[bytes], blows: Counter[str]) -> Outcome:
    if host.wait() != 0:
        raise SystemExit(folder.with_suffix(".log").read_text(errors="replace")[-3000:])
    times = [line["time"] for line in load_run(folder).metrics]
    return Outcome(folder, times[-1] - times[0], blows)


def undisturbed(folder: Path) -> Outcome:
    return finish(folder, start_host(folder, 0, 0.0), Counter())


def disturbed(folder: Path, infos: Sequence[phones.PhoneInfo], home: Path, seed: int) -> Outcome:
    rng = random.Random(seed)
    blows: Counter[str] = Counter()
    host = start_host(folder, seed, MEAN_SECONDS)
    due = time.monotonic() + rng.expovariate(1 / MEAN_SECONDS)
    stopped: list[tuple[float, int]] = []
    try:
        while host.poll() is None:
            time.sleep(0.05)
            stopped = _continue(stopped)
            if time.monotonic() < due or not (folder / "metrics.jsonl").exists():
                continue
            due = time.monotonic() + rng.expovariate(1 / MEAN_SECONDS)
            (blow,) = rng.choices(BLOWS, WEIGHTS)
            if blow == BLOWS[3]:
                host.kill()
                host.wait()
                host = start_host(folder, seed + sum(blows.values()), MEAN_SECONDS)
            elif blow == BLOWS[2]:
                name = rng.choice(infos).name
                phones.unplug(name, home)
                time.sleep(1.0)
                phones.plug(name, home)
            elif (pid := asyncio.run(runtime_of(rng.choice(infos)))) is None:
                continue
            else:
                try:
                    os.kill(pid, signal.SIGSTOP if blow == BLOWS[1] else signal.SIGKILL)
                except ProcessLookupError:
                    continue  # it ended by itself meanwhile
                if blow == BLOWS[1]:
                    stopped.append((time.monotonic() + rng.uniform(1, 4), pid))
            blows[blow] += 1
        return finish(folder, host, blows)
    finally:
        _continue([(0.0, pid) for _, pid in stopped])
        host.kill()


def _continue(stopped: list[tuple[float, int]]) -> list[tuple[float, int]]:
    """Wake the processes whose time has come; the others."""
    for until, pid in stopped:
        if until <= time.monotonic():
            try:
                os.kill(pid, signal.SIGCONT)
            except ProcessLookupError:
                continue
    return [(until, pid) for until, pid in stopped if until > time.monotonic()]


async def runtime_of(info: phones.PhoneInfo) -> int | None:
    """The process of the device runtime on a phone, where one runs."""
    async with await AdbDevice.connect(info.serial) as device:
        numbers = (await device.shell("pidof crowdlearn-device")).stdout.split()
    return int(numbers[0]) if numbers else None


def rows_of(calm: Outcome, wild: Outcome, epochs: int) -> list[dict[str, Any]]:
    events = load_run(wild.folder).events
    metrics = [line["boundary"] for line in load_run(wild.folder).metrics]
    expected = max(line["boundary"] for line in load_run(calm.folder).metrics)
    a, b = load_run(calm.folder).weights(), load_run(wild.folder).weights()
    difference = max(float((a[n].double() - b[n].double()).abs().max()) for n in a)
    passes = [(e["epoch"], e["device"]) for e in events if e["event"] == "pass"]
    counts = Counter(e["event"] for e in events)
    tampered = Counter(e["how"] for e in events if e["event"] == "tampered")
    rows = [{"what": f"blows survived: {name}", "value": wild.blows[name]} for name in BLOWS]
    rows += [{"what": f"messages {how} by the relay", "value": n} for how, n in sorted(tampered.items())]
    rows += [
        {"what": "messages refused", "value": counts["fault"]},
        {"what": "recoveries", "value": counts["recovering"]},
        {"what": "mini-batches of the run", "value": expected},
        {"what": "mini-batches lost", "value": expected - len(set(metrics) & set(range(1, expected + 1)))},
        {"what": "passes missing", "value": epochs * PHONES - len(set(passes))},
        {"what": "mini-batches computed again after a recovery", "value": len(metrics) - expected},
        {"what": "largest difference of a weight to the undisturbed run", "value": difference},
        {"what": "seconds undisturbed", "value": round(calm.seconds, 1)},
        {"what": "seconds under blows", "value": round(wild.seconds, 1)},
        {"what": "slowdown", "value": round(wild.seconds / calm.seconds, 2)},
    ]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--quick", action="store_true", help="As --seconds 25.")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--staleness", type=int, choices=(0, 1), default=0, help="1: mini-batches overlap.")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        home = Path(place)
        with phones.running(PHONES, home) as infos:
            serials = [info.serial for info in infos]

            def folder(name: str, epochs: int) -> Path:
                text = CONFIG.format(
                    pieces=PIECES,
                    epochs=epochs,
                    batch=BATCH,
                    staleness=arguments.staleness,
                    serials=json.dumps(serials),
                )
                (home / f"{name}.toml").write_text(text)
                return home / name

            # One epoch tells how long an epoch takes here.
            seconds = QUICK_SECONDS if arguments.quick else arguments.seconds
            epoch = undisturbed(folder("epoch", 1)).seconds
            epochs = max(2, round(SHARE_UNDISTURBED * seconds / epoch))
            calm = undisturbed(folder("calm", epochs))
            wild = disturbed(folder("wild", epochs), infos, home, arguments.seed)
            rows = rows_of(calm, wild, epochs)
    table = Table("what", "value", title=f"{PHONES} virtual phones, {PIECES} pieces, {epochs} epochs")
    for row in rows:
        table.add_row(row["what"], re.sub(r"e-0?", "e-", f"{row['value']:g}"))
    Console().print(table)
    write_rows(arguments.json, rows)


if __name__ == "__main__":
    main()
