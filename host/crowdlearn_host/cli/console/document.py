"""The JSON document of a command: with --json, standard output holds it and nothing else."""

from __future__ import annotations

import ctypes
import json
import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Annotated, Any

import typer

Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on standard output, and nothing else there.")
]


@contextmanager
def document(wanted: bool) -> Iterator[Callable[[Any], None]]:
    """Give a function that takes the document, which is printed when the context ends without an error.

    Until then all that is printed, by native libraries as well, goes to standard error. If no document is
    `wanted`, nothing is redirected and the function does nothing.
    """
    if not wanted:
        yield lambda content: None
        return
    documents: list[Any] = []
    with _stdout_on_stderr():
        yield documents.append
    for content in documents:
        typer.echo(json.dumps(_finite(content), allow_nan=False))


@contextmanager
def _stdout_on_stderr() -> Iterator[None]:
    sys.stdout.flush()
    libc = ctypes.CDLL(None)
    kept = os.dup(1)
    try:
        os.dup2(2, 1)
        with redirect_stdout(sys.stderr):
            yield
    finally:
        libc.fflush(None)  # C's own buffer, which would else be written where stdout is again
        os.dup2(kept, 1)
        os.close(kept)


def _finite(content: Any) -> Any:
    """Return the content with null for numbers that JSON does not know."""
    match content:
        case float() if not math.isfinite(content):
            return None
        case dict():
            return {key: _finite(value) for key, value in content.items()}
        case list() | tuple():
            return [_finite(value) for value in content]
    return content
