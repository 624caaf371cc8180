from collections.abc import Iterator
from pathlib import Path

import pytest

from .crowd import memory_folder


@pytest.fixture
def folder() -> Iterator[Path]:
    """For the disks of a crowd."""
    with memory_folder() as path:
        yield path
