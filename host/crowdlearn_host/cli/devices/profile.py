"""`crowdlearn profile`: measure phones, and write the fleet file that the planner reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from crowdlearn_device.platform.files import write_atomically
from rich.table import Table

from crowdlearn_host.cli.console.document import Json, document
from crowdlearn_host.cli.console.output import Force, claim
from crowdlearn_host.cli.console.silence import Working
from crowdlearn_host.cli.console.terminal import printable, size, terminal
from crowdlearn_host.common import event_loop
from crowdlearn_host.common.home import cache_home
from crowdlearn_host.devices.constants import Constants
from crowdlearn_host.devices.discovery import Found, connect, discover, named
from crowdlearn_host.devices.facts import read_facts
from crowdlearn_host.devices.fleet_file import Measured, fleet_toml
from crowdlearn_host.devices.measuring import (
    Probe,
    measure_kernels,
    measure_link,
    measure_macs,
    measure_messages,
)
from crowdlearn_host.errors import FleetError


def profile(
    addresses: Annotated[
        list[str] | None, typer.Argument(help="HOST:PORT of phones with adb over TCP.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Fleet file to write.")] = Path("fleet.toml"),
    samples: Annotated[int, typer.Option(min=1, help="Samples that each phone is assumed to hold.")] = 100,
    max_macs: Annotated[
        int | None, typer.Option(min=1, help="Most multiplications per sample on each phone.")
    ] = None,
    energy: Annotated[
        bool,
        typer.Option("--energy", help="Also measure joules per multiplication and per byte; takes minutes."),
    ] = False,
    energy_seconds: Annotated[
        float, typer.Option(min=10, help="Seconds for the energy of one phone; 12 for a virtual one.")
    ] = 600.0,
    key: Annotated[Path | None, typer.Option(help="Private adb key [default: ~/.android/adbkey].")] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Time a slice program and the link on every phone at hand, and write a fleet file for the planner.

    With --energy, also measure what a multiplication and a byte cost. Phones must not be charging then.
    """
    claim(out, force=force)  # whoever measures anew would lose the caps that were written into the file
    found = discover(addresses or ())
    if not found:
        raise FleetError("no phones: connect one, or start some with 'crowdlearn phones up'")

    def keep(measured: list[Measured]) -> None:
        write_atomically(out, fleet_toml(measured, samples=samples, max_macs=max_macs).encode())

    with document(as_json) as tell:
        with Working(terminal(stderr=True), "exporting the slice program to measure") as working:
            from crowdlearn_host.devices.probe import build_probe  # imports the exporter

            probe = build_probe(cache_home() / "programs")
            seconds = energy_seconds if energy else 0.0
            measured, missing = event_loop.run(_measure_all(found, probe, key, keep, working, seconds))
        if not measured:
            raise FleetError("no phone could be measured")
        tell({"file": str(out), "devices": [asdict(item) for item in measured], "missing": missing})
    if not as_json:
        _show(measured)
        typer.echo(f"wrote {out}")
    if missing:
        raise FleetError(
            f"{out} lacks {len(missing)} of {len(found)} phones: {', '.join(missing)}; "
            "see what is printed of them above, then measure again with --force"
        )


def _show(measured: list[Measured]) -> None:
    table = Table("device", "model", "million MAC/s", "up", "down", "round trip")
    for item in measured:
        table.add_row(
            printable(item.facts.name),
            printable(f"{item.facts.manufacturer} {item.facts.model}")
            + (" (emulated)" if item.facts.virtual else ""),
            f"{item.macs_per_second / 1e6:.0f}",
            f"{size(item.link.up)}/s",
            f"{size(item.link.down)}/s",
            f"{1000 * item.link.round_trip:.1f} ms",
        )
    terminal().print(table)
    for item in measured:
        if item.energy is not None:
            terminal().print(printable(f"{item.facts.name}: {_energy(item.energy)}"), soft_wrap=True)


def _energy(energy: Constants) -> str:
    """Return what a phone's energy is, with where it comes from."""
    names = {
        "idle_watts": "W idle",
        "joules_per_mac": "J/MAC",
        "joules_per_byte_sent": "J/byte sent",
        "joules_per_byte_received": "J/byte received",
    }
    values = {name: getattr(energy, key) for key, name in names.items()}
    found = [f"{value:.3g} {name}" for name, value in values.items() if value is not None]
    numbers = f"{', '.join(found)} ({energy.provenance}: {energy.source})" if found else "no energy constants"
    return f"{numbers}; {energy.why}" if energy.why else numbers


async def _measure_all(
    found: list[Found],
    probe: Probe,
    key: Path | None,
    keep: Callable[[list[Measured]], None],
    working: Working,
    energy_seconds: float,
) -> tuple[list[Measured], list[str]]:
    """Return what was measured, kept after every phone, and the serials of those that could not be."""
    # One after the other: virtual phones share this computer, and real ones the air.
    measured: list[Measured] = []
    missing = []
    for number, item in enumerate(found, 1):
        working.step(f"measuring {item.serial}", number, len(found))
        try:
            async with await connect(item, key=key) as device:
                facts, link = await read_facts(device), await measure_link(device)
                macs = await measure_macs(device, probe)
                messages = await measure_messages(device)
                kernels = await measure_kernels(device, probe.kernels) if probe.kernels else None
                energy = None
                if energy_seconds:
                    from crowdlearn_host.energy.calibration import calibrate

                    energy = await calibrate(
                        device, facts, item.way, probe, working.step, seconds=energy_seconds
                    )
                phone = Measured(facts, link, macs, energy, messages, kernels)
        except FleetError as error:
            missing.append(item.serial)
            typer.echo(printable(named(item.serial, error)), err=True)
        else:
            measured.append(phone)
            keep(measured)
    return measured, missing
