"""`crowdlearn report`: a run as one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from crowdlearn_device.platform.files import write_atomically

from crowdlearn_host.cli.console.document import Json, document
from crowdlearn_host.cli.console.output import Force, claim
from crowdlearn_host.report.comparison import comparison
from crowdlearn_host.report.page import is_page, page
from crowdlearn_host.report.run import read_run


def report(
    run: Annotated[Path, typer.Argument(help="The run's folder.", show_default=False)],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The file to write [default: report.html in the folder]."),
    ] = None,
    against: Annotated[
        list[Path] | None,
        typer.Option("--against", help="Another run, to compare with it on one page. Repeatable."),
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Write a run's curves, traffic, slices, recoveries and environment as one self-contained HTML page."""
    target = output or run / "report.html"
    found = read_run(run)
    for damaged in found.damaged:
        typer.echo(f"{damaged}: they are left out of the report", err=True)
    others = [(read_run(other), other / "report.html") for other in against or ()]
    written = {target: page(found)}
    if others:
        target = output or run / "comparison.html"
        written = {run / "report.html": page(found)}
        written |= {path: page(other) for other, path in others}
        written[target] = comparison([(found, run / "report.html"), *others], target)
    for path in written:
        claim(path, force=force, is_own=is_page)
    for path, text in written.items():
        write_atomically(path, text.encode())
    with document(as_json) as tell:
        tell({"report": str(target), "damaged": list(found.damaged)})
    if not as_json:
        typer.echo(str(target))
