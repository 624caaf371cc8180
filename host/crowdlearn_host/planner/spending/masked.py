"""Bytes by which masked sums differ from sums on the wire of plain mode."""

from __future__ import annotations

from collections.abc import Sequence

from crowdlearn_device.privacy.masked import LEAST_SENDERS, WORD_BYTES

from crowdlearn_host.planner.problem.problem import BundleLink, Counts


def masked_more(links: Sequence[BundleLink], counts: Sequence[Counts], dtype_bytes: int) -> list[float]:
    """Return for each piece by how many bytes more a sample's sums leave it where they are masked.

    Sums of a layer are masked if two or more pieces send them to one. With float32 on the wire it is less
    than 0, as a masked word has 3 bytes.
    """
    more = [0.0] * len(counts)
    for link in links:
        for target, piece in enumerate(counts):
            senders = [p for p, other in enumerate(counts) if p != target and other[link.source]]
            if len(senders) >= LEAST_SENDERS:
                for sender in senders:
                    more[sender] += (WORD_BYTES - dtype_bytes) * link.floats * piece[link.target]
    return more


def least_share(dtype_bytes: int) -> float:
    """Return the part of plain mode's bytes that masked sums take at least."""
    return min(1.0, WORD_BYTES / dtype_bytes)
