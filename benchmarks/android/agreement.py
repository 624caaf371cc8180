"""How near the arrays of one runtime are to those of another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from crowdlearn_device.program.replay import Arrays

from .programs import Program

ALLOWED = 1e-5
"""Largest difference, as a part of an array's largest value."""
CANCELS = 3e-6
"""A sum cancels if float32 itself is off by this part of its largest value, as gradients that are 0 are."""
TIMES = 5.0
"""How many times farther from the Python runtime such a sum may be than that is from float64."""


@dataclass(frozen=True)
class Agreement:
    """Of a method's arrays: `error` of those that do not cancel, in parts of each one's largest value."""

    error: float
    bit_equal: bool
    cancelling: int
    holds: bool


def agreement(program: Program, method: str, found: Arrays) -> Agreement:
    """How a runtime's arrays of a method compare with those of the Python runtime here."""
    error, bit_equal, cancelling, holds = 0.0, True, 0, True
    for name, wanted in program.expected.items():
        if name.partition("/")[0] != method:
            continue
        got = found[name]
        bit_equal = bit_equal and np.array_equal(got, wanted)
        if wanted.dtype.kind != "f" or not wanted.size:
            holds = holds and np.array_equal(got, wanted)
            continue
        size = float(np.abs(program.exact[name]).max()) or 1e-30
        own = float(np.abs(wanted - program.exact[name]).max()) / size
        difference = float(np.abs(got.astype(np.float64) - wanted).max()) / size
        if own > CANCELS:
            cancelling += 1
            holds = holds and difference <= TIMES * own
        else:
            error = max(error, difference)
    return Agreement(error, bit_equal, cancelling, holds and error <= ALLOWED)
