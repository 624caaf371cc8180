"""A training step run on a phone, and compared with what it gives on this computer."""

from __future__ import annotations

import io
import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from crowdlearn_device.program.replay import Arrays

from crowdlearn_host.adb.deployment.bundle import MakeBundle
from crowdlearn_host.adb.deployment.runtimes import default_bundle, shell_runtime
from crowdlearn_host.adb.deployment.shell import HOME, FileStore
from crowdlearn_host.adb.services.device import AdbDevice
from crowdlearn_host.errors import FleetError

ALLOWED = 1e-5
ZERO = 1e-6
"""An array below this part of its method's largest value is zero but for rounding (docs/real-phones.md)."""
FOLDER = f"{HOME}/trial"
ANSWER_SECONDS = 600.0
LIMIT = 1 << 30


@dataclass(frozen=True)
class PhoneTrial:
    """A phone's comparison with this computer. `error` is the largest difference from this computer, in parts
    of an array's largest value.

    `runtime` is "program" or "bundle"; `sent` bytes brought it there; `seconds` include its start.
    """

    serial: str
    runtime: str
    sent: int
    seconds: float
    error: float

    @property
    def agrees(self) -> bool:
        """Return True if a phone's results agree with this computer's."""
        return self.error <= ALLOWED


async def try_on_phone(
    device: AdbDevice, pte: bytes, inputs: Arrays, expected: Arrays, make: MakeBundle = default_bundle
) -> PhoneTrial:
    """Run a program's methods on a phone's device runtime, which is brought there if it has none.

    Raises FleetError if the phone cannot have it, or refuses the program.
    """
    runtime = await shell_runtime(device, make)
    packed = io.BytesIO()
    np.savez(packed, allow_pickle=False, **inputs)
    store = FileStore(device, FOLDER)
    sent = runtime.sent + await store.install({"step.pte": pte, "inputs.npz": packed.getvalue()})
    words = [
        *(*runtime.command, "replay", "--program", f"{FOLDER}/step.pte"),
        *("--inputs", f"{FOLDER}/inputs.npz", "--outputs", f"{FOLDER}/outputs.npz", "--threads", "1"),
    ]
    began = time.monotonic()
    (await device.shell(shlex.join(words), timeout=ANSWER_SECONDS)).check("crowdlearn-device replay")
    seconds = time.monotonic() - began
    try:
        with np.load(
            io.BytesIO(await device.pull(f"{FOLDER}/outputs.npz", limit=LIMIT)), allow_pickle=False
        ) as z:
            found = {name: z[name] for name in z.files}
        error = largest_difference(found, expected)
    except (ValueError, KeyError, OSError, EOFError) as problem:
        raise FleetError(
            f"{device.serial} answered with other arrays than were asked for: {problem}"
        ) from problem
    finally:
        await device.shell(f"rm -rf {FOLDER}")
    return PhoneTrial(device.serial, runtime.kind, sent, seconds, error)


def largest_difference(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> float:
    """Return the largest difference of arrays METHOD/NAME, in parts of each one's largest value.

    An array that is zero but for rounding is measured by its method's largest value. Raises ValueError if a
    shape differs, KeyError if an array is missing.
    """
    scales: dict[str, float] = {}
    for name, wanted in expected.items():
        method = name.partition("/")[0]
        scales[method] = max(scales.get(method, 0.0), float(np.abs(wanted).max(initial=0)))
    largest = 0.0
    for name, wanted in expected.items():
        got = found[name]
        if (got.shape, got.dtype) != (wanted.shape, wanted.dtype):
            raise ValueError(f"{name} is {got.dtype} {got.shape} and not {wanted.dtype} {wanted.shape}")
        size, scale = float(np.abs(wanted).max(initial=0)), scales[name.partition("/")[0]]
        difference = float(np.abs(got.astype(np.float64) - wanted).max(initial=0))
        if not np.isfinite(difference):
            return float("inf")
        if difference:
            largest = max(largest, difference / (size if size > ZERO * scale else scale))
    return largest
