"""Programs for executors to run: `python -m tests.executors.programs FOLDER` writes them, and what they give.

NAME.pte, NAME.npz (METHOD/in0, ...) and NAME.expected.npz (METHOD/out0, METHOD/after0, ...) of ExecuTorch's
own bindings.
"""

import sys
from pathlib import Path

import numpy as np

NAMES = ("dense", "transformer", "halves")


def write(folder: Path) -> None:
    """Compile the programs, once a folder."""
    from benchmarks.android.programs import programs

    folder.mkdir(parents=True, exist_ok=True)
    for program in programs(NAMES):
        program.save(folder)
        np.savez(folder / f"{program.name}.expected.npz", allow_pickle=False, **program.expected)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
