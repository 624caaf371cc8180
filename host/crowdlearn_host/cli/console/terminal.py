"""What goes to the terminal. Devices, files and models name things as they like: a terminal shows that, and
never obeys it.
"""

from __future__ import annotations

from rich.console import Console


def terminal(*, stderr: bool = False) -> Console:
    """Return a console that takes no text for markup; styles are given beside the text."""
    return Console(stderr=stderr, markup=False, emoji=False)


def printable(text: str) -> str:
    """Return the text with characters that a terminal would act on spelled as Python does, as in \\x1b.

    These are escape sequences, line ends, and changes of the writing's direction.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def size(count: float) -> str:
    """Return a number of bytes with its unit, as in 12.3 kB."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} GB"
