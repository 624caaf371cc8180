"""`crowdlearn enrol`: let devices join that dial this host."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import segno
import typer
from crowdlearn_device.protocol.invitation import Invitation

from crowdlearn_host.cli.console.document import Json, document
from crowdlearn_host.cli.console.terminal import terminal
from crowdlearn_host.common.home import default_home
from crowdlearn_host.devices.joining.certificate import certificate
from crowdlearn_host.devices.joining.enrolment import Enrolment


def enrol(
    devices: Annotated[list[str], typer.Argument(help="Names of the devices.", show_default=False)],
    address: Annotated[str, typer.Option(help="Where devices reach this host.")] = "HOST:PORT",
    qr: Annotated[bool, typer.Option("--qr", help="Show codes that phones with the app scan.")] = False,
    svg: Annotated[
        Path | None, typer.Option(help="Folder for the codes as DEVICE.svg.", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Give devices a token each, and print what to run on them. An old token is void then.

    A phone with the app needs no command: its camera reads the code, which holds the token.
    """
    home = default_home()
    _, pin = certificate(home)
    enrolment = Enrolment(home)
    told = []
    for device in devices:
        token = enrolment.enrol(device)
        # A token, or a name, may begin with a dash: behind an equals sign it is none the less a value.
        join = ["crowdlearn-device", "join", f"wss://{address}", f"--name={device}", "--home=crowdlearn"]
        command = shlex.join([*join, "--data=data", f"--token={token}", f"--pin={pin}"])
        link = Invitation(address, device, token, pin).link()
        told.append({"device": device, "token": token, "pin": pin, "command": command, "link": link})
        if svg is not None:
            svg.mkdir(mode=0o700, parents=True, exist_ok=True)
            target = svg / f"{quote(device, safe=' ')}.svg"
            segno.make(link, error="m", micro=False).save(str(target), scale=4)
            target.chmod(0o600)
    with document(as_json) as tell:
        tell(told)
    if not as_json:
        console = terminal()
        for item in told:
            console.print(item["command"], soft_wrap=True, highlight=False)
            if qr:
                segno.make(item["link"], error="l", micro=False).terminal(sys.stdout, compact=True)
                console.print(item["link"], soft_wrap=True, highlight=False)
