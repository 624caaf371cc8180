"""crowdlearn simulate: a whole crowd on one machine, or on a Ray cluster, without sockets."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from crowdlearn_host.cli.console.document import Json, document
from crowdlearn_host.cli.console.silence import Working
from crowdlearn_host.cli.console.terminal import terminal
from crowdlearn_host.common.toml_files import load_toml
from crowdlearn_host.errors import ConfigError
from crowdlearn_host.methods.round_schedule import doubt_of_sharing
from crowdlearn_host.models.names import check_name
from crowdlearn_host.spec.simulation import SimulationConfig

if TYPE_CHECKING:
    from crowdlearn_host.simulation.setting import Setting
    from crowdlearn_host.simulation.state import RunState
    from crowdlearn_host.simulation.workers import Workers


INTERRUPTED = 130
"""Exit code of a command that SIGINT ended, as shells have it."""


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
    as_json: Json = False,
) -> None:
    """Train a simulated crowd as CONFIG says."""
    checked = load_toml(config, SimulationConfig)
    check_name(checked.model)
    if not data.is_dir():
        raise ConfigError(f"--data {data} is not a folder; name the folder that holds the data set")
    console = terminal(stderr=as_json)
    with document(as_json) as tell:
        with Working(terminal(stderr=True), "reading model and data") as working:
            model, state = _simulated(config, data, run_folder, engine, processes, console, working)
        tell({"run": str(run_folder), "model": str(model), "rounds": [asdict(r) for r in state.records]})
    if not as_json:
        console.print(f"global model: {model}", soft_wrap=True)


def _simulated(
    config: Path,
    data: Path,
    run_folder: Path,
    engine: Engine,
    processes: int,
    console: Console,
    working: Working,
) -> tuple[Path, RunState]:
    """The global model's file, and the state after the last round."""
    from crowdlearn_device.data.dataset import load_dataset

    from crowdlearn_host.simulation.engine import run
    from crowdlearn_host.simulation.partition import load_device_files, partition
    from crowdlearn_host.simulation.run_folder import RunFolder
    from crowdlearn_host.simulation.setting import prepare
    from crowdlearn_host.spec.provenance import given

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
            console.print(_line(state), highlight=False, soft_wrap=True)
            working.step("training round", min(len(state.records) + 1, wanted.rounds), wanted.rounds)

        place = str(data.resolve())
        folder.begin(setting, given(wanted.model, wanted.plan, place, train, test, devices))
        before = folder.resume()
        working.step("training round", len(before.records) + 1 if before else 1, wanted.rounds)
        if wanted.method == "slicenet" and wanted.sharing.enabled:
            doubt = doubt_of_sharing(wanted.sharing.theta, wanted.sharing.tau)
            if doubt:
                console.print(f"note: {doubt}", highlight=False, soft_wrap=True)
        try:
            with _workers(setting, engine, processes or os.cpu_count() or 1) as workers:
                state = run(setting, workers, before, on_round)
        except KeyboardInterrupt:
            reached = f"round {folder.kept} of {wanted.rounds} is kept" if folder.kept else "no round is kept"
            told = f"crowdlearn: interrupted; {reached}: the same command goes on from there"
            print(told, file=sys.stderr)
            raise typer.Exit(INTERRUPTED) from None
        return folder.finish(setting, state), state


def _workers(setting: Setting, engine: Engine, processes: int) -> Workers:
    from crowdlearn_host.simulation.workers import InProcess, Processes, RayTasks

    if engine is Engine.ray:
        return RayTasks(setting.workload)
    return InProcess(setting.workload) if processes == 1 else Processes(setting.workload, processes)


def _line(state: RunState) -> str:
    last = state.records[-1]
    accuracy = "" if last.accuracy is None else f"  test accuracy {last.accuracy:.4f}"
    speed, moved = last.samples / last.seconds, sum(last.bytes.values()) / 1e6
    told = f"epoch {last.epoch + 1}, round {last.round + 1}  training loss {last.loss:.4f}{accuracy}"
    return f"{told}  {speed:.0f} samples/s  {moved:.1f} MB"
