"""`crowdlearn schema`: the types of the JSON documents that commands print."""

from __future__ import annotations

from typing import Annotated

import typer

from crowdlearn_host.cli.console.document import document
from crowdlearn_host.cli.console.schemas import DOCUMENTS
from crowdlearn_host.cli.console.schemas import schema as schema_of
from crowdlearn_host.errors import ConfigError


def schema(
    command: Annotated[
        list[str] | None, typer.Argument(help="A command, such as: phones list.", show_default=False)
    ] = None,
) -> None:
    """Print the JSON Schema of the document that a command prints with --json; without COMMAND, of all."""
    wanted = " ".join(command or ())
    if wanted and wanted not in DOCUMENTS:
        raise ConfigError(f"{wanted!r} prints no document; those that do are {', '.join(DOCUMENTS)}")
    with document(True) as tell:
        tell(schema_of(wanted) if wanted else {name: schema_of(name) for name in DOCUMENTS})
