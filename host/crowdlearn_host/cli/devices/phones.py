"""`crowdlearn phones`: start, list, disturb and stop virtual phones."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from typing import Annotated

import typer
from rich.table import Table

from crowdlearn_host import emulator as phones
from crowdlearn_host.cli.console.document import Json, document
from crowdlearn_host.cli.console.silence import Working
from crowdlearn_host.cli.console.terminal import terminal
from crowdlearn_host.emulator.hardware.profiles import FASTEST
from crowdlearn_host.emulator.processes.program_file import ABIS

app = typer.Typer(help="Start, list, disturb and stop virtual phones.", no_args_is_help=True)

Profile = StrEnum("Profile", [(key, key) for key in phones.PROFILES])  # type: ignore[misc]
Link = StrEnum("Link", [(key, key) for key in phones.LINKS])  # type: ignore[misc]

Arch = StrEnum("Arch", [(machine, machine) for machine in ABIS])  # type: ignore[misc]

Name = Annotated[str, typer.Argument(help="Name of the phone, as `crowdlearn phones list` shows it.")]


@app.command()
def up(
    count: Annotated[int, typer.Option(min=1, max=1000, help="Number of phones.")] = 4,
    profile: Annotated[Profile, typer.Option(help="The phone to imitate.")] = Profile(FASTEST),
    link: Annotated[
        Link | None, typer.Option(help="The network to imitate; without it, there is no limit.")
    ] = None,
    limited: Annotated[
        bool, typer.Option("--limited", help="Limit processor and memory to those of the profile.")
    ] = False,
    arch: Annotated[
        Arch | None,
        typer.Option(
            help="Processor architecture; such phones run programs from their own files, such as a bundle."
        ),
    ] = None,
    ask: Annotated[
        bool, typer.Option("--ask", help="Refuse every adb key, including yours, until `phones accept`.")
    ] = False,
    open_to_all: Annotated[
        bool,
        typer.Option(
            "--open", help="Accept every adb key: anything that reaches the port controls the phone."
        ),
    ] = False,
    wireless: Annotated[
        bool, typer.Option("--wireless", help="Require TLS, as Android's wireless debugging does.")
    ] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="First adb port; 0 takes free ones.")] = 0,
    as_json: Json = False,
) -> None:
    """Start virtual phones, which run until `phones down`."""
    with Working(terminal(stderr=True), f"starting {count} phones"):
        started = phones.up(
            count,
            profile.value,
            auto_accept=open_to_all,
            keys=() if ask else None,
            ports=range(port, port + count) if port else (),
            limited=limited,
            link=phones.LINKS[link.value] if link else None,
            machine=arch.value if arch else "",
            wireless=wireless,
        )
    if open_to_all:
        _tell("every adb key is accepted: anything that reaches these local ports controls the phones")
    if any(info.confined == "none" for info in started):
        _tell("the phones' programs are not confined; that takes Linux 5.13 or newer, with Landlock")
    _show(started, as_json=as_json)


def _tell(note: str) -> None:
    typer.echo(f"note: {note}", err=True)


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List running virtual phones."""
    _show(phones.list_phones(), as_json=as_json)


@app.command()
def down(
    names: Annotated[
        list[str] | None, typer.Argument(help="Names of phones; without any, all phones.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Switch virtual phones off and remove their files."""
    with document(as_json) as tell:
        stopped = phones.down(names=names or None)
        tell(stopped)
    if not as_json:
        typer.echo(f"switched off: {', '.join(stopped) or 'none was running'}")


@app.command()
def kill(name: Name) -> None:
    """Kill a phone without warning; its files stay until `phones down`."""
    phones.kill(name)


@app.command()
def unplug(name: Name) -> None:
    """Pull the cable: the connection is lost and the battery drains."""
    phones.unplug(name)


@app.command()
def plug(name: Name) -> None:
    """Put the cable back."""
    phones.plug(name)


@app.command()
def drain(
    name: Name, percent: Annotated[int, typer.Option(min=0, max=100, help="Battery level to set.")] = 0
) -> None:
    """Set the battery level, with the charger disconnected; at 0 the phone switches off."""
    phones.drain(name, percent)


@app.command()
def accept(
    name: Name,
    key: Annotated[
        str | None, typer.Argument(help="Fingerprint of the key; without it, waiting keys are listed.")
    ] = None,
) -> None:
    """Accept the adb key of a computer that the phone does not trust yet."""
    if key is not None:
        phones.accept(name, key)
        return
    waiting = phones.waiting(name)
    for shown in waiting:
        typer.echo(f"{shown} waits; accept it: crowdlearn phones accept {name} {shown}")
    if not waiting:
        typer.echo(f"no key waits to be accepted by {name}")


def _show(infos: list[phones.PhoneInfo], *, as_json: bool) -> None:
    with document(as_json) as tell:
        tell([asdict(info) for info in infos])
    if as_json:
        return
    table = Table("name", "serial", "profile", "process", "capped by", "confined by")
    for info in infos:
        table.add_row(info.name, info.serial, info.profile, str(info.pid), info.limits, info.confined)
    terminal().print(table)
