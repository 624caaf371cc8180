"""`crowdlearn submit`: give a run to a service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import crowdlearn
import typer
from rich.table import Table

from crowdlearn_host.cli.console.document import Json, document
from crowdlearn_host.cli.console.options import Set
from crowdlearn_host.cli.console.silence import Working
from crowdlearn_host.cli.console.terminal import printable, terminal
from crowdlearn_host.errors import ConfigError, RunError

MOST = 10**9
"""The highest priority, and the highest number of a run that is looked for."""


def submit(
    config: Annotated[
        Path | None, typer.Argument(help="Description of the run (TOML).", show_default=False)
    ] = None,
    to: Annotated[Path, typer.Option(help="Folder of the service.", show_default=False)] = ...,  # type: ignore[assignment]
    priority: Annotated[
        int, typer.Option(min=-MOST, max=MOST, help="Runs of higher priority begin first.")
    ] = 0,
    overrides: Set = None,
    listed: Annotated[bool, typer.Option("--list", help="List the runs of the service.")] = False,
    cancel: Annotated[
        int | None, typer.Option(min=1, max=MOST, help="End the run with this number.", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Add a run to the queue of a service (crowdlearn serve), list its runs, or cancel one."""
    from crowdlearn_host.service.description import check_served
    from crowdlearn_host.service.jobs import FILE, Jobs

    asked = (config is not None) + listed + (cancel is not None)
    if asked != 1:
        raise ConfigError("give one of: the description of a run to submit, --list, or --cancel NUMBER")
    spec = None
    if config is not None:
        spec = crowdlearn.RunSpec.load(config, overrides or ())
        check_served(spec)
        from crowdlearn_host.runs.checks.checked import check  # imports torch, which takes a second

        with Working(terminal(stderr=True), "checking model and data"):
            check(spec)
    if spec is None and not (to / FILE).exists():
        raise RunError(f"{to} holds no service; name the folder that 'crowdlearn serve' was given")
    jobs = Jobs(to)
    if spec is not None:
        rows = [jobs.submit(spec.name, spec.to_toml(), priority)]
    else:
        rows = jobs.all() if cancel is None else [jobs.cancel(cancel)]
    with document(as_json) as tell:
        tell([job.to_json() for job in rows])
    if not as_json:
        table = Table("number", "run", "priority", "state", "")
        for job in rows:
            table.add_row(str(job.id), job.name, str(job.priority), job.state, printable(job.outcome))
        terminal().print(table)
        if spec is not None:
            terminal(stderr=True).print(
                f"it begins when 'crowdlearn serve {printable(str(to))}' runs and its devices are there",
                highlight=False,
                markup=False,
            )
