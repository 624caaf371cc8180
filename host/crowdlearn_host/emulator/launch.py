"""The process of a phone: started so that it can die with its caller, and waited for."""

import os
import select
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

from crowdlearn_host.emulator.settings import Settings
from crowdlearn_host.errors import FleetError

START_SECONDS = 120.0
"""A phone that ends says so at once; on a busy computer many that start together take a minute."""


def start(
    folder: Path, settings: Settings, *, die_with_caller: bool
) -> tuple["subprocess.Popen[bytes]", int]:
    """Return the process of a new phone in `folder`, and a pipe that it writes to once it answers."""
    settings.save(folder)
    ready, ready_child = os.pipe()
    parent = [str(os.getpid())] if die_with_caller else []
    with (folder / "errors.txt").open("wb") as errors:
        started = _starter(os.getpid()).submit(
            subprocess.Popen,
            [sys.executable, "-m", "crowdlearn_host.emulator.phone", str(folder), str(ready_child), *parent],
            stdin=subprocess.DEVNULL,
            stdout=errors,
            stderr=errors,
            pass_fds=[ready_child],
            start_new_session=True,
        )
        process = started.result()
    os.close(ready_child)
    return process, ready


def wait_ready(folder: Path, process: "subprocess.Popen[bytes]", ready: int) -> None:
    """Wait until a phone answers. Raises FleetError with what it said where it does not."""
    if not readable(ready, START_SECONDS):
        raise FleetError(f"{folder.name} did not start within {START_SECONDS:.0f} s")
    if not os.read(ready, 16):
        process.wait()
        errors = (folder / "errors.txt").read_text(errors="replace").strip().splitlines()
        raise FleetError(f"{folder.name} did not start: {errors[-1] if errors else 'it printed nothing'}")


def readable(descriptor: int, seconds: float) -> bool:
    """Wait until there is something to read, or the end of it; return whether there is. The number of a
    descriptor may be any: `select.select` takes none from 1024 on, which hundreds of phones reach.
    """
    waiting = select.poll()
    waiting.register(descriptor, select.POLLIN)
    return bool(waiting.poll(1000 * max(0.0, seconds)))


@cache
def _starter(process: int) -> ThreadPoolExecutor:
    """Return a thread that lasts as long as this process: the kernel takes the thread that started a child
    for the caller that it is to die with. A fork has another number, and needs another thread.
    """
    return ThreadPoolExecutor(1, f"crowdlearn-phones-{process}")
