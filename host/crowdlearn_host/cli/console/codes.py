"""Codes that cameras read."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import segno
from crowdlearn_device.platform.files import write_atomically
from rich.console import Console

MARK = "qrline"
"""A class that drawings of codes have, and hardly another file."""


def is_code(text: str) -> bool:
    """Return whether it is what `save_code` wrote."""
    return MARK in text


def save_code(link: str, path: Path, *, error: str = "l", scale: int = 3) -> None:
    """Draw the code of a link into an SVG file, which only its owner may read: a link may hold a token.

    `error` is the level of correction, from "l" to "h".
    """
    drawn = io.BytesIO()
    segno.make(link, error=error, micro=False).save(drawn, kind="svg", scale=scale)
    write_atomically(path, drawn.getvalue(), private=True)


def show_code(link: str, console: Console) -> None:
    """Print the code of a link, and the link below it."""
    segno.make(link, error="l", micro=False).terminal(sys.stdout, compact=True)
    show_link(link, console)


def show_link(link: str, console: Console) -> None:
    """Print a link in one line, as it is."""
    console.print(link, soft_wrap=True, highlight=False, markup=False)
