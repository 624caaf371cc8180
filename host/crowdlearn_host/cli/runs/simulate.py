"""crowdlearn simulate: a whole crowd on one machine, or on a Ray cluster, without sockets."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from crowdlearn_device.data.dataset import load_dataset

from crowdlearn_host.simulation.engine import run
from crowdlearn_host.simulation.partition import load_device_files, partition
from crowdlearn_host.simulation.run_folder import RunFolder
from crowdlearn_host.simulation.setting import Setting, prepare
from crowdlearn_host.simulation.state import RunState
from crowdlearn_host.simulation.workers import InProcess, Processes, RayTasks, Workers
from crowdlearn_host.spec.provenance import given


class Engine(StrEnum):
    """Where groups train."""

    local = "local"
    ray = "ray"


def simulate(
    config: Annotated[Path, typer.Argument(help="TOML file that describes the run.")],
    data: Annotated[Path, typer.Option(help="Folder with training and test data.")],
    run_folder: Annotated[
        Path, typer.Option("--run", help="Folder to keep the run in; it resumes what is there.")
    ],
    engine: Annotated[
        Engine, typer.Option(help="Processes of this machine, or a Ray cluster.")
    ] = Engine.local,
    processes: Annotated[int, typer.Option(min=0, help="Local processes; 0: one a core.")] = 0,
) -> None:
    """Train a simulated crowd as CONFIG says."""
    with RunFolder(run_folder, config) as folder:
        wanted = folder.config
        if wanted.partition.kind == "files":
            train, devices = load_device_files(data, wanted.devices)
        else:
            train = load_dataset(data, "train")
            devices = partition(train.labels, wanted.devices, wanted.partition, wanted.seed)
        test = load_dataset(data, "test")
        setting = prepare(wanted, train, test, devices)

        def on_round(state: RunState) -> None:
            folder.keep(state)
            typer.echo(_line(state))

        place = str(data.resolve())
        folder.begin(setting, given(wanted.model, wanted.plan, place, train, test, devices))
        state = folder.resume()
        with _workers(setting, engine, processes or os.cpu_count() or 1) as workers:
            state = run(setting, workers, state, on_round)
        typer.echo(f"global model: {folder.finish(setting, state)}")


def _workers(setting: Setting, engine: Engine, processes: int) -> Workers:
    if engine is Engine.ray:
        return RayTasks(setting.workload)
    return InProcess(setting.workload) if processes == 1 else Processes(setting.workload, processes)


def _line(state: RunState) -> str:
    last = state.records[-1]
    accuracy = "" if last.accuracy is None else f"  accuracy {last.accuracy:.4f}"
    speed, moved = last.samples / last.seconds, sum(last.bytes.values()) / 1e6
    told = f"epoch {last.epoch + 1}, round {last.round + 1}  loss {last.loss:.4f}{accuracy}"
    return f"{told}  {speed:.0f} samples/s  {moved:.1f} MB"
