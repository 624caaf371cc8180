"""How fast a training step is: ours against PyTorch eager and other trainers that run on a device.

Every engine runs in a process of its own. Rounds are interleaved, and while one engine is measured the
others are stopped, so a ratio compares neighbouring moments of the same machine.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from crowdlearn_export.compiler.compile import compile_program
from crowdlearn_export.graph.memory_curves import USUAL, MemoryUse
from crowdlearn_export.lowering.backend import products
from crowdlearn_export.lowering.lower import lower
from crowdlearn_export.stages.train_step import train_step
from rich.console import Console
from rich.table import Table

from benchmarks.report import known, machine, write_rows

from .cases import Case, built, products_alone, write_case, write_onnx
from .compare import REFERENCE, compare
from .peers import PEERS, python_of

FULL = [
    *(Case("cnn", batch, threads) for batch in (32, 8, 1) for threads in (1, 2)),
    *(
        Case(model, 32, threads)
        for model in ("mlp", "paper_mlp", "resnet20", "mobilenet", "transformer")
        for threads in (1, 2)
    ),
    *(Case("mlp", batch, 1) for batch in (8, 1)),
]
COMPILED = ("torch_compile",)
"""PyTorch's own compiler, which tells what is possible on this computer; a deep network takes it a minute,
and needs a C++ compiler.
"""
OTHERS: tuple[MemoryUse, ...] = ("fastest", "least")
"""The other ways in which programs use memory (docs/compiler.md): an engine each."""
TOLD = ("mnn", "litert")
"""Engines for which a network is built layer by layer (layers.py)."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train_step", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="the CNN at batch 32 on one thread, not compiled by PyTorch"
    )
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    parser.add_argument("--models", help="comma-separated; only these networks")
    parser.add_argument("--batches", help="comma-separated; only these batches")
    parser.add_argument("--threads", help="comma-separated; only these numbers of threads")
    parser.add_argument("--without", default="", help="comma-separated; not these engines")
    parser.add_argument(
        "--memory", default="", help=f"comma-separated; also programs of memory {' and '.join(OTHERS)}"
    )
    parser.add_argument("--peers", type=Path, help="where benchmarks.train_step.peers installed the peers")
    options = parser.parse_args()
    without = [*options.without.split(","), *(COMPILED if options.quick else ())]
    if REFERENCE in without:
        parser.error(f"--without {REFERENCE}: every time is told relative to it")
    if options.memory:
        known("--memory", options.memory.split(","), dict.fromkeys(OTHERS))
    if options.models:
        known("--models", options.models.split(","), dict.fromkeys(case.model for case in FULL))
    cases = [
        case
        for case in ([Case("cnn", 32, 1)] if options.quick else FULL)
        if (not options.models or case.model in options.models.split(","))
        and (not options.batches or str(case.batch) in options.batches.split(","))
        and (not options.threads or str(case.threads) in options.threads.split(","))
    ]
    if not cases:
        parser.error(
            "nothing is left to measure" + (": --quick is the CNN at batch 32" if options.quick else "")
        )
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        uses: list[MemoryUse] = [USUAL, *(use for use in OTHERS if use in options.memory.split(","))]
        # A run's program is compiled for its micro-batch, and one of a smaller batch needs less memory.
        each = dict.fromkeys((case.model, case.batch) for case in cases)
        programs = {of: {use: compiled(*of, use) for use in uses} for of in each}
        for number, case in enumerate(cases):
            folder = Path(temporary) / str(number)
            rows += measured(case, programs[case.model, case.batch], options.peers, folder, without)
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(as_table(rows), machine(), sep="\n")
    write_rows(options.json, rows)


def compiled(model: str, batch: int = 32, memory: MemoryUse = USUAL) -> dict[str, Any]:
    """The model's program for this batch, the state that it starts from, and what compiling it said."""
    started = time.perf_counter()
    x, y = write_example(model, max(batch, 2))
    step = train_step(built(model), torch.nn.functional.cross_entropy, x, y)
    program = compile_program([step.method], max_batch=batch, memory=memory)
    seconds = round(time.perf_counter() - started, 1)
    return {
        "pte": program.pte,
        "state": {name: value.numpy() for name, value in step.state.items()},
        "facts": {
            "program_bytes": len(program.pte),
            "arena_bytes": program.arena_bytes,
            "compile_s": seconds,
        },
        "products": products(lower(step.method.function, step.method.example, step.method.batched), batch),
    }


def write_example(model: str, batch: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    """An example batch, of any values."""
    from benchmarks.models import NETWORKS

    network = NETWORKS[model]
    y = torch.arange(batch) % network.classes
    if network.tokens:
        return torch.zeros((batch, *network.sample), dtype=torch.int64), y
    return torch.zeros(batch, *network.sample), y


def measured(
    case: Case,
    programs: Mapping[MemoryUse, dict[str, Any]],
    peers: Path | None,
    folder: Path,
    without: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """The rows of one case; a peer that is not installed has one that says so."""
    exact = write_case(case, folder)
    program = programs[USUAL]
    others = {f"crowdlearn_{use}": programs[use] for use in OTHERS if use in programs}
    (folder / "program.pte").write_bytes(program["pte"])
    for name, other in others.items():
        (folder / f"{name.removeprefix('crowdlearn_')}.pte").write_bytes(other["pte"])
    np.savez(folder / "state.npz", **program["state"])
    engines = dict.fromkeys((REFERENCE, "crowdlearn", *others, *COMPILED), sys.executable)
    absent = []
    if peers is not None:
        if case.model in ("cnn", "mlp"):
            engines["executorch"] = sys.executable
        for peer in PEERS:
            if peer in TOLD and case.model == "transformer":
                reason = "built layer by layer here, without attention"
                absent.append({"engine": peer, **vars(case), "failed": reason})
            elif python_of(peers, peer).exists():
                engines[peer] = str(python_of(peers, peer))
            else:
                absent.append({"engine": peer, **vars(case), "failed": "not installed"})
        write_onnx(case, folder)
    engines = {name: python for name, python in engines.items() if name not in without}
    rows = compare(case, engines, folder, exact, rounds=15 if case.batch > 8 else 25)
    for row in rows:
        if (made := {"crowdlearn": program, **others}.get(row["engine"])) is not None:
            row |= made["facts"]
        if row["engine"] == REFERENCE and "failed" not in row and case.batch == 32:
            row["products_ms"] = round(products_alone(program["products"], case.threads), 3)
    return rows + absent


def as_table(rows: list[dict[str, Any]]) -> Table:
    table = Table(title="one training step; ratio to PyTorch eager: median (10th to 90th percentile)")
    names = ("model", "batch", "threads", "engine", "ms", "ratio", "grad error", "import s", "load s")
    for name in (*names, "growth MB", "artifacts kB", "program kB"):
        table.add_column(name, justify="left" if name in ("model", "engine") else "right")
    for row in rows:
        cells = [row["model"], str(row["batch"]), str(row["threads"]), row["engine"]]
        if "failed" in row:
            table.add_row(*cells, "", "not run here")
            continue
        table.add_row(
            *cells,
            f"{row['ms']:.2f}",
            f"{row['ratio_to_eager']:.2f} ({row['ratio_low']:.2f} to {row['ratio_high']:.2f})",
            f"{row['grad_error']:.0e}",
            f"{row['import_s']:.1f}",
            f"{row['load_s']:.2f}",
            f"{row['growth_mb']:.0f}",
            f"{row['artifact_bytes'] / 1e3:.0f}",
            f"{row['program_bytes'] / 1e3:.0f}" if "program_bytes" in row else "",
        )
    return table


if __name__ == "__main__":
    main()
