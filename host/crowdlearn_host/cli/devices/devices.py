"""`crowdlearn devices`: what is connected, and what it says about itself."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Column, Table

from crowdlearn_host.cli.console.document import Json, document
from crowdlearn_host.cli.console.progress import size
from crowdlearn_host.cli.console.silence import Working
from crowdlearn_host.cli.console.terminal import printable, terminal
from crowdlearn_host.devices.discovery import Visited, discover, visit
from crowdlearn_host.devices.facts import DeviceFacts


def devices(
    addresses: Annotated[
        list[str] | None, typer.Argument(help="HOST:PORT of phones with adb over TCP.")
    ] = None,
    key: Annotated[Path | None, typer.Option(help="Private adb key [default: ~/.android/adbkey].")] = None,
    as_json: Json = False,
) -> None:
    """List phones: those named, virtual ones, those on USB or behind a running adb server.

    Exits with 1 where one of them does not answer.
    """
    with document(as_json) as tell:
        with Working(terminal(stderr=True), "looking for phones"):
            visited = asyncio.run(visit(discover(addresses or ()), key=key))
        tell([_row(item) for item in visited])
    if not as_json:
        _show(visited)
    if any(item.problem for item in visited):
        raise typer.Exit(1)


def _show(visited: Sequence[Visited]) -> None:
    if not visited:
        typer.echo("no phones: connect one with adb debugging on, or start some with 'crowdlearn phones up'")
        return
    serial = Column("serial", no_wrap=True)  # what a configuration's fleet.phones is copied from
    table = Table(serial, "way", "model", "Android", "cores", "memory", "free storage", "battery", "heat")
    for item in visited:
        if item.facts:
            table.add_row(*map(printable, (item.found.serial, item.found.way, *_cells(item.facts))))
    if table.rows:
        terminal().print(table)
    for problem in dict.fromkeys(item.problem for item in visited if item.problem):
        typer.echo(printable(problem), err=True)


def _row(item: Visited) -> dict[str, object]:
    facts = asdict(item.facts) if item.facts else {}
    return {"serial": item.found.serial, "way": item.found.way, **facts, "problem": item.problem or None}


def _cells(facts: DeviceFacts) -> list[str]:
    unknown = "?"
    celsius = unknown if facts.celsius is None else f"{facts.celsius:.0f} °C"
    battery = unknown if facts.battery_percent is None else f"{facts.battery_percent} %"
    clocks = f"{len(facts.core_mhz)} x {max(facts.core_mhz)} MHz" if facts.core_mhz else unknown
    return [
        f"{facts.manufacturer} {facts.model}" + (" (virtual)" if facts.virtual else ""),
        f"{facts.android} ({facts.abi})",
        clocks,
        unknown if facts.memory is None else size(facts.memory),
        unknown if facts.storage_free is None else size(facts.storage_free),
        battery + (", charging" if facts.charging else ""),
        f"{celsius}, throttling: {facts.thermal or unknown}",
    ]
