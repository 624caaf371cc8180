from pathlib import Path

import pytest

from . import programs as writing


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("programs")
    writing.write(path)
    return path
