"""What goes to the terminal. Devices, files and models name things as they like: a terminal shows that, and
never obeys it.
"""

from __future__ import annotations

from rich.console import Console


def terminal(*, stderr: bool = False) -> Console:
    """Return a console that takes no text for markup; styles are given beside the text."""
    return Console(stderr=stderr, markup=False, emoji=False)


def printable(text: str) -> str:
    """The text with what a terminal would act on (escape sequences, line ends, changes of the writing's
    direction) spelled as Python does, as in \\x1b.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
