"""A program for virtual phones in tests: reads, or writes to, whatever file it is given."""

from __future__ import annotations

from pathlib import Path


def main(argv: list[str]) -> int:
    """`snoop read PATH` prints a file, `snoop write PATH` overwrites one; how that ends is the exit code."""
    what, path = argv
    try:
        if what == "read":
            print(Path(path).read_text())
        else:
            Path(path).write_text("mine")
    except OSError as error:
        print(error.strerror)
        return 1
    return 0
