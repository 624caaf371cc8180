"""Which devices mask with which, drawn from the round's public seed: the same on every device and the host.

Up to 101 devices all mask with all. Beyond, each has 100 neighbours: with up to 30 % drop-outs more than half
of them are left, with probability above 0.99999 (a binomial's tail).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

NEIGHBOURS = 100


def neighbours(members: Sequence[int], seed: bytes) -> dict[int, tuple[int, ...]]:
    """Return the neighbours of each member, ascending: a ring in random order, joined to the nearest each
    way.
    """
    order = sorted(members)
    if len(order) - 1 <= NEIGHBOURS:
        return {one: tuple(other for other in order if other != one) for one in order}
    rng = np.random.default_rng(np.frombuffer(hashlib.sha256(b"graph" + seed).digest(), np.uint32))
    ring = [order[k] for k in rng.permutation(len(order))]
    half = NEIGHBOURS // 2
    return {
        one: tuple(sorted(ring[(at + step) % len(ring)] for step in range(-half, half + 1) if step))
        for at, one in enumerate(ring)
    }


def threshold(degree: int) -> int:
    """Return how many neighbours must answer: more than half, so that no two sets convince both."""
    return degree // 2 + 1
