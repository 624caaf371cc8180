"""`crowdlearn report`: a run as one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from crowdlearn import Run

from crowdlearn_host.cli.console.document import Json, document
from crowdlearn_host.cli.console.output import Force, claim
from crowdlearn_host.report.html_page import is_page


def report(
    run: Annotated[Path, typer.Argument(help="The run's folder.", show_default=False)],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The file to write [default: report.html in the folder]."),
    ] = None,
    against: Annotated[
        list[Path] | None,
        typer.Option("--against", help="Another run to show on the same page, for comparison. Repeatable."),
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Write a self-contained HTML page of a run: curves, traffic, slices, recoveries, environment."""
    composed = Run(run).compose_report(output, against=against or ())
    for damaged in composed.damaged:
        typer.echo(f"{damaged}: they are left out of the report", err=True)
    for path in composed.pages:
        claim(path, force=force, is_own=is_page)
    composed.write()
    with document(as_json) as tell:
        tell({"report": str(composed.target), "damaged": list(composed.damaged)})
    if not as_json:
        typer.echo(str(composed.target))
