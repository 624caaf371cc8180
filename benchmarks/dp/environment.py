"""Opacus in an environment of its own, asked to train one network at a time."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from crowdlearn_device.data.dataset import Dataset

from ..peer_environment import python_of
from .networks import Net

PROGRAM = Path(__file__).with_name("opacus_peer.py")
REQUIREMENTS = Path(__file__).with_name("requirements.txt")


class Opacus:
    """The environment in `folder`. Ends the program with the reason if it cannot be made."""

    def __init__(self, folder: Path, train: Dataset, test: Dataset) -> None:
        self._python = python_of(folder, "Opacus", REQUIREMENTS)
        self._kept = TemporaryDirectory(prefix="crowdlearn-dp-")
        self._file = Path(self._kept.name) / "data.npz"
        np.savez(self._file, x=train.inputs, y=train.labels, test_x=test.inputs, test_y=test.labels)

    def train(self, net: Net, noise: float, seed: int) -> tuple[float, float]:
        """Return the accuracy, and processor seconds of a step."""
        asked = {
            "file": str(self._file),
            "net": net.name,
            "steps": net.steps,
            "noise": noise,
            "seed": seed,
        }
        ran = subprocess.run(
            [self._python, PROGRAM], input=json.dumps(asked), capture_output=True, text=True, check=False
        )
        if ran.returncode:
            raise SystemExit(f"Opacus failed: {ran.stderr.strip().splitlines()[-1:]}")
        found = json.loads(ran.stdout.splitlines()[-1])
        return float(found["accuracy"]), float(found["step_seconds"])
