"""The host process of a chaos run: `crowdlearn train` with a relay that damages and repeats messages.

`python -m benchmarks.chaos.host RUN SEED MEAN_SECONDS`: goes on with the run in the folder RUN, or starts it.
MEAN_SECONDS 0 tampers with nothing.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

from crowdlearn import RunSpec
from crowdlearn.hosting import Server, new_run, open_run, prepare, train
from crowdlearn_device.protocol.frames import decode_frame, encode_frame


class TamperingServer(Server):
    """Now and then flips a bit of a sealed message, or delivers it twice."""

    rng = random.Random()
    mean = 0.0
    due = float("inf")

    def take(self, attached: Any, data: bytes) -> Awaitable[None] | None:
        frame = decode_frame(data)
        if time.monotonic() >= self.due and frame.HasField("envelope"):
            self._plan_next()
            if self.rng.random() < 0.5:
                self.record(None, "tampered", {"how": "repeated"})
                super().take(attached, data)
            else:
                self.record(None, "tampered", {"how": "damaged"})
                sealed = bytearray(frame.envelope.sealed)
                sealed[self.rng.randrange(len(sealed))] ^= 1 << self.rng.randrange(8)
                frame.envelope.sealed = bytes(sealed)
                data = encode_frame(frame)
        return super().take(attached, data)

    @classmethod
    def _plan_next(cls) -> None:
        cls.due = time.monotonic() + cls.rng.expovariate(1 / cls.mean)


def main(folder: Path, seed: int, mean: float) -> None:
    if mean:
        TamperingServer.rng.seed(seed)
        TamperingServer.mean = mean
        TamperingServer._plan_next()
    config_file = folder.with_suffix(".toml")

    def quiet(event: str, fields: dict[str, Any]) -> None:
        pass

    if (folder / "run.db").exists():
        opened, config = open_run(folder)
        prepared = prepare(config, quiet, folder)
    else:
        config = RunSpec.load(config_file)
        prepared = prepare(config, quiet)
        opened = new_run(folder, config_file.read_text(), prepared, folder.parent)
    with opened:
        asyncio.run(train(prepared, config.fleet.phones, opened, quiet, make_server=TamperingServer))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
