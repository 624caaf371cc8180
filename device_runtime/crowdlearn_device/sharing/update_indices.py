"""The index set of an update, in the cheapest of four ways.

It lies in a span [0, span) whose first and last index belong to it: nothing is written (all of the span), a
bitmap, Golomb-Rice coded gaps, or Golomb-Rice coded gaps of the *missing* indices.
"""

from __future__ import annotations

from enum import IntEnum
from math import log2

import numpy as np
from numpy.typing import NDArray

from crowdlearn_device.errors import WireError


class Coding(IntEnum):
    ALL = 0
    BITMAP = 1
    GAPS = 2
    MISSING_GAPS = 3


def encode_set(offsets: NDArray[np.int64], span: int) -> tuple[Coding, int, bytes]:
    """Return the set of `offsets` in [0, span), whose last offset is span - 1, in the cheapest way."""
    if len(offsets) == span:
        return Coding.ALL, 0, b""
    kind, members = Coding.GAPS, offsets
    if 2 * len(offsets) > span:
        present = np.ones(span, bool)
        present[offsets] = False
        kind, members = Coding.MISSING_GAPS, np.flatnonzero(present)
    shift = _rice_shift(len(members), span)
    if shift == 0:  # gaps without low bits cost one bit an index of the span, as a bitmap does
        return Coding.BITMAP, 0, _bitmap(offsets, span)
    gaps = np.diff(members, prepend=-1) - 1
    quotients = gaps >> shift
    if len(members) * (1 + shift) + int(quotients.sum()) >= span:
        return Coding.BITMAP, 0, _bitmap(offsets, span)
    ends = np.cumsum(quotients + 1) - 1
    unary = np.zeros(int(ends[-1]) + 1, np.uint8)
    unary[ends] = 1
    planes = [np.packbits(((gaps >> bit) & 1).astype(np.uint8)).tobytes() for bit in range(shift)]
    return kind, shift, b"".join([*planes, np.packbits(unary).tobytes()])


def _bitmap(offsets: NDArray[np.int64], span: int) -> bytes:
    present = np.zeros(span, np.uint8)
    present[offsets] = 1
    return np.packbits(present).tobytes()


def decode_set(kind: Coding, shift: int, data: bytes, count: int, span: int) -> NDArray[np.int64]:
    if kind is Coding.ALL:
        if count != span or data:
            raise WireError(f"an update claims all of {span} weights and {count} of them; send it again")
        return np.arange(span)
    packed = np.frombuffer(data, np.uint8)
    if kind is Coding.BITMAP:
        if len(packed) != -(-span // 8):
            raise WireError(f"a bitmap of {span} weights has {len(packed)} bytes; send it again")
        return _exactly(_ones(packed, span), count, span)
    members = count if kind is Coding.GAPS else span - count
    plane = -(-members // 8)
    if len(packed) < shift * plane:
        raise WireError(f"{members} gaps of {shift} low bits do not fit {len(packed)} bytes; send them again")
    ends = _ones(packed[shift * plane :])
    if len(ends) != members:
        raise WireError(f"an update has {len(ends)} gaps and claims {members}; send it again")
    quotients = np.diff(ends, prepend=-1) - 1
    if members and int(quotients.max()) > span >> shift:
        raise WireError(
            f"a gap of {int(quotients.max()) << shift} does not fit {span} weights; send it again"
        )
    gaps = quotients << shift
    for bit in range(shift):
        low = np.unpackbits(packed[bit * plane : (bit + 1) * plane], count=members)
        gaps |= low.astype(np.int64) << bit
    offsets = np.cumsum(gaps + 1) - 1
    if members and offsets[-1] >= span:
        raise WireError(f"gaps reach weight {int(offsets[-1])} of {span}; send the update again")
    if kind is Coding.MISSING_GAPS:
        present = np.ones(span, bool)
        present[offsets] = False
        offsets = np.flatnonzero(present)
    return _exactly(offsets, count, span)


def _ones(packed: NDArray[np.uint8], count: int | None = None) -> NDArray[np.int64]:
    """Return where the first `count` bits are 1; numpy finds them several times sooner among booleans."""
    return np.flatnonzero(np.unpackbits(packed, count=count).view(np.bool_))


def _exactly(offsets: NDArray[np.int64], count: int, span: int) -> NDArray[np.int64]:
    if len(offsets) != count or (count and (offsets[0] != 0 or offsets[-1] != span - 1)):
        raise WireError(
            f"an update names {len(offsets)} weights, not {count} from the first to the last; send it again"
        )
    return offsets


def _rice_shift(members: int, span: int) -> int:
    """Return the shift that suits geometric gaps of this density best (Golomb's rule: 2^shift near ln 2 /
    share).
    """
    mean = (span - members) / max(members, 1)
    best = max(0, int(log2(max(mean * 0.69, 1)))) if members else 0
    return min(range(best, best + 2), key=lambda shift: shift + _unary_bits(members / span, shift))


def _unary_bits(share: float, shift: int) -> float:
    skipped: float = (1 - share) ** (1 << shift)
    return 1 / (1 - skipped) if skipped < 1 else float("inf")


def index_entropy(span: int, count: int) -> float:
    """Return bits that `count` of `span` equally likely indices need at least: about log2 of the binomial."""
    if count in (0, span):
        return 0.0
    share = count / span
    return -span * (share * log2(share) + (1 - share) * log2(1 - share))
