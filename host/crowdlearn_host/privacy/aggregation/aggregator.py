"""The host's side of a secure sum, as a state machine without I/O: it sees masked vectors, and the sum of
those that survive.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from crowdlearn_device.errors import AggregationError
from crowdlearn_device.privacy.aggregation.fixed_point import FixedPoint, Words
from crowdlearn_device.privacy.aggregation.graph import neighbours, threshold
from crowdlearn_device.privacy.aggregation.masks import add_mask, common, length, pair_seed, stream
from crowdlearn_device.privacy.aggregation.messages import (
    Advert,
    Confirmation,
    Masked,
    Revealed,
    SealedShares,
    SumRound,
)
from crowdlearn_device.privacy.aggregation.shamir import join
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey


@dataclass
class Aggregator:
    """One round. Feed it the members' messages; it tells what to send to whom, and the sum at the end.

    `size` is the number of positions of the vector, `total` the sum of the masked vectors that are here,
    uint32 [size]. `survivors` are the members that sent them, and `holders` by member those that hold shares
    of its secrets. Raises AggregationError if too few members are left to unmask.
    """

    round: SumRound
    size: int
    adverts: dict[int, Advert] = field(default_factory=dict)
    holders: dict[int, tuple[int, ...]] = field(default_factory=dict)
    total: Words = field(default_factory=lambda: np.zeros(0, np.uint32), repr=False)
    survivors: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        self._context = self.round.context
        if not len(self.total):
            self.total = np.zeros(self.size, np.uint32)
        self._neighbours: dict[int, tuple[int, ...]] = {}
        cohorts: dict[tuple[int, ...], dict[int, tuple[int, ...]]] = {}
        for member, own in self.round.stretches.items():
            cohort = tuple(m for m, r in self.round.stretches.items() if m == member or common(own, r))
            if cohort not in cohorts:
                cohorts[cohort] = neighbours(cohort, self._context)
            self._neighbours[member] = cohorts[cohort][member]

    def announce(self, adverts: Collection[Advert]) -> dict[int, list[Advert]]:
        """Return the keys that each member receives: its neighbours'."""
        self.adverts = {each.sender: each for each in adverts}
        return {
            member: [self.adverts[other] for other in self._neighbours[member] if other in self.adverts]
            for member in self.adverts
        }

    def pass_on(self, shares: Collection[SealedShares]) -> dict[int, list[SealedShares]]:
        """Return the sealed shares by receiver: each member's neighbours'."""
        given: dict[int, list[SealedShares]] = {member: [] for member in self.adverts}
        holders: dict[int, set[int]] = {}
        for each in shares:
            holders.setdefault(each.sender, set()).add(each.receiver)
            if each.sender in self._neighbours[each.receiver]:
                given[each.receiver].append(each)
        self.holders = {sender: tuple(sorted(receivers)) for sender, receivers in holders.items()}
        return given

    def take(self, masked: Masked) -> None:
        """Add a masked vector to the total."""
        own = self.round.stretches[masked.sender]
        if len(masked.words) != length(own):
            raise AggregationError(f"device {masked.sender} sent {len(masked.words)} words for {length(own)}")
        if masked.sender in self.survivors:
            raise AggregationError(f"device {masked.sender} sent its masked values twice")
        add_mask(self.total, ((0, self.size),), own, masked.words, 1)
        self.survivors = tuple(sorted((*self.survivors, masked.sender)))

    def confirm(self, confirmations: Collection[Confirmation]) -> dict[int, list[Confirmation]]:
        """Return the confirmations by receiver."""
        given: dict[int, list[Confirmation]] = {}
        for each in confirmations:
            given.setdefault(each.receiver, []).append(each)
        return given

    def can_agree(self, confirming: Collection[int]) -> bool:
        """Return whether each of these members, which confirm the survivors, has enough neighbours that do,
        and so many are left that they can unmask together.
        """
        answered = {*confirming}
        return all(
            len(answered & {*self._neighbours[member]}) >= threshold(len(self._neighbours[member]))
            for member in answered
        ) and self.can_unmask(answered)

    def can_unmask(self, revealing: Collection[int]) -> bool:
        """Return whether the shares that these members hold unmask the sum."""
        answered = {*revealing}
        return all(
            len(answered & {*self.holders.get(member, ())}) >= threshold(len(self._neighbours[member]))
            for member in (*self.survivors, *self._dropped())
        )

    def unmask(self, revealed: Sequence[Revealed]) -> Words:
        """Return the sum uint32 [size] of the survivors' vectors. Positions without an owner are 0."""
        total, everywhere = self.total.copy(), ((0, self.size),)
        for member in self.survivors:
            own = self.round.stretches[member]
            mask = stream(self._secret(member, revealed, own_mask=True), length(own))
            add_mask(total, everywhere, own, mask, -1)
        for dropped in self._dropped():
            key = X25519PrivateKey.from_private_bytes(self._secret(dropped, revealed, own_mask=False))
            for other in self._neighbours[dropped]:
                if other in self.survivors and other in self.holders[dropped]:
                    where = common(self.round.stretches[other], self.round.stretches[dropped])
                    seed = pair_seed(key, self.adverts[other].mask_key, self._context)
                    sign = -1 if other < dropped else 1
                    add_mask(total, everywhere, where, stream(seed, length(where)), sign)
        return total

    def counts(self) -> npt.NDArray[np.int64]:
        """Return how many survivors own each position: int64 [size]."""
        count = np.zeros(self.size, np.int64)
        for member in self.survivors:
            for start, stop in self.round.stretches[member]:
                count[start:stop] += 1
        return count

    def mean(self, revealed: Sequence[Revealed], numbers: FixedPoint) -> npt.NDArray[np.float64]:
        """Return the mean over contributors: float64 [size], NaN where there is no contribution."""
        return self.mean_of(self.unmask(revealed), numbers)

    def mean_of(self, sum_: Words, numbers: FixedPoint) -> npt.NDArray[np.float64]:
        """Return the same of a sum that is unmasked, uint32 [size]."""
        counts = self.counts().astype(np.float64)
        counts[counts == 0] = np.nan
        mean: npt.NDArray[np.float64] = numbers.decode(sum_) / counts
        return mean

    def to_json(self) -> dict[str, Any]:
        """Return all but the total, for JSON."""
        return {
            "id": self.round.id.hex(),
            "attempt": self.round.attempt.hex(),
            "stretches": {member: list(ranges) for member, ranges in self.round.stretches.items()},
            "least": self.round.least,
            "terms": self.round.terms,
            "adverts": {n: [a.mask_key.hex(), a.share_key.hex()] for n, a in self.adverts.items()},
            "holders": self.holders,
            "survivors": self.survivors,
        }

    @classmethod
    def from_json(cls, fields: dict[str, Any], total: Words) -> Self:
        """Return the aggregator that `to_json` told of, with its total uint32 [size].

        Raises ValueError, KeyError or TypeError if it is damaged.
        """
        stretches = {int(n): tuple((a, b) for a, b in ranges) for n, ranges in fields["stretches"].items()}
        if max(stop for ranges in stretches.values() for _, stop in ranges) > len(total):
            raise ValueError(f"its total has {len(total)} positions")
        return cls(
            SumRound(
                bytes.fromhex(fields["id"]),
                stretches,
                fields["least"],
                fields["terms"],
                bytes.fromhex(fields["attempt"]),
            ),
            len(total),
            {
                int(n): Advert(int(n), bytes.fromhex(mask), bytes.fromhex(share))
                for n, (mask, share) in fields["adverts"].items()
            },
            {int(n): tuple(holders) for n, holders in fields["holders"].items()},
            total,
            tuple(fields["survivors"]),
        )

    def _dropped(self) -> list[int]:
        """Return the members whose masks lie on others' vectors, but whose own vector is not here."""
        return sorted(member for member in self.holders if member not in self.survivors)

    def _secret(self, of: int, revealed: Sequence[Revealed], *, own_mask: bool) -> bytes:
        points = {holder: point for point, holder in enumerate(self.holders[of], 1)}
        found = {
            points[each.sender]: share
            for each in revealed
            for share in [(each.own_masks if own_mask else each.mask_keys).get(of)]
            if share is not None and each.sender in points
        }
        return join(found, threshold(len(self._neighbours[of])))
