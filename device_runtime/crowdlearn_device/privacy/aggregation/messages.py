"""Messages of a secure sum, and the description of a round that both sides hold."""

from __future__ import annotations

import hashlib
import itertools
import struct
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from crowdlearn_device.errors import AggregationError

from .fixed_point import Words
from .masks import Ranges


@dataclass(frozen=True)
class SumRound:
    """A round of secure sums.

    `id` is of this round alone, `attempt` of this try to sum it. `stretches` are by member: the parts of the
    vector that each owns. A sum is released only where at least `least` members contribute. `terms` bounds
    how many members own a position.
    """

    id: bytes
    stretches: Mapping[int, Ranges]
    least: int
    terms: int
    attempt: bytes = b""

    def __post_init__(self) -> None:
        if not 2 <= self.least <= self.terms:
            raise AggregationError(
                f"a release of {self.least} of {self.terms} contributors hides none; at least 2 are needed"
            )

    @property
    def context(self) -> bytes:
        """Return a digest of the round: no message of another round, or of other stretches, fits it."""
        digest = hashlib.sha256(struct.pack("<IIQ", self.least, self.terms, len(self.id)) + self.id)
        digest.update(struct.pack("<Q", len(self.attempt)) + self.attempt)
        for member, ranges in sorted(self.stretches.items()):
            digest.update(struct.pack("<II", member, len(ranges)))
            for start, stop in ranges:
                digest.update(struct.pack("<QQ", start, stop))
        return digest.digest()

    def coverage(self, of: Ranges, members: Collection[int]) -> int:
        """Return the least number of `members` that own a position of the stretches `of`."""
        edges = sorted({edge for pair in of for edge in pair})
        for member in members:
            edges += [edge for pair in self.stretches[member] for edge in pair]
        edges = sorted({*edges})
        least = len(members)
        for start, stop in itertools.pairwise(edges):
            if _holds(of, start, stop):
                least = min(least, sum(_holds(self.stretches[m], start, stop) for m in members))
        return least


def _holds(ranges: Ranges, start: int, stop: int) -> bool:
    return any(first <= start and stop <= last for first, last in ranges)


@dataclass(frozen=True)
class Advert:
    """The public keys of `sender` for one round: of its masks, and of the shares that it is sent."""

    sender: int
    mask_key: bytes
    share_key: bytes


@dataclass(frozen=True)
class SealedShares:
    """Shares of the two secrets of `sender`, for `receiver` alone."""

    sender: int
    receiver: int
    sealed: bytes


@dataclass(frozen=True)
class Masked:
    """The masked stretches of `sender`, one after another: uint32 [n]."""

    sender: int
    words: Words = field(repr=False)


@dataclass(frozen=True)
class Confirmation:
    """A tag by which `sender` tells `receiver` which set of survivors the host named to it."""

    sender: int
    receiver: int
    tag: bytes


@dataclass(frozen=True)
class Revealed:
    """The shares that `sender` holds: of the own masks of survivors, and of the mask keys of members that
    dropped out.
    """

    sender: int
    own_masks: Mapping[int, bytes]
    mask_keys: Mapping[int, bytes]


def survivors_digest(context: bytes, survivors: Sequence[int]) -> bytes:
    """Return the digest in a confirmation: of the round and its survivors."""
    return hashlib.sha256(context + struct.pack(f"<{len(survivors)}I", *sorted(survivors))).digest()
