"""A device's part in unmasking a sum, after it has sent its masked values: all that it takes, as it is kept
on disk.
"""

from __future__ import annotations

import hmac
import json
import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from crowdlearn_device.errors import AggregationError

from .messages import Confirmation, Revealed, SumRound, survivors_digest


class Kept(Protocol):
    """The rounds that a device has confirmed, and its part in the newest, on its disk."""

    def __contains__(self, id: bytes) -> bool:
        """Return whether survivors of this round were confirmed."""

    def keep(self, unmasking: Unmasking) -> None:
        """Keep a part, and that its round is confirmed if it has survivors; on disk when this returns."""


@dataclass
class Unmasking:
    """The part of the device `number` in `round`. `held` are shares of its neighbours' secrets, of the own
    mask and of the mask key, by device; `tag_keys` are those that it has in common with each of them.

    `survivors` are empty until they are confirmed. Nothing of this unmasks the device's own values.
    """

    round: SumRound
    number: int
    threshold: int
    held: Mapping[int, tuple[bytes, bytes]] = field(repr=False)
    tag_keys: Mapping[int, bytes] = field(repr=False)
    survivors: tuple[int, ...] = ()

    def confirm(self, survivors: Collection[int], kept: Kept) -> list[Confirmation]:
        """Return tags of the survivors that the host names, for the neighbours among them; the round is on
        disk as confirmed then. Asked again with the same survivors, it answers the same.

        Raises AggregationError if others were confirmed, or a sum over these would tell too much.
        """
        wanted = tuple(sorted({*survivors}))
        if self.survivors and wanted != self.survivors:
            raise AggregationError("the host named two sets of survivors; nothing is revealed")
        if self.number not in wanted or not {*wanted} <= {*self.round.stretches}:
            raise AggregationError("survivors that this round cannot have: this device sent its values")
        covered = self.round.coverage(self.round.stretches[self.number], wanted)
        if covered < self.round.least:
            raise AggregationError(
                f"{covered} contributors are left, {self.round.least} are needed; the sum is not released"
            )
        if not self.survivors:
            if self.round.id in kept:
                raise AggregationError("this round was confirmed before; a device unmasks a round once")
            self.survivors = wanted
            try:
                kept.keep(self)
            except BaseException:
                self.survivors = ()
                raise
        digest = survivors_digest(self.round.context, wanted)
        return [
            Confirmation(self.number, other, self._tag(other, digest, self.number))
            for other in sorted(self.held)
            if other in wanted
        ]

    def reveal(self, confirmations: Collection[Confirmation]) -> Revealed:
        """Return the shares that unmask the sum, once enough neighbours confirm the same survivors.

        Raises AggregationError if they do not.
        """
        if not self.survivors:
            raise AggregationError("nothing was confirmed")
        digest = survivors_digest(self.round.context, self.survivors)
        agreed = {
            each.sender
            for each in confirmations
            if each.receiver == self.number
            and each.sender in self.held
            and each.sender in self.survivors
            and hmac.compare_digest(each.tag, self._tag(each.sender, digest, each.sender))
        }
        if len(agreed) < self.threshold:
            raise AggregationError(
                f"{len(agreed)} neighbours confirm these survivors, {self.threshold} are needed: the host "
                "shows different sets to different devices, or too many dropped out"
            )
        return Revealed(
            self.number,
            {other: own for other, (own, _) in self.held.items() if other in self.survivors},
            {other: key for other, (_, key) in self.held.items() if other not in self.survivors},
        )

    def _tag(self, other: int, digest: bytes, sender: int) -> bytes:
        return hmac.digest(self.tag_keys[other], struct.pack("<I", sender) + digest, "sha256")

    def to_json(self) -> str:
        """Return all of it as JSON."""
        return json.dumps(
            {
                "id": self.round.id.hex(),
                "attempt": self.round.attempt.hex(),
                "stretches": {member: list(ranges) for member, ranges in self.round.stretches.items()},
                "least": self.round.least,
                "terms": self.round.terms,
                "number": self.number,
                "threshold": self.threshold,
                "held": {other: [own.hex(), key.hex()] for other, (own, key) in self.held.items()},
                "tag_keys": {other: key.hex() for other, key in self.tag_keys.items()},
                "survivors": self.survivors,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Unmasking:
        """Return the part that `to_json` told of. Raises ValueError, KeyError, TypeError or AttributeError if
        it is damaged.
        """
        kept: dict[str, Any] = json.loads(text)
        stretches = {
            int(member): tuple((int(a), int(b)) for a, b in ranges)
            for member, ranges in kept["stretches"].items()
        }
        round_ = SumRound(
            bytes.fromhex(kept["id"]), stretches, kept["least"], kept["terms"], bytes.fromhex(kept["attempt"])
        )
        return cls(
            round_,
            int(kept["number"]),
            int(kept["threshold"]),
            {int(n): (bytes.fromhex(own), bytes.fromhex(key)) for n, (own, key) in kept["held"].items()},
            {int(n): bytes.fromhex(key) for n, key in kept["tag_keys"].items()},
            tuple(map(int, kept["survivors"])),
        )


class KeptInMemory(set[bytes]):
    """The rounds that a device has confirmed, as long as its process lives."""

    def keep(self, unmasking: Unmasking) -> None:
        """Keep that a part's round is confirmed, if it has survivors."""
        if unmasking.survivors:
            self.add(unmasking.round.id)
