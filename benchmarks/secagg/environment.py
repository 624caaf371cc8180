"""Flower in an environment of its own, asked for one sum at a time."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from ..peer_environment import python_of

PROGRAM = Path(__file__).with_name("flower_peer.py")
REQUIREMENTS = Path(__file__).with_name("requirements.txt")


class Flower:
    """The environment in `folder`. Ends the program with the reason if it cannot be made."""

    def __init__(self, folder: Path) -> None:
        self._python = python_of(folder, "Flower", REQUIREMENTS)

    def measure(self, groups: int, weights: int, dropped: float) -> dict[str, Any]:
        """Return a row like ours of the same sum."""
        command = [str(self._python), str(PROGRAM), str(groups), str(weights), str(dropped)]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        if ran.returncode:
            raise SystemExit(f"Flower failed: {ran.stderr.strip().splitlines()[-1:]}")
        found = json.loads(ran.stdout.strip().splitlines()[-1])
        expansion = found["upload_bytes"] / (4 * weights)
        return {
            "by": "flower",
            "groups": groups,
            "weights": weights,
            "dropped": dropped,
            "expansion": expansion,
            **found,
        }
