"""The instructions of a training step on Android's own ExecuTorch library: ARM's beside x86-64's.

    python -m benchmarks.android.instructions [--quick] [--models mlp,cnn] [--json FILE]

A plugin of QEMU counts what either library executes, on one thread; a step is the difference between many
steps and one, so that loading counts for nothing. Threads that wait before they are ended count at random, a
million or two: a part of that, among so many steps. Instructions are no time: how long one takes, and what
memory costs, only a phone tells. A phone's library chooses XNNPACK's kernels by the name of the core. QEMU
tells none, so that ARM's are those for any core with the same instructions. Ends with exit code 1 where
something is missing that counting needs.
"""

from __future__ import annotations

import argparse
import math
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from crowdlearn.testing import turn
from crowdlearn_device.program.replay import Arrays
from rich.console import Console
from rich.table import Table

from benchmarks.report import machine, write_rows
from benchmarks.train_step.__main__ import compiled
from benchmarks.train_step.cases import RATE, batch_of

from .library import NATIVE, AndroidLibrary, Missing, android_library, build

BATCH = 32
MODELS = ("mlp", "paper_mlp", "transformer", "cnn")
QUICK = ("mlp",)
QEMU = {"android-arm64": "qemu-aarch64", "android-x86_64": "qemu-x86_64"}
CORES = {"android-arm64": ("cortex-a53", "cortex-a76"), "android-x86_64": ("max",)}
"""The cores that QEMU has the instructions of: an old phone's, a newer one's, and all that it knows of x86-64
(AVX2, not AVX-512).
"""

MOST, ENOUGH = 40, 400_000_000
"""Steps beside the first one, and instructions of all of them, at most."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.android.instructions")
    parser.add_argument("--quick", action="store_true", help="the MLP alone")
    parser.add_argument("--models", default=",".join(MODELS), help="comma-separated")
    parser.add_argument("--json", type=Path, help="file for the rows")
    options = parser.parse_args()
    libraries, missing = {}, []
    for name in QEMU:
        try:
            library = android_library(name)
            libraries[name] = library, counting_plugin(library)
        except Missing as reason:
            missing.append(f"{name}: {reason}")
    models = QUICK if options.quick else options.models.split(",")
    rows = [row for model in models for row in counted(model, libraries)]
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(as_table(rows), machine(), sep="\n")
    for why in missing:
        print(f"not run: {why}")
    write_rows(options.json, rows)
    return 1 if missing else 0


def counting_plugin(library: AndroidLibrary) -> Path:
    """Return the plugin, compiled once beside the library. Raises Missing."""
    if shutil.which(QEMU[library.name]) is None:
        raise Missing(f"no {QEMU[library.name]}, which takes plugins: apt-get install qemu-user")
    compiler = shutil.which("gcc")
    if compiler is None:
        raise Missing("no gcc: apt-get install gcc")
    source = NATIVE / "count.c"
    runner = Path(library.command[-1])
    plugin = runner.with_name(f"{runner.name}.count.so")
    with turn(runner.parent / "plugin"):
        if not plugin.exists():
            part = plugin.with_suffix(".part")
            build([compiler, "-O2", "-shared", "-fPIC", str(source), "-o", str(part)])
            part.replace(plugin)
    return plugin


def instructions_of(library: AndroidLibrary, plugin: Path, core: str, pte: bytes, inputs: Arrays) -> int:
    """Return how many instructions one execution of every method takes on `inputs` (METHOD/in0 and so on)."""

    def executed(times: int) -> int:
        with tempfile.NamedTemporaryFile(prefix="crowdlearn-") as file:
            emulator = (QEMU[library.name], "-cpu", core, "-plugin", f"{plugin},out={file.name}")
            sysroot = library.command[1:-1]
            counting = AndroidLibrary(library.name, (*emulator, *sysroot, library.command[-1]))
            counting.run(pte, inputs, times)
            return int(Path(file.name).read_text())

    once = executed(1)
    more = max(1, min(MOST, ENOUGH // max(executed(2) - once, 1)))
    return (executed(1 + more) - once) // more


def counted(model: str, libraries: dict[str, tuple[AndroidLibrary, Path]]) -> list[dict[str, Any]]:
    """Return a row for each library and core: instructions of a step of `model` on 32 samples."""
    step = compiled(model)
    x, y = batch_of(model, BATCH)
    given = [*step["state"].values(), x.numpy(), y.numpy(), np.array(RATE, np.float32)]
    inputs = {f"train_step/in{number}": array for number, array in enumerate(given)}
    products = sum(map(math.prod, step["products"]))
    rows = []
    for name, (library, plugin) in libraries.items():
        for core in CORES[name]:
            found = instructions_of(library, plugin, core, step["pte"], inputs)
            rows.append(
                {
                    "model": model,
                    "batch": BATCH,
                    "library": name,
                    "core": core,
                    "instructions": found,
                    "products_macs": products,
                    "macs_per_instruction": round(products / found, 2),
                }
            )
            print(f"{model} {name} {core}: {found / 1e6:.1f} million", flush=True)
    return rows


def as_table(rows: Sequence[dict[str, Any]]) -> Table:
    table = Table(title=f"instructions of a training step on {BATCH} samples, one thread, counted by QEMU")
    for name in ("model", "library", "core", "million", "multiplications of products an instruction"):
        table.add_column(name, justify="left" if name in ("model", "library", "core") else "right")
    for row in rows:
        cells = (f"{row['instructions'] / 1e6:.1f}", f"{row['macs_per_instruction']:.2f}")
        table.add_row(row["model"], row["library"], row["core"], *cells)
    return table


if __name__ == "__main__":
    sys.exit(main())
