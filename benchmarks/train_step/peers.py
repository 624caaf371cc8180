"""Install the other on-device trainers, each in an environment of its own:

python -m benchmarks.train_step.peers FOLDER [NAME ...]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import venv
from pathlib import Path

REQUIREMENTS = Path(__file__).parent / "requirements"
PEERS = tuple(sorted(file.stem for file in REQUIREMENTS.glob("*.txt")))


def python_of(folder: Path, peer: str) -> Path:
    """The Python of an installed peer."""
    return folder / peer / "bin" / "python"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "names", nargs="*", choices=[*PEERS, []], help=f"of {', '.join(PEERS)}; all unless told"
    )
    options = parser.parse_args()
    for name in options.names or PEERS:
        venv.create(options.folder / name, with_pip=True)
        python = str(python_of(options.folder, name))
        command = [python, "-m", "pip", "install", "--quiet", "-r", str(REQUIREMENTS / f"{name}.txt")]
        installed = subprocess.run(command).returncode == 0
        print(f"{name}: {'installed' if installed else 'could not be installed'}", file=sys.stderr)


if __name__ == "__main__":
    main()
