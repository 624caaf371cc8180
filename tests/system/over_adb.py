"""Training over virtual phones, as a user would start it."""

from __future__ import annotations

import asyncio
from pathlib import Path

from crowdlearn_host import emulator as phones
from crowdlearn_host.runs.folder import new_run
from crowdlearn_host.runs.prepare import Prepared
from crowdlearn_host.runs.train import train


def trained(prepared: Prepared, count: int, folder: Path, *, machine: str = "") -> Path:
    """The folder of a finished run on `count` new phones, of a processor of their own or not; they stay."""
    with (
        phones.kept(count, folder / "home", machine=machine) as started,
        new_run(folder / "run", "", prepared, folder) as opened,
    ):
        serials = [phone.serial for phone in started]
        asyncio.run(train(prepared, serials, opened, lambda event, fields: None))
    return folder / "run"
