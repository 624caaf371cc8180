"""A host whose group never fills, in a process of its own: python -m benchmarks.doors.host FOLDER.

Prints its port once it listens, and ends with its standard input.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import numpy as np
from crowdlearn.hosting import Group, RunFolder, Server, Settings, SharedModel, listening
from crowdlearn_device.program.manifest import ArraySpec

DEVICES = 200


async def main(home: Path) -> None:
    layout = tuple(((number, number + 1),) for number in range(DEVICES))
    settings = Settings(layout, ("",) * DEVICES, 1, 4, 4, 1, 0.1, 0, 1, devices=DEVICES)
    weights = [ArraySpec("w", 0, (), True)]
    with RunFolder(home / "run", create=True) as folder:
        shared = SharedModel(weights, {"w": np.zeros(DEVICES, np.float32)})
        server = Server("run", [Group(settings)], folder, shared, lambda *_: None, lambda *_: None)
        async with listening(server, "0.0.0.0:0", home) as port:
            print(port, flush=True)
            await asyncio.to_thread(sys.stdin.read)
            await server.close()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
