"""`crowdlearn enrol`: tokens for devices that dial in."""

from __future__ import annotations

import datetime
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer
from crowdlearn_device.protocol.invitation import Invitation

from crowdlearn_host.cli.console.codes import save_code, show_code
from crowdlearn_host.cli.console.document import Json, document
from crowdlearn_host.cli.console.terminal import terminal
from crowdlearn_host.common.home import default_home
from crowdlearn_host.devices.joining.certificate import certificate
from crowdlearn_host.devices.joining.enrolment import DAYS, MOST_DAYS, Enrolment
from crowdlearn_host.errors import FleetError

TOKEN_FILE = "crowdlearn/enrolment"
"""The file in which the printed command keeps the token: other users of the device can see arguments."""


def enrol(
    devices: Annotated[
        list[str] | None, typer.Argument(help="Names of the devices.", show_default=False)
    ] = None,
    address: Annotated[str, typer.Option(help="Address at which devices reach this host.")] = "HOST:PORT",
    days: Annotated[
        int, typer.Option(min=1, max=MOST_DAYS, help="Days for which the tokens are valid.")
    ] = DAYS,
    listed: Annotated[
        bool, typer.Option("--list", help="List enrolled devices, and until when their tokens are valid.")
    ] = False,
    revoke: Annotated[
        list[str] | None, typer.Option(help="Withdraw the token of this device. Repeatable.")
    ] = None,
    qr: Annotated[
        bool, typer.Option("--qr", help="Also show QR codes, which phones with the app scan.")
    ] = False,
    svg: Annotated[
        Path | None,
        typer.Option(help="Write the QR codes into this folder, as DEVICE.svg.", show_default=False),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a token for each device, and print the command with which it joins. Older tokens become invalid.

    A phone with the app needs no command: it scans the QR code, which holds the token.
    """
    home = default_home()
    enrolment = Enrolment(home)
    if not devices and not revoke and not listed:
        raise FleetError("name the devices to enrol, or give --list, or --revoke with a name")
    for device in revoke or ():
        enrolment.revoke(device)
    rows = _enrolled(enrolment, devices, address, days) if devices else []
    known = _known(enrolment) if listed else []
    if svg is not None:
        for item in rows:
            _draw(svg, item)
    with document(as_json) as tell:
        tell(known if listed else rows)
    if as_json:
        return
    console = terminal()
    for item in rows:
        console.print(item["command"], soft_wrap=True, highlight=False, markup=False)
        if qr:
            show_code(item["link"], console)
    for row in known:
        line = f"{row['device']}  enrolled {row['since']}, valid until {row['until']}"
        console.print(line + (" (expired)" if row["expired"] else ""), highlight=False, markup=False)


def _enrolled(enrolment: Enrolment, devices: Sequence[str], address: str, days: int) -> list[dict[str, str]]:
    _, pin = certificate(default_home())
    tokens = enrolment.enrol_all(devices, days)
    return [_joined_by(device, token, address, pin) for device, token in tokens.items()]


def _joined_by(device: str, token: str, address: str, pin: str) -> dict[str, str]:
    """Return what a device needs to join: the command, and the link of its QR code."""
    # A token, or a name, may begin with a dash: behind an equals sign it is none the less a value.
    join = ["crowdlearn-device", "join", f"wss://{address}", f"--name={device}", "--home=crowdlearn"]
    joining = shlex.join([*join, "--data=data", f"--token-file={TOKEN_FILE}", f"--pin={pin}"])
    kept = f"mkdir -p crowdlearn && (umask 077; printf %s {shlex.quote(token)} >{TOKEN_FILE})"
    link = Invitation(address, device, token, pin).link()
    return {"device": device, "token": token, "pin": pin, "command": f"{kept} && {joining}", "link": link}


def _draw(folder: Path, fields: dict[str, str]) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    save_code(fields["link"], folder / f"{quote(fields['device'], safe=' ')}.svg", error="m", scale=4)


def _known(enrolment: Enrolment) -> list[dict[str, str | bool]]:
    def day(seconds: float) -> str:
        return datetime.datetime.fromtimestamp(seconds, datetime.UTC).date().isoformat()

    return [
        {"device": name, "since": day(of.since), "until": day(of.until), "expired": of.until <= time.time()}
        for name, of in sorted(enrolment.devices().items())
    ]
