"""python -m benchmarks.paper [TABLE|all] --data FOLDER: the paper's tables beside ours."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from crowdlearn.models import paper_cnn, paper_mlp
from crowdlearn_export.tracing.trace import neuron_graph
from rich.console import Console
from rich.table import Table

from benchmarks.report import machine, write_rows

from .plots import plot_errors
from .rows import CNN_TABLES, MLP_TABLES, Row
from .runs import Finished, Job, kept_runs, run_all
from .spending import bytes_rows, fedavg_rows
from .tables import error_row, load_rows, traffic_rows

MODELLED = ("load", "traffic", "cnn-traffic")
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
    kept: Annotated[bool, typer.Option(help="Run nothing: tell of the runs that are there.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all rows there.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write the tables there, as Markdown.")] = None,
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
    # Devices that hold the whole model take longest to share: last, so that the other rows are there early.
    jobs.sort(key=lambda job: job.config.group == 1)
    total = len({job.key() for job in jobs})
    if kept:
        results = kept_runs([job.key() for job in jobs], runs)
    else:
        results = run_all(jobs, runs, cores, lambda finished: console.print(_told(finished, total, began)))
    if "load" in chosen:
        flat += load_rows(graph)
    if "traffic" in chosen:
        flat += traffic_rows(graph)
    if "cnn-traffic" in chosen:
        flat += traffic_rows(neuron_graph(paper_cnn(), torch.zeros(2, 3, 32, 32), "paper-cnn"), "cnn-traffic")
    for name, rows, model, folder in sources:
        if folder is None:
            option = "--data" if model == "paper-mlp" else "--cifar"
            console.print(f"{name}: not run here (give {option})")
            continue
        keys = {row.label: [job.key() for job in jobs_of(row, model, folder)] for row in rows}
        of = {label: [results[key] for key in own if key in results] for label, own in keys.items()}
        rows = [row for row in rows if of[row.label]]
        of = {row.label: of[row.label] for row in rows}
        if not rows:
            continue
        flat += [error_row(name, row, of[row.label]) for row in rows]
        curves = {label: [each.records for each in finished] for label, finished in of.items()}
        if name == "bytes":
            flat += bytes_rows(graph, rows, curves, ACCURACIES)
            flat += fedavg_rows(graph, rows, curves)
        plot_errors(runs / f"{name}.svg", f"{model}: {name}", curves)
    for title, shown in _tables(flat, quick).items():
        console.print(_table(title, shown))
    minutes = (time.monotonic() - began) / 60
    worked = sum(finished.cpu_seconds for finished in results.values()) / 60
    conditions = [
        f"{machine()}; the last call took {minutes:.1f} minutes on {cores} cores.",
        f"{len(results)} of {total} runs, {worked:.1f} core minutes, {worked / cores:.1f} a core of {cores}.",
    ]
    for line in conditions:
        console.print(line)
    if markdown is not None:
        markdown.write_text(_markdown(flat, conditions, quick))
    write_rows(json_file, flat)


def _told(finished: Finished, total: int, began: float) -> str:
    last = finished.records[-1]
    error = 100 - 100 * float(last.group_accuracy or 0)
    minutes = (time.monotonic() - began) / 60
    spent = f"{finished.cpu_seconds:.0f} s of a core"
    return f"one of {total} runs: {error:.2f} % in {spent} ({minutes:.1f} minutes so far)"


def _tables(flat: list[dict[str, Any]], quick: bool) -> dict[str, list[dict[str, str]]]:
    """The rows as shown, by table: all rows of a table have the same columns."""
    titles: dict[str, list[dict[str, Any]]] = {}
    for row in flat:
        until = ", until an accuracy" if "accuracy" in row else ""
        titles.setdefault(row["table"] + until + (" (quick: no result)" if quick else ""), []).append(row)
    fields = {}
    for title, rows in titles.items():
        columns = dict.fromkeys(column for row in rows for column in row if column != "table")
        fields[title] = [{c: "-" if row.get(c) is None else str(row[c]) for c in columns} for row in rows]
    return fields


def _table(title: str, rows: list[dict[str, str]]) -> Table:
    shown = Table(*rows[0], title=title)
    for row in rows:
        shown.add_row(*row.values())
    return shown


def _markdown(flat: list[dict[str, Any]], conditions: list[str], quick: bool) -> str:
    text = "\n".join(conditions)
    parts = ["# The paper's tables, as run", "    python -m benchmarks.paper --data MNIST_FOLDER", text]
    for title, rows in _tables(flat, quick).items():
        lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
        parts += [f"## {title}", "\n".join(f"| {' | '.join(line)} |" for line in lines)]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    typer.run(main)
