"""An environment of its own for what a benchmark compares with."""

from __future__ import annotations

import subprocess
import venv
from pathlib import Path


def python_of(folder: Path, name: str, requirements: Path) -> Path:
    """Return the Python of the environment in `folder`, made with these requirements if it is not there.

    Ends the program with the reason if it cannot be made.
    """
    python = folder / "bin" / "python"
    if not python.exists():
        print(f"installing {name} into {folder} (some minutes if torch comes along)", flush=True)
        venv.create(folder, with_pip=True)
        command = [str(python), "-m", "pip", "install", "--quiet", "-r", str(requirements)]
        if subprocess.run(command).returncode:
            raise SystemExit(f"{name} could not be installed into {folder}; see pip's message above")
    return python
