"""`crowdlearn enrol`: let devices join that dial this host."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer

from crowdlearn_host.cli.console.document import Json, document
from crowdlearn_host.cli.console.terminal import terminal
from crowdlearn_host.common.home import default_home
from crowdlearn_host.devices.joining.certificate import certificate
from crowdlearn_host.devices.joining.enrolment import Enrolment


def enrol(
    devices: Annotated[list[str], typer.Argument(help="Names of the devices.", show_default=False)],
    address: Annotated[str, typer.Option(help="Where devices reach this host.")] = "HOST:PORT",
    as_json: Json = False,
) -> None:
    """Give devices a token each, and print what to run on them. An old token is void then."""
    home = default_home()
    _, pin = certificate(home)
    enrolment = Enrolment(home)
    told = []
    for device in devices:
        token = enrolment.enrol(device)
        # A token, or a name, may begin with a dash: behind an equals sign it is none the less a value.
        join = ["crowdlearn-device", "join", f"wss://{address}", f"--name={device}", "--home=crowdlearn"]
        command = shlex.join([*join, "--data=data", f"--token={token}", f"--pin={pin}"])
        told.append({"device": device, "token": token, "pin": pin, "command": command})
    with document(as_json) as tell:
        tell(told)
    if not as_json:
        console = terminal()
        for item in told:
            console.print(item["command"], soft_wrap=True, highlight=False)
