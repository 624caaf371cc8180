"""The folder in which crowdlearn keeps what outlives a command."""

from __future__ import annotations

import os
from pathlib import Path


def default_home() -> Path:
    """The state folder of crowdlearn: CROWDLEARN_HOME, else ~/.crowdlearn."""
    return Path(os.environ.get("CROWDLEARN_HOME") or Path.home() / ".crowdlearn")
