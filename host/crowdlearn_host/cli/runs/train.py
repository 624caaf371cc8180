"""`crowdlearn train`: train a configuration on phones."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from crowdlearn_host import emulator as phones
from crowdlearn_host.cli.console.progress import TrainingProgress, size
from crowdlearn_host.cli.console.terminal import terminal
from crowdlearn_host.coordinator.storage.run_folder import RunFolder
from crowdlearn_host.errors import ConfigError, FleetError
from crowdlearn_host.runs.prepare import Prepared, prepare
from crowdlearn_host.runs.train import fetch_models, forget_phones, new_run, open_run, recompiled
from crowdlearn_host.runs.train import train as run_training
from crowdlearn_host.spec.training import TrainConfig, load_config


def train(
    config: Annotated[
        Path | None, typer.Argument(help="The run's configuration (TOML).", show_default=False)
    ] = None,
    run: Annotated[Path | None, typer.Option(help="Folder of the new run [default: runs/NAME].")] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Go on with the run in this folder.", show_default=False)
    ] = None,
    key: Annotated[Path | None, typer.Option(help="Private adb key [default: ~/.android/adbkey].")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train a sliced network on phones. Interrupted runs go on with --resume RUN."""
    if (config is None) == (resume is None):
        raise ConfigError("name either a configuration to start, or a run to --resume")
    console = terminal(stderr=as_json)
    if resume is not None:
        folder, settings = open_run(resume)
        with folder:
            prepared = prepare(settings, _tell(console), resume)
            if recompiled(folder.path, prepared):
                folder.event("recompiled")
                _tell(console)("recompiled", {})
            result = train_in(folder, prepared, console, key)
    else:
        assert config is not None
        settings = load_config(config)
        prepared = prepare(settings, _tell(console))
        with new_run(
            run or Path("runs") / settings.name, config.read_text(), prepared, config.parent
        ) as folder:
            result = train_in(folder, prepared, console, key)
    if as_json:
        typer.echo(json.dumps(result))


def _tell(console: Console) -> Any:
    return TrainingProgress(console, 0, 0).show


def train_in(
    folder: RunFolder, prepared: Prepared, console: Console, key: Path | None = None
) -> dict[str, Any]:
    """Train in an open run folder with the fleet of its configuration; prints and returns the result."""
    config = prepared.config
    samples = len(prepared.train) if prepared.train is not None else 0
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        serials = _serials(config, folder.path, stack)
        progress = stack.enter_context(TrainingProgress(console, samples, config.training.epochs))
        result = asyncio.run(run_training(prepared, serials, folder, progress.show, key))
    models: list[Path] = []
    if config.fleet.virtual:
        models = fetch_models(folder.path)
        forget_phones(folder.path)  # the run is done, its own phones with it
    traffic: dict[str, dict[str, int]] = {"up": {}, "down": {}}
    for row in folder.load_traffic():
        direction, purpose = str(row["direction"]), str(row["purpose"])
        traffic[direction][purpose] = traffic[direction].get(purpose, 0) + int(row["bytes"])
    table = Table("purpose", "from devices", "to devices", title="bytes on the wire")
    for purpose in sorted(traffic["up"], key=lambda p: -traffic["up"][p]):
        table.add_row(purpose, size(traffic["up"][purpose]), size(traffic["down"].get(purpose, 0)))
    console.print(table)
    if result is not None:
        accuracy = (f"{100 * result.accuracy:.2f} %", "bold")
        console.print(Text.assemble("test accuracy ", accuracy, f" of {result.samples} samples"))
    console.print(f"run folder: {folder.path}", soft_wrap=True)
    if models:
        console.print(
            f"the phones were the run's own; the models that they kept: {models[0].parent}", soft_wrap=True
        )
        console.print(f"use one: crowdlearn-device predict --model {models[0]} --inputs FILE", soft_wrap=True)
    return {
        "run": str(folder.path),
        "seconds": round(time.monotonic() - started, 2),
        "test_accuracy": result.accuracy if result else None,
        "test_loss": result.loss if result else None,
        "bytes": traffic,
        "models": [str(path) for path in models],
    }


def _serials(config: TrainConfig, run: Path, stack: contextlib.ExitStack) -> list[str]:
    """The devices of the configuration; virtual ones of its own run as long as the stack, and keep what they
    hold in the run's folder until the run is done.
    """
    fleet = config.fleet
    if fleet.virtual:
        started = stack.enter_context(phones.kept(fleet.virtual, run, profile=fleet.profile))
        return [phone.serial for phone in started]
    if fleet.phones:
        return list(fleet.phones)
    if fleet.joining:
        return []
    found = [phone.serial for phone in phones.list_phones()]
    if not found:
        raise FleetError(
            "no devices: name them in fleet.phones, start some with 'crowdlearn phones up --count 4', "
            "or set fleet.virtual"
        )
    return found
