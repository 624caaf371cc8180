"""`crowdlearn device-list`: show a signed list of devices as a QR code."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from crowdlearn_device.errors import PolicyError
from crowdlearn_device.platform.files import not_to_read
from crowdlearn_device.security.device_list import link_of, read_list, signer_of

from crowdlearn_host.cli.console.codes import is_code, save_code, show_code, show_link
from crowdlearn_host.cli.console.document import Json, document
from crowdlearn_host.cli.console.output import Force, claim
from crowdlearn_host.cli.console.terminal import terminal
from crowdlearn_host.errors import ConfigError

MAX_BYTES = 1 << 20


def device_list(
    file: Annotated[Path, typer.Argument(help="The list, as 'crowdlearn-device sign-list' wrote it.")],
    svg: Annotated[
        Path | None, typer.Option(help="Write the QR code to this file instead.", show_default=False)
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Show a signed list of devices as a QR code for phones with the app, and as a link for others."""
    try:
        if why := not_to_read(file, MAX_BYTES):
            raise ConfigError(f"{file} {why}; name a list of devices")
        text = file.read_text("utf-8")
        signer = signer_of(text)
        devices, link = read_list(text, [signer]), link_of(text)
    except (OSError, UnicodeDecodeError, PolicyError) as error:
        raise ConfigError(f"{file} is no list of devices: {error}") from error
    if svg is not None:
        claim(svg, force=force, is_own=is_code)
        save_code(link, svg)
    with document(as_json) as tell:
        tell({"devices": devices, "signer": signer, "link": link})
    if as_json:
        return
    console = terminal()
    for name, print_ in devices.items():
        console.print(f"{print_}  {name}", soft_wrap=True, highlight=False, markup=False)
    console.print(f"signed by {signer}", soft_wrap=True, highlight=False, markup=False)
    if svg is None:
        show_code(link, console)
    else:
        show_link(link, console)
