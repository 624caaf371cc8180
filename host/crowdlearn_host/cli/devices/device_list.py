"""`crowdlearn device-list`: show a signed list of devices as a code that phones scan."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import segno
import typer
from crowdlearn_device.errors import PolicyError
from crowdlearn_device.security.device_list import link_of, read_list, signer_of

from crowdlearn_host.cli.console.document import Json, document
from crowdlearn_host.cli.console.terminal import terminal
from crowdlearn_host.errors import ConfigError


def device_list(
    file: Annotated[Path, typer.Argument(help="The list that 'crowdlearn-device sign-list' wrote.")],
    svg: Annotated[Path | None, typer.Option(help="File for the code.", show_default=False)] = None,
    as_json: Json = False,
) -> None:
    """Show a signed list of devices as a code: phones with the app scan it, others take its link."""
    try:
        text = file.read_text("utf-8")
        signer = signer_of(text)
        told = {"devices": read_list(text, [signer]), "signer": signer, "link": link_of(text)}
    except (OSError, UnicodeDecodeError, PolicyError) as error:
        raise ConfigError(f"{file} is no list of devices: {error}") from error
    if svg is not None:
        svg.parent.mkdir(parents=True, exist_ok=True)
        segno.make(str(told["link"]), error="l", micro=False).save(str(svg), scale=3)
    with document(as_json) as tell:
        tell(told)
    if as_json:
        return
    console = terminal()
    for name, print_ in read_list(text, [signer]).items():
        console.print(f"{print_}  {name}", soft_wrap=True, highlight=False, markup=False)
    console.print(f"signed by {signer}", soft_wrap=True, highlight=False, markup=False)
    if svg is None:
        segno.make(str(told["link"]), error="l", micro=False).terminal(sys.stdout, compact=True)
    console.print(str(told["link"]), soft_wrap=True, highlight=False, markup=False)
