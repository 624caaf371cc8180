"""A device's process whose memory is watched: everything is imported before it counts."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import numpy as np
import torch
from crowdlearn_device.platform.allocator import return_large_blocks
from crowdlearn_device.transport.serve import serve_device
from executorch.extension.pybindings import _portable_lib  # noqa: F401  what the executor imports late

from .resident import forget_peak, resident


def main(home: Path) -> None:
    """Write what the process holds now to HOME/before, then serve."""
    torch.from_numpy(np.zeros(1))
    return_large_blocks()
    forget_peak()
    (home / "before").write_text(str(resident()))
    asyncio.run(serve_device(home, home / "data", home.name, 0))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
