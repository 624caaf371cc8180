"""Options that several commands have."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Override a setting, such as training.epochs=3. Repeatable."
    ),
]


class Engine(StrEnum):
    """The place in which groups train, or relays run."""

    local = "local"
    ray = "ray"
