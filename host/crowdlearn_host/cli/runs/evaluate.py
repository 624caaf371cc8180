"""`crowdlearn evaluate`: what a run's global model makes of a data set."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from crowdlearn_host.cli.console.terminal import terminal
from crowdlearn_host.coordinator.storage.run_folder import load_model_state
from crowdlearn_host.runs.evaluation import evaluate as run_model

from .trained import model_and_test


def evaluate(
    run: Annotated[Path, typer.Argument(help="The run's folder.", show_default=False)],
    data: Annotated[
        str | None, typer.Option(help="Folder with a test split, or 'digits' [default: the run's].")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Evaluate a run's newest global model on a test set."""
    model, test = model_and_test(run, data)
    result = run_model(model, load_model_state(run), test)
    if as_json:
        typer.echo(json.dumps({"run": str(run), **asdict(result)}))
    else:
        accuracy = (f"{100 * result.accuracy:.2f} %", "bold")
        told = f", loss {result.loss:.4f}, {result.samples} samples"
        terminal().print(Text.assemble("accuracy ", accuracy, told))
