"""Partial sums under masks that cancel at their target, which so sees totals only.

Every two senders of sums for one target have a key that the target does not know. One adds a stream of that
key, the other subtracts it. Numbers are integers modulo 2^32, of which the lower 24 bits travel.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from numpy.typing import NDArray

from crowdlearn_device.errors import WireError
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.frames import Array, Floats

Words = NDArray[np.uint32]
BITS = 24
"""Bits of a number that travel; as masks and sums are modulo 2^32, those above have no part in these."""
WORD_BYTES = BITS // 8
LEAST_SENDERS = 2
"""Senders without which a total is a single one's sums, mask or not."""
_NONCE = struct.Struct("<IIIHH")
_MOST_STEPS = 1 << 32


@dataclass(frozen=True)
class MaskPlace:
    """The place of sums in a generation: no stream of a pair's key is used twice."""

    step: int
    micro: int
    edge: int
    target: int


def mask(key: bytes, place: MaskPlace, shape: tuple[int, ...]) -> Words:
    """Return numbers that are random to all but the holders of `key` (32 bytes), uint32 of this shape."""
    if place.step >= _MOST_STEPS:
        raise WireError(f"mini-batch {place.step}: masks are for {_MOST_STEPS} at most; begin a new run")
    nonce = _NONCE.pack(0, place.step, place.micro, place.edge, place.target)
    cipher = Cipher(ChaCha20(key, nonce), mode=None).encryptor()
    drawn = np.frombuffer(cipher.update(bytes(4 * int(np.prod(shape)))), "<u4")
    return drawn.astype(np.uint32, copy=False).reshape(shape)


def masked(values: Floats, keys: Mapping[int, bytes], me: int, place: MaskPlace, fraction: int) -> Words:
    """Return sums, float32 [...], with `fraction` binary places, under the masks that `me` has with the other
    senders, whose `keys` are by piece: uint32 of the same shape.

    Raises WireError if the total of all senders could leave the ring.
    """
    most = ((1 << (BITS - 1)) - 1) / (1 << fraction) / (len(keys) + 1)
    largest = float(np.abs(values).max(initial=0.0))
    if not largest <= most:  # nor is NaN
        raise WireError(
            f"a sum of {largest:.3g} does not fit a masked total of {len(keys) + 1} pieces (at most "
            f"{most:.3g}): training has diverged, or privacy.fraction, now {fraction}, must be less"
        )
    words = np.rint(values.astype(np.float64) * (1 << fraction)).astype(np.int64).astype(np.uint32)
    for other, key in sorted(keys.items()):
        if me < other:
            words += mask(key, place, words.shape)
        else:
            words -= mask(key, place, words.shape)
    return words


def total(sums: Mapping[int, Words], fraction: int) -> Floats:
    """Return the total of all senders' sums, uint32 [...] by piece, as float32 [...]: the masks cancel."""
    added = sum(sums.values())
    centred = np.left_shift(added, np.uint32(32 - BITS)).view(np.int32) >> (32 - BITS)
    return np.asarray(centred * 2.0**-fraction, np.float32)


def encode_words(words: Words) -> pb.Tensor:
    """Return uint32 [...] as a tensor of the lower 24 bits of each."""
    data = np.ascontiguousarray(words, "<u4").view(np.uint8).reshape(-1, 4)[:, :WORD_BYTES]
    return pb.Tensor(dtype=pb.MASKED, shape=words.shape, data=data.tobytes())


def decode_words(tensor: pb.Tensor) -> Array:
    """Return the words of a tensor, uint32 [...]. Raises WireError if it holds none."""
    shape = tuple(tensor.shape)
    if tensor.dtype != pb.MASKED:
        raise WireError("sums in the clear where masked ones are due")
    if any(size >= 1 << 32 for size in shape) or WORD_BYTES * int(np.prod(shape, dtype=object)) != len(
        tensor.data
    ):
        raise WireError(f"masked sums of shape {shape} with {len(tensor.data)} bytes")
    words = np.zeros((len(tensor.data) // WORD_BYTES, 4), np.uint8)
    words[:, :WORD_BYTES] = np.frombuffer(tensor.data, np.uint8).reshape(-1, WORD_BYTES)
    return words.view("<u4").astype(np.uint32, copy=False).reshape(shape)
