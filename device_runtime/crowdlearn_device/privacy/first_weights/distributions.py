"""First weights from a seed: each neuron's part of each array by itself, alike on devices and hosts."""

from __future__ import annotations

import hmac
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, prod

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

from crowdlearn_device.errors import WireError
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.frames import Floats

Doubles = npt.NDArray[np.float64]
UNIFORM, NORMAL, CONSTANT, GIVEN = KINDS = ("uniform", "normal", "constant", "given")
"""Numbers from `low` to `high`; of mean `low` and deviation `high`; all `low`; or as the host has them."""
LARGEST = 1e3
"""The magnitude of a distribution's numbers at most."""
DOUBLE = 2.0**-53
TOLERANCE = 1e-5
"""The difference, over the largest number, that different processors may make."""


@dataclass(frozen=True)
class Distribution:
    """The distribution of an array's first numbers."""

    kind: str
    low: float = 0.0
    high: float = 0.0

    def drawn(self, seed: bytes, name: str, start: int, stop: int, shape: Sequence[int]) -> Floats:
        """Return the numbers of the neurons [start, stop) of the array `name`, float32 [neurons, *shape]."""
        found: Floats = np.full((stop - start, *shape), self.low, np.float32)
        if self.kind == CONSTANT:
            return found
        key, size = hmac.digest(seed, name.encode(), "sha256"), prod(shape)
        for row in range(start, stop):
            one, other = _uniform(key, row, size)
            if self.kind == UNIFORM:
                drawn = self.low + (self.high - self.low) * one
            else:
                drawn = self.low + self.high * np.sqrt(-2 * np.log(one)) * np.cos(2 * np.pi * other)
            found[row - start] = drawn.reshape(shape)
        return found


def _uniform(key: bytes, row: int, size: int) -> tuple[Doubles, Doubles]:
    """Return two times `size` numbers between 0 and 1, float64 [size] each, for a neuron."""
    nonce = bytes(8) + struct.pack("<Q", row)
    words = Cipher(ChaCha20(key, nonce), mode=None).encryptor().update(bytes(16 * size))
    found = ((np.frombuffer(words, "<u8") >> np.uint64(11)).astype(np.float64) + 0.5) * DOUBLE
    return found[:size], found[size:]


def distributions_of(messages: Sequence[pb.Distribution]) -> dict[str, Distribution]:
    """Return the distributions that a host names, by array. Raises WireError if one is none."""
    found: dict[str, Distribution] = {}
    for each in messages:
        numbers = isfinite(each.low) and isfinite(each.high) and max(abs(each.low), abs(each.high)) <= LARGEST
        if each.kind not in KINDS or not numbers or each.array in found:
            raise WireError(
                f"first weights of {each.array[:80]!r} by {each.kind[:20]!r}, which is no distribution"
            )
        found[each.array] = Distribution(each.kind, each.low, each.high)
    return found


def check_part(part: pb.StatePart, known: dict[str, Distribution], seed: bytes) -> None:
    """Raise WireError unless the weights that a host sends as the first are those of the seed."""
    for tensor in part.arrays:
        name = tensor.name.removeprefix("value/")
        distribution = known.get(name)
        if name == tensor.name or distribution is None or distribution.kind == GIVEN:
            continue
        values = np.frombuffer(tensor.values.data, "<f4")
        rows = part.neurons.stop - part.neurons.start
        shape = tuple(tensor.values.shape)[1:]
        if len(values) != rows * prod(shape):
            raise WireError(f"first weights of {name} have a wrong size")
        due = distribution.drawn(seed, name, part.neurons.start, part.neurons.stop, shape).reshape(-1)
        if float(np.abs(values - due).max(initial=0)) > TOLERANCE * max(
            float(np.abs(due).max(initial=0)), 1e-6
        ):
            raise WireError(
                f"the host's first weights of {name} are not those of the seed that this device drew with "
                "others; it takes no others"
            )
