"""`crowdlearn serve`: runs from a queue, for devices that come and go."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import logging.handlers
import signal
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from crowdlearn_host.cli.console.terminal import printable, terminal
from crowdlearn_host.common import event_loop
from crowdlearn_host.common.home import default_home
from crowdlearn_host.errors import ConfigError

LOG_BYTES, LOGS = 1 << 20, 5
"""The longest log of a service, and how many older ones stay."""


def serve(
    folder: Annotated[Path, typer.Argument(help="Folder of the service: queue, runs and logs.")],
    listen: Annotated[
        str, typer.Option(help="Address at which devices dial in, HOST:PORT.")
    ] = "0.0.0.0:8765",
    at_once: Annotated[int, typer.Option(min=1, max=256, help="Runs that train at the same time.")] = 2,
    most_waiting: Annotated[
        int, typer.Option(min=1, help="Devices that may wait for a run; others are sent away for a while.")
    ] = 10_000,
    status: Annotated[
        int,
        typer.Option(
            min=0, max=65535, help="Local port of the status page and of /metrics; 0 takes a free one."
        ),
    ] = 0,
) -> None:
    """Train queued runs on devices that dial in. crowdlearn submit adds runs; Ctrl-C ends the service.

    A service that was ended or killed continues where it was when it is started again.
    """
    host, _, port = listen.rpartition(":")
    if not host or not port.isdecimal():
        raise ConfigError(
            f"--listen {listen!r} is not HOST:PORT; 0.0.0.0:8765 listens on every address of this computer"
        )
    event_loop.run(_serve(folder, listen, at_once, most_waiting, status, terminal()), dialled=True)


async def _serve(
    folder: Path, listen: str, at_once: int, most_waiting: int, port: int, console: Console
) -> None:
    from crowdlearn_host.service.service import Service
    from crowdlearn_host.service.status import shown

    service = Service(folder, default_home(), at_once=at_once, most_waiting=most_waiting)
    handlers = _logged(folder, console)
    over = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, over.set)
    try:
        async with service.open(listen) as bound, shown(service, port) as address:
            _show(console, f"devices arrive at {listen.rpartition(':')[0]}:{bound}")
            _show(console, f"page and metrics: {address}")
            _show(console, f"add runs: crowdlearn submit CONFIG --to {folder}")
            await over.wait()
            _show(console, "runs stop where they can go on")
    finally:
        for handler in handlers:
            logging.getLogger("crowdlearn.service").removeHandler(handler)
            handler.close()


class _Shown(logging.Handler):
    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        _show(self._console, printable(record.getMessage()))


class _Kept(logging.handlers.RotatingFileHandler):
    """The log's file. A line that cannot be written, as the disk is full, is on the terminal alone."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Go on."""


def _show(console: Console, text: str) -> None:
    """Print a line. A terminal that is gone, for which rich ends the program, ends no service."""
    with contextlib.suppress(OSError, SystemExit):
        console.print(text, soft_wrap=True, highlight=False)


def _logged(folder: Path, console: Console) -> list[logging.Handler]:
    """Have what the service tells in its log, which stays short, and on the terminal; the handlers."""
    log = logging.getLogger("crowdlearn.service")
    log.setLevel(logging.INFO)
    kept = _Kept(folder / "service.log", maxBytes=LOG_BYTES, backupCount=LOGS, encoding="utf-8")
    kept.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    handlers: list[logging.Handler] = [kept, _Shown(console)]
    for handler in handlers:
        log.addHandler(handler)
    return handlers
