"""`crowdlearn devices`: the phones at hand, and the facts that they report."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from crowdlearn_device.platform.files import write_atomically
from rich.measure import Measurement
from rich.table import Column, Table

from crowdlearn_host.cli.console.document import Json, document
from crowdlearn_host.cli.console.output import Force, claim
from crowdlearn_host.cli.console.silence import Working
from crowdlearn_host.cli.console.terminal import printable, size, terminal
from crowdlearn_host.common import event_loop
from crowdlearn_host.devices.discovery import Found, Visited, discover, visit
from crowdlearn_host.devices.facts import DeviceFacts

WIDE = 10_000
"""Columns of a terminal in which every table has room."""


def devices(
    addresses: Annotated[
        list[str] | None, typer.Argument(help="HOST:PORT of phones with adb over TCP.")
    ] = None,
    key: Annotated[Path | None, typer.Option(help="Private adb key [default: ~/.android/adbkey].")] = None,
    report: Annotated[
        Path | None,
        typer.Option(help="Write a file for a bug report: facts of the phones, nothing about their owners."),
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """List phones: those at ADDRESSES, virtual phones, and those on USB or behind a running adb server.

    The exit code is 1 if one of them does not answer.
    """
    if report is not None:
        claim(report, force=force)
    with document(as_json) as tell:
        with Working(terminal(stderr=True), "looking for phones"):
            visited = event_loop.run(visit(discover(addresses or ()), key=key))
        tell([_row(item) for item in visited])
    if report is not None:
        write_atomically(report, json.dumps(anonymous(visited), indent=1).encode())
        typer.echo(f"wrote {report}", err=True)
    if not as_json:
        _show(visited)
    if any(item.problem for item in visited):
        raise typer.Exit(1)


def _show(visited: Sequence[Visited]) -> None:
    if not visited:
        typer.echo("no phones: connect one with adb debugging on, or start some with 'crowdlearn phones up'")
        return
    serial = Column("serial", no_wrap=True)  # what a configuration's fleet.phones is copied from
    table = Table(
        serial, "way", "model", "Android", "runtime", "cores", "memory", "free storage", "battery", "heat"
    )
    there = [(item.found, item.facts) for item in visited if item.facts]
    for found, facts in there:
        table.add_row(*map(printable, (found.serial, found.way, *_cells(facts))))
    console = terminal()
    if (
        there
        and Measurement.get(console, console.options.update(max_width=WIDE), table).maximum <= console.width
    ):
        console.print(table)
    else:  # a narrow terminal would cut every column short
        for found, facts in there:
            console.print("\n  ".join(map(printable, _lines(found, facts))), highlight=False)
    for item in visited:
        if item.facts and item.facts.fingerprint:
            serial_of = printable(item.found.serial)
            terminal().print(f"identity of {serial_of}: {item.facts.fingerprint}", highlight=False)
    for problem in dict.fromkeys(item.problem for item in visited if item.problem):
        typer.echo(printable(problem), err=True)


def _row(item: Visited) -> dict[str, object]:
    facts = asdict(item.facts) if item.facts else {}
    return {"serial": item.found.serial, "way": item.found.way, **facts, "problem": item.problem or None}


def anonymous(visited: Sequence[Visited]) -> dict[str, object]:
    """Return what phones are and how they were reached, without serials, names and addresses."""
    kept = [
        field for field in DeviceFacts.__dataclass_fields__ if field not in ("serial", "name", "fingerprint")
    ]
    phones = [
        {
            "way": item.found.way,
            "answers": item.facts is not None,
            **({name: getattr(item.facts, name) for name in kept} if item.facts else {}),
        }
        for item in visited
    ]
    return {"crowdlearn": version("crowdlearn"), "python": platform.python_version(), "phones": phones}


def _pages(facts: DeviceFacts) -> str:
    return f", pages of {facts.page_size // 1024} KiB" if facts.page_size else ""


def _lines(found: Found, facts: DeviceFacts) -> list[str]:
    """Return what a row of the table holds, in lines."""
    model, android, runtime, cores, memory, storage, battery, heat = _cells(facts)
    return [
        f"{found.serial} ({found.way}): {model}",
        f"Android {android}",
        f"runtime: {runtime}",
        f"cores: {cores}; memory: {memory}; free storage: {storage}",
        f"battery: {battery}; heat: {heat}",
    ]


def _cells(facts: DeviceFacts) -> list[str]:
    unknown = "?"
    celsius = unknown if facts.celsius is None else f"{facts.celsius:.0f} °C"
    battery = unknown if facts.battery_percent is None else f"{facts.battery_percent} %"
    clocks = f"{len(facts.core_mhz)} x {max(facts.core_mhz)} MHz" if facts.core_mhz else unknown
    return [
        f"{facts.manufacturer} {facts.model}" + (" (virtual)" if facts.virtual else ""),
        f"{facts.android} ({facts.abi}, API {facts.api_level or unknown}{_pages(facts)})",
        ", ".join(facts.runtimes) or "none",
        clocks,
        unknown if facts.memory is None else size(facts.memory),
        unknown if facts.storage_free is None else size(facts.storage_free),
        battery + (", charging" if facts.charging else ""),
        f"{celsius}, throttling: {facts.thermal or unknown}",
    ]
