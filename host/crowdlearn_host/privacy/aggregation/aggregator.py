"""The host's side of a secure sum, as a state machine without I/O: it sees masked vectors, and the sum of
those that survive.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

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

    `size` is the number of positions of the vector. Raises AggregationError if too few members are left to
    unmask.
    """

    round: SumRound
    size: int
    adverts: dict[int, Advert] = field(default_factory=dict)
    shares: dict[int, list[SealedShares]] = field(default_factory=dict)
    masked: dict[int, Words] = field(default_factory=dict)
    confirmations: dict[int, list[Confirmation]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._context = self.round.context
        self._neighbours: dict[int, tuple[int, ...]] = {}
        for member, own in self.round.stretches.items():
            if member not in self._neighbours:
                cohort = [m for m, r in self.round.stretches.items() if m == member or common(own, r)]
                self._neighbours[member] = neighbours(cohort, self._context)[member]

    def announce(self, adverts: Collection[Advert]) -> dict[int, list[Advert]]:
        """Return the keys that each member receives: its neighbours'."""
        self.adverts = {each.sender: each for each in adverts}
        return {
            member: [self.adverts[other] for other in self._neighbours[member] if other in self.adverts]
            for member in self.adverts
        }

    def pass_on(self, shares: Collection[SealedShares]) -> dict[int, list[SealedShares]]:
        """Return the sealed shares by receiver."""
        for each in shares:
            self.shares.setdefault(each.receiver, []).append(each)
        return self.shares

    def take(self, masked: Masked) -> None:
        """Keep a masked vector."""
        expected = length(self.round.stretches[masked.sender])
        if len(masked.words) != expected:
            raise AggregationError(f"device {masked.sender} sent {len(masked.words)} words for {expected}")
        self.masked[masked.sender] = masked.words

    @property
    def survivors(self) -> tuple[int, ...]:
        """Return the members whose masked vectors are here."""
        return tuple(sorted(self.masked))

    def confirm(self, confirmations: Collection[Confirmation]) -> dict[int, list[Confirmation]]:
        """Return the confirmations by receiver."""
        for each in confirmations:
            self.confirmations.setdefault(each.receiver, []).append(each)
        return self.confirmations

    def unmask(self, revealed: Sequence[Revealed]) -> Words:
        """Return the sum uint32 [size] of the survivors' vectors. Positions without an owner are 0."""
        total = np.zeros(self.size, np.uint32)
        for member in self.survivors:
            own = self.round.stretches[member]
            vector = self.masked[member] - stream(self._secret(member, revealed, own_mask=True), length(own))
            add_mask(total, ((0, self.size),), own, vector, 1)
        for dropped in self._dropped():
            key = X25519PrivateKey.from_private_bytes(self._secret(dropped, revealed, own_mask=False))
            for other in self._neighbours[dropped]:
                if other in self.masked and self._masked_with(other, dropped):
                    where = common(self.round.stretches[other], self.round.stretches[dropped])
                    seed = pair_seed(key, self.adverts[other].mask_key, self._context)
                    sign = -1 if other < dropped else 1
                    add_mask(total, ((0, self.size),), where, stream(seed, length(where)), sign)
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
        counts = self.counts().astype(np.float64)
        counts[counts == 0] = np.nan
        mean: npt.NDArray[np.float64] = numbers.decode(self.unmask(revealed)) / counts
        return mean

    def _dropped(self) -> list[int]:
        """Return the members whose masks lie on others' vectors, but whose own vector is not here."""
        sent = {each.sender for received in self.shares.values() for each in received}
        return sorted(member for member in sent if member not in self.masked)

    def _masked_with(self, member: int, other: int) -> bool:
        """Return whether `member` masked with `other`: it does with those whose shares it received."""
        return any(each.sender == other for each in self.shares.get(member, ()))

    def _secret(self, of: int, revealed: Sequence[Revealed], *, own_mask: bool) -> bytes:
        sealed = (each for shares in self.shares.values() for each in shares)
        holders = sorted(each.receiver for each in sealed if each.sender == of)
        points = {holder: point for point, holder in enumerate(holders, 1)}
        found = {
            points[each.sender]: share
            for each in revealed
            for share in [(each.own_masks if own_mask else each.mask_keys).get(of)]
            if share is not None and each.sender in points
        }
        return join(found, threshold(len(self._neighbours[of])))
