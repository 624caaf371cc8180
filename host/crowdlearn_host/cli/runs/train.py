"""`crowdlearn train`: train a configuration on phones."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from crowdlearn_host import emulator as phones
from crowdlearn_host.cli.console.document import Json, document
from crowdlearn_host.cli.console.progress import TrainingProgress, size
from crowdlearn_host.cli.console.terminal import terminal
from crowdlearn_host.errors import ConfigError
from crowdlearn_host.methods.round_schedule import doubt_of_sharing
from crowdlearn_host.runs.preflight import check_start, serials_of
from crowdlearn_host.spec.training import TrainConfig, load_config

if TYPE_CHECKING:
    from crowdlearn_host.coordinator.storage.run_folder import RunFolder
    from crowdlearn_host.runs.evaluation import Evaluation
    from crowdlearn_host.runs.prepare import Checked, Prepared


def train(
    config: Annotated[
        Path | None, typer.Argument(help="The run's configuration (TOML).", show_default=False)
    ] = None,
    run: Annotated[Path | None, typer.Option(help="Folder of the new run [default: runs/NAME].")] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Go on with the run in this folder.", show_default=False)
    ] = None,
    key: Annotated[Path | None, typer.Option(help="Private adb key [default: ~/.android/adbkey].")] = None,
    as_json: Json = False,
) -> None:
    """Train a sliced network on phones. Interrupted runs go on with --resume RUN."""
    if (config is None) == (resume is None):
        raise ConfigError("name either a configuration to start, or a run to --resume")
    console = terminal(stderr=as_json)
    with document(as_json) as tell:
        if resume is not None:
            tell(go_on(resume, console, key))
        else:
            assert config is not None
            settings = load_config(config)
            folder = run or Path("runs") / settings.name
            tell(start(settings, config.read_text(), config.parent, folder, console, key))


def start(
    config: TrainConfig, text: str, config_folder: Path, run: Path, console: Console, key: Path | None = None
) -> dict[str, Any]:
    """Train a new run in the folder `run`: first everything that is looked at in no time, then what takes
    seconds, then the exports. Prints and returns the result.
    """
    from crowdlearn_host.runs.folder import describe_run, starting

    check_start(config)
    serials = serials_of(config)
    with starting(run, text) as folder, TrainingProgress(console) as progress:
        prepared = _prepared(config, serials, progress.show, key)
        describe_run(folder, text, prepared, config_folder)
        return _trained(folder, prepared, serials, console, progress, key)


def go_on(run: Path, console: Console, key: Path | None = None) -> dict[str, Any]:
    """Train on in the folder `run`. Prints and returns the result."""
    from crowdlearn_host.runs.folder import open_run, recompiled

    folder, config = open_run(run)
    with folder:
        serials = serials_of(config)
        with TrainingProgress(console) as progress:
            from crowdlearn_host.runs.prepare import (
                prepare,  # imports the exporter: what is wrong is told before that
            )

            prepared = prepare(config, progress.show, run)
            if recompiled(run, prepared):
                folder.event("recompiled")
                progress.show("recompiled", {})
            return _trained(folder, prepared, serials, console, progress, key)


def _prepared(
    config: TrainConfig,
    serials: list[str] | None,
    on_event: Callable[[str, dict[str, Any]], None],
    key: Path | None,
) -> Prepared:
    """A new run's programs, once its parts fit each other and its devices answer."""
    from crowdlearn_host.runs.prepare import check, export  # imports the exporter, which takes seconds
    from crowdlearn_host.runs.survey import survey

    devices = (config.fleet.virtual if serials is None else len(serials)) + config.fleet.joining
    checked = check(config, devices=devices)
    groups = len(checked.plan.groups) or config.group.groups
    if groups > 1 and (doubt := doubt_of_sharing(config.sharing.theta, config.sharing.tau)):
        on_event("note", {"text": doubt})
    if serials:
        asyncio.run(survey(serials, _wanted(checked), key))
    return export(checked, on_event)


def _wanted(checked: Checked) -> Any:
    """The samples that every device must have, if they are on the devices already."""
    from crowdlearn_host.runs.survey import Wanted

    if checked.config.device_data is None:
        return None
    return Wanted(
        checked.config.device_data,
        checked.sample,
        checked.graph.layers[-1].neurons,
        checked.graph.least_rows,
        frozenset(turn.devices[0] for group in checked.plan.groups for turn in group.turns),
    )


def _trained(
    folder: RunFolder,
    prepared: Prepared,
    serials: list[str] | None,
    console: Console,
    progress: TrainingProgress,
    key: Path | None,
) -> dict[str, Any]:
    from crowdlearn_host.runs.folder import fetch_models, forget_phones
    from crowdlearn_host.runs.train import train as run_training

    config, started = prepared.config, time.monotonic()
    progress.expect(len(prepared.train) * config.training.epochs if prepared.train is not None else 0)
    with contextlib.ExitStack() as stack:
        if serials is None:  # they keep what they hold in the run's folder until the run is done
            fleet = config.fleet
            own = stack.enter_context(
                phones.kept(fleet.virtual, folder.path, profile=fleet.profile, machine=fleet.arch)
            )
            serials = [phone.serial for phone in own]
        result = asyncio.run(run_training(prepared, serials, folder, progress.show, key))
    models: list[Path] = []
    if config.fleet.virtual:
        models = fetch_models(folder.path)
        forget_phones(folder.path)  # the run is done, its own phones with it
    traffic = folder.load_traffic()
    _show(console, folder.path, traffic, result)
    if models:
        console.print(
            f"the phones were the run's own; the models that they kept: {models[0].parent}", soft_wrap=True
        )
        console.print(f"use one: crowdlearn-device predict --model {models[0]} --inputs FILE", soft_wrap=True)
    bytes_: dict[str, dict[str, int]] = {"up": {}, "down": {}}
    for row in traffic:
        direction, purpose = str(row["direction"]), str(row["purpose"])
        bytes_[direction][purpose] = bytes_[direction].get(purpose, 0) + int(row["bytes"])
    return {
        "run": str(folder.path),
        "seconds": round(time.monotonic() - started, 2),
        "test_accuracy": result.accuracy if result else None,
        "test_loss": result.loss if result else None,
        "training_loss": progress.training_loss,
        "bytes": bytes_,
        "models": [str(path) for path in models],
    }


def _show(
    console: Console, run: Path, traffic: list[dict[str, str | int]], result: Evaluation | None
) -> None:
    totals: dict[str, dict[str, int]] = {}
    for row in traffic:
        of = totals.setdefault(str(row["purpose"]), {"up": 0, "down": 0})
        of[str(row["direction"])] += int(row["bytes"])
    table = Table(
        "purpose", "sent by devices", "received by devices", title="bytes on the wire", show_footer=True
    )
    for column, way in ((1, "up"), (2, "down")):
        table.columns[column].footer = size(sum(of[way] for of in totals.values()))
        table.columns[column].justify = "right"
    table.columns[0].footer = "in all"
    for purpose, of in sorted(totals.items(), key=lambda item: -item[1]["up"]):
        table.add_row(purpose, size(of["up"]), size(of["down"]))
    console.print(table)
    if result is not None:
        accuracy = (f"{100 * result.accuracy:.2f} %", "bold")
        told = f", test loss {result.loss:.4f}, of {result.samples} samples"
        console.print(Text.assemble("test accuracy ", accuracy, told))
    console.print(f"run folder: {run}", soft_wrap=True)
