"""Virtual phones for tests of code that uses crowdlearn, and the folder of caches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from crowdlearn_host import emulator
from crowdlearn_host.common.files import turn
from crowdlearn_host.common.home import cache_home

__all__ = ["cache_home", "turn", "virtual_phones"]


@contextmanager
def virtual_phones(count: int, home: str | Path, *, profile: str = "pixel-8") -> Iterator[list[str]]:
    """Start `count` virtual phones for the length of a block, and yield their adb serials.

    Their files lie in the folder `home`, which they leave empty. Raises FleetError if they do not start.
    """
    with emulator.running(count, Path(home), profile=profile) as phones:
        yield [phone.serial for phone in phones]
