"""`crowdlearn phones`: start, list and torment virtual phones."""

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

app = typer.Typer(help="Virtual phones, for trying things out and for CI.", no_args_is_help=True)

Profile = StrEnum("Profile", [(key, key) for key in phones.PROFILES])  # type: ignore[misc]
Link = StrEnum("Link", [(key, key) for key in phones.LINKS])  # type: ignore[misc]

Arch = StrEnum("Arch", [(machine, machine) for machine in ABIS])  # type: ignore[misc]

Name = Annotated[str, typer.Argument(help="Name of the phone, as `crowdlearn phones list` shows it.")]


@app.command()
def up(
    count: Annotated[int, typer.Option(min=1, max=1000, help="How many.")] = 4,
    profile: Annotated[Profile, typer.Option(help="The phone to imitate.")] = Profile(FASTEST),
    link: Annotated[
        Link | None, typer.Option(help="The network to imitate; none is as fast as it goes.")
    ] = None,
    limited: Annotated[
        bool, typer.Option("--limited", help="Cap processor and memory as the profile says.")
    ] = False,
    arch: Annotated[
        Arch | None,
        typer.Option(
            help="Phones of this processor: they run programs that lie in their files, as a bundle does."
        ),
    ] = None,
    ask: Annotated[
        bool, typer.Option("--ask", help="Refuse every key, also yours, until `phones accept`.")
    ] = False,
    open_to_all: Annotated[
        bool,
        typer.Option("--open", help="Accept every key: anything that reaches the port controls the phone."),
    ] = False,
    wireless: Annotated[
        bool, typer.Option("--wireless", help="Want TLS, as Android's wireless debugging does.")
    ] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="First adb port; 0 takes free ones.")] = 0,
    as_json: Json = False,
) -> None:
    """Start virtual phones; they run until `phones down`."""
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
        _tell("every key is accepted: anything that reaches these ports on this computer controls the phones")
    if any(info.confined == "none" for info in started):
        _tell("nothing confines the phones' programs here: Linux 5.13 and Landlock do")
    _show(started, as_json=as_json)


def _tell(note: str) -> None:
    typer.echo(f"note: {note}", err=True)


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List the virtual phones that run."""
    _show(phones.list_phones(), as_json=as_json)


@app.command()
def down(
    names: Annotated[list[str] | None, typer.Argument(help="Which; all without names.")] = None,
    as_json: Json = False,
) -> None:
    """Switch phones off and remove their files."""
    with document(as_json) as tell:
        stopped = phones.down(names=names or None)
        tell(stopped)
    if not as_json:
        typer.echo(f"switched off: {', '.join(stopped) or 'none was there'}")


@app.command()
def kill(name: Name) -> None:
    """End a phone without warning; its files stay until `phones down`."""
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
    name: Name, percent: Annotated[int, typer.Option(min=0, max=100, help="Level to leave.")] = 0
) -> None:
    """Take the charger away and empty the battery; at 0 the phone goes off."""
    phones.drain(name, percent)


@app.command()
def accept(
    name: Name,
    key: Annotated[
        str | None, typer.Argument(help="The key's fingerprint; without one, those that wait are shown.")
    ] = None,
) -> None:
    """Accept the key of a computer that the phone does not trust."""
    if key is not None:
        phones.accept(name, key)
        return
    waiting = phones.waiting(name)
    for shown in waiting:
        typer.echo(f"{shown} waits; accept it: crowdlearn phones accept {name} {shown}")
    if not waiting:
        typer.echo(f"no key waits at {name}")


def _show(infos: list[phones.PhoneInfo], *, as_json: bool) -> None:
    with document(as_json) as tell:
        tell([asdict(info) for info in infos])
    if as_json:
        return
    table = Table("name", "serial", "profile", "process", "capped by", "confined by")
    for info in infos:
        table.add_row(info.name, info.serial, info.profile, str(info.pid), info.limits, info.confined)
    terminal().print(table)
