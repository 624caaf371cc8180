"""crowdlearn simulate: a whole crowd on one machine, or on a Ray cluster, without sockets."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import crowdlearn
import typer

from crowdlearn_host.cli.console.document import Json, document
from crowdlearn_host.cli.console.options import Engine, Set
from crowdlearn_host.cli.console.silence import Working
from crowdlearn_host.cli.console.terminal import terminal
from crowdlearn_host.errors import ConfigError
from crowdlearn_host.models.names import check_name
from crowdlearn_host.spec.run_spec import DIGITS
from crowdlearn_host.spec.simulated import load_simulation

INTERRUPTED = 130
"""Exit code of a command that SIGINT ended, as shells have it."""


def simulate(
    config: Annotated[Path, typer.Argument(help="Description of a run, or of a simulated crowd (TOML).")],
    data: Annotated[
        str | None,
        typer.Option(help="Folder with training and test data, or 'digits' [default: that of CONFIG]."),
    ] = None,
    run_folder: Annotated[
        Path | None,
        typer.Option(
            "--run",
            help="Folder of the run, which is continued if it exists [default: runs/NAME-simulated].",
        ),
    ] = None,
    engine: Annotated[
        Engine, typer.Option(help="Place of the computation: processes of this computer, or a Ray cluster.")
    ] = Engine.local,
    processes: Annotated[int, typer.Option(min=0, help="Local processes; 0: one per core.")] = 0,
    overrides: Set = None,
    as_json: Json = False,
) -> None:
    """Train the run in CONFIG on simulated devices, with the same arithmetic as on phones."""
    wanted = load_simulation(config, overrides=overrides or ())
    check_name(wanted.config.model)
    place = data or wanted.data
    if place is None:
        raise ConfigError(f"{config} names no data; add data, or give --data FOLDER")
    if place != DIGITS and not Path(place).is_dir():
        raise ConfigError(f"data {place} is not a folder; name the folder that holds the data set")
    folder = run_folder or Path("runs") / f"{config.stem}-simulated"
    console = terminal(stderr=as_json)
    with document(as_json) as tell:
        with Working(terminal(stderr=True), "reading model and data") as working:

            def listen(heard: crowdlearn.Event) -> None:
                event, fields = heard.name, heard.fields
                if event == "note":
                    console.print(f"note: {fields['text']}", highlight=False, soft_wrap=True)
                    return
                if event == "interrupted":
                    reached = "round {kept} of {rounds} is kept" if fields["kept"] else "no round is kept"
                    text = f"interrupted; {reached.format(**fields)}: the same command goes on from there"
                    print(f"crowdlearn: {text}", file=sys.stderr)
                    raise typer.Exit(INTERRUPTED)
                if event == "chosen":
                    best = "epoch {epoch}: validation {metric} {value:.4f}"
                    text = best.format(**{**fields, "epoch": fields["epoch"] + 1})
                    console.print(f"the run's model is that of {text}", highlight=False, soft_wrap=True)
                    return
                if event == "round":
                    console.print(_line(fields), highlight=False, soft_wrap=True)
                kept = fields["kept"] if event == "begun" else fields["round"] + 1
                working.step("training round", min(kept + 1, fields["rounds"]), fields["rounds"])

            run = crowdlearn.simulate(
                wanted,
                folder,
                listeners=[listen],
                interrupt=crowdlearn.Interrupt(),
                data=data,
                engine=engine.value,
                processes=processes,
            )
        model = folder / "model.safetensors"
        tell({"run": str(folder), "model": str(model), "rounds": [asdict(r) for r in run.rounds]})
    if not as_json:
        console.print(f"global model: {model}", soft_wrap=True)


def _line(record: Mapping[str, Any]) -> str:
    accuracy = "" if record["accuracy"] is None else f"  test accuracy {record['accuracy']:.4f}"
    if record["test_loss"] is not None:
        accuracy = f"  test loss {record['test_loss']:.4f}"
    if "loss" in record.get("validation", {}):
        accuracy += f"  validation loss {record['validation']['loss']:.4f}"
    for name, value in record.get("device_metrics", {}).items():
        accuracy += f"  {name} {value:.4f}"
    speed, moved = record["samples"] / record["seconds"], sum(record["bytes"].values()) / 1e6
    at = f"epoch {record['epoch'] + 1}, round {record['round'] + 1}"
    text = f"{at}  training loss {record['loss']:.4f}{accuracy}"
    spent = "" if record.get("epsilon") is None else f"  epsilon {record['epsilon']:.2f}"
    if record.get("group_epsilon") is not None:
        spent += f"  epsilon of a group {record['group_epsilon']:.2f}"
    return f"{text}{spent}  {speed:.0f} samples/s  {moved:.1f} MB"
