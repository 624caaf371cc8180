"""python -m benchmarks.paper [TABLE|all] --data FOLDER: the paper's tables beside ours."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from crowdlearn_export.trace import neuron_graph
from crowdlearn_host.models import paper_mlp
from rich.console import Console
from rich.table import Table

from ..report import machine, write_rows
from .plots import plot_errors
from .rows import CNN_TABLES, MLP_TABLES, Row
from .runs import Finished, Job, run_all
from .tables import bytes_rows, error_row, load_rows, traffic_rows

MODELLED = {"load": load_rows, "traffic": traffic_rows}
TABLES = (*MODELLED, *MLP_TABLES, *CNN_TABLES)
QUICK_SAMPLES, QUICK_EPOCHS = 3000, 1
ACCURACIES = (0.97, 0.98)


def main(
    table: Annotated[str, typer.Argument(help=f"all, or one of {', '.join(TABLES)}")] = "all",
    data: Annotated[Path | None, typer.Option(help="Folder with MNIST's four files.")] = None,
    cifar: Annotated[Path | None, typer.Option(help="Folder with CIFAR-10's binary version.")] = None,
    only: Annotated[str, typer.Option(help="Only rows whose label has this in it.")] = "",
    seeds: Annotated[int, typer.Option(min=1)] = 3,
    epochs: Annotated[int, typer.Option(min=0, help="Fewer epochs than the paper's 50; 0: all.")] = 0,
    quick: Annotated[
        bool, typer.Option(help="One seed, one epoch, few samples: a check, no result.")
    ] = False,
    runs: Annotated[Path, typer.Option(help="Folder that keeps finished runs and the plots.")] = Path(
        "runs/paper"
    ),
    cores: Annotated[int, typer.Option(min=1)] = os.cpu_count() or 1,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all rows there.")] = None,
) -> None:
    """Run what the chosen tables need, print them, and write JSON and plots."""
    if table != "all" and table not in TABLES:
        raise typer.BadParameter(f"{table} is none of all, {', '.join(TABLES)}")
    console = Console(width=120)
    chosen = TABLES if table == "all" else (table,)
    seeds = 1 if quick else seeds
    samples, epochs = (QUICK_SAMPLES, QUICK_EPOCHS) if quick else (0, epochs)
    graph = neuron_graph(paper_mlp(), torch.zeros(2, 784), "paper-mlp")
    began = time.monotonic()

    def jobs_of(row: Row, model: str, folder: Path) -> list[Job]:
        return [Job(row.config(model, seed, epochs or None), str(folder), samples) for seed in range(seeds)]

    flat: list[dict[str, Any]] = []
    sources = [
        (name, [row for row in rows if only in row.label], model, folder)
        for model, folder, tables in (("paper-mlp", data, MLP_TABLES), ("paper-cnn", cifar, CNN_TABLES))
        for name, rows in tables.items()
        if name in chosen
    ]
    jobs = [
        job
        for _, rows, model, folder in sources
        if folder is not None
        for row in rows
        for job in jobs_of(row, model, folder)
    ]
    total = len({job.key() for job in jobs})
    results = run_all(jobs, runs, cores, lambda finished: console.print(_told(finished, total, began)))
    for name in chosen:
        if name in MODELLED:
            flat += MODELLED[name](graph)
    for name, rows, model, folder in sources:
        if folder is None:
            option = "--data" if model == "paper-mlp" else "--cifar"
            console.print(f"{name}: not run here (give {option})")
            continue
        of = {row.label: [results[job.key()] for job in jobs_of(row, model, folder)] for row in rows}
        if not rows:
            continue
        flat += [error_row(name, row, of[row.label]) for row in rows]
        curves = {label: [each.records for each in finished] for label, finished in of.items()}
        if name == "bytes":
            flat += bytes_rows(graph, rows, curves, ACCURACIES)
        plot_errors(runs / f"{name}.svg", f"{model}: {name}", curves)
    _print(console, flat, quick)
    minutes = (time.monotonic() - began) / 60
    worked = sum(finished.cpu_seconds for finished in results.values()) / 60
    console.print(f"{machine()}; {minutes:.1f} minutes on {cores} cores; plots in {runs}")
    console.print(
        f"all {total} runs, kept ones too: {worked:.1f} core minutes, {worked / cores:.1f} a core of {cores}"
    )
    write_rows(json_file, flat)


def _told(finished: Finished, total: int, began: float) -> str:
    last = finished.records[-1]
    error = 100 - 100 * float(last.group_accuracy or 0)
    minutes = (time.monotonic() - began) / 60
    spent = f"{finished.cpu_seconds:.0f} s of a core"
    return f"one of {total} runs: {error:.2f} % in {spent} ({minutes:.1f} minutes so far)"


def _print(console: Console, flat: list[dict[str, Any]], quick: bool) -> None:
    """One table for each set of columns, in order."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in flat:
        groups.setdefault((row["table"], "accuracy" if "accuracy" in row else ""), []).append(row)
    for (name, _), rows in groups.items():
        columns = list(dict.fromkeys(column for row in rows for column in row if column != "table"))
        shown = Table(title=f"{name} (quick: no result)" if quick else name)
        for column in columns:
            shown.add_column(column)
        for row in rows:
            shown.add_row(*("-" if row.get(column) is None else str(row[column]) for column in columns))
        console.print(shown)


if __name__ == "__main__":
    typer.run(main)
