"""A program for virtual phones that prints the file it is given, if it may."""

from __future__ import annotations

from pathlib import Path


def main(argv: list[str]) -> int:
    """Return 1 if the file cannot be read."""
    try:
        print(Path(argv[0]).read_text())
    except OSError:
        return 1
    return 0
