"""Flower in an environment of its own, asked for one sum at a time."""

from __future__ import annotations

import json
import subprocess
import venv
from pathlib import Path
from typing import Any

PROGRAM = Path(__file__).with_name("flower_peer.py")
REQUIREMENTS = Path(__file__).with_name("requirements.txt")


class Flower:
    """The environment in `folder`. Ends the program with the reason if it cannot be made."""

    def __init__(self, folder: Path) -> None:
        self._python = folder / "bin" / "python"
        if not self._python.exists():
            print(f"installing Flower into {folder} (a minute or more)", flush=True)
            venv.create(folder, with_pip=True)
            command = [str(self._python), "-m", "pip", "install", "--quiet", "-r", str(REQUIREMENTS)]
            if subprocess.run(command).returncode:
                raise SystemExit(f"Flower could not be installed into {folder}; see pip's message above")

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
