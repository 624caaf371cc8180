"""Real programs, damaged: verified here, and what is not refused runs in a process of its own."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from crowdlearn_device.errors import ProgramError
from crowdlearn_device.program.isolation.warden import Warden
from crowdlearn_device.program.verification import verify_program
from crowdlearn_device.protocol.frames import Array

NAMES = ("dense",)
"""The networks whose programs are damaged."""


def seeds(folder: Path) -> tuple[bytes, ...]:
    """Return programs that load, compiled once a folder, which takes a while."""
    if not any(folder.glob("*.pte")):
        from benchmarks.android.programs import programs

        folder.mkdir(parents=True, exist_ok=True)
        for program in programs(NAMES):
            program.save(folder)
    return tuple(path.read_bytes() for path in sorted(folder.glob("*.pte")))


@cache
def _warden() -> Warden:
    return Warden()


def verified(data: bytes) -> None:
    """Bytes of a .pte, looked at as a device does before it loads them."""
    try:
        verify_program(data)
    except ProgramError:
        return


def run_apart(data: bytes) -> None:
    """Bytes of a .pte that a device loads and runs: whatever they do, this process goes on."""
    try:
        methods = verify_program(data).methods
        executor = _warden().load(data, len(data))
        for method, (count, _) in methods.items():
            for size in (4, 12):
                inputs: list[Array] = [np.ones((4, size), np.float32) for _ in range(count)]
                executor.run(method, inputs)
    except ProgramError:
        return
