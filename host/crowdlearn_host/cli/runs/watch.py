"""`crowdlearn watch`: the report of a run, updated while it trains."""

from __future__ import annotations

import contextlib
import signal
import threading
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from crowdlearn_host.report.live import LiveRun
from crowdlearn_host.report.server import serving


def watch(
    run: Annotated[Path, typer.Argument(help="The run's folder.", show_default=False)],
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0 takes a free one.")] = 0,
    browser: Annotated[bool, typer.Option("--browser", help="Open the page in a browser.")] = False,
) -> None:
    """Serve the report of a run on this computer and update it while the run trains; Ctrl-C ends it."""
    with serving(LiveRun(run), port) as address:
        typer.echo(f"watch {run} at {address} (Ctrl-C ends the page, not the run)")
        if browser:
            webbrowser.open(address)
        _until_interrupted()


def _until_interrupted() -> None:
    stopped = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    try:
        with contextlib.suppress(KeyboardInterrupt):
            stopped.wait()
    finally:
        signal.signal(signal.SIGTERM, before)
