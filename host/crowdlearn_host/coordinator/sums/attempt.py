"""One attempt to sum a round: what each of its devices has answered, and what it is sent next."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from crowdlearn_device.errors import AggregationError
from crowdlearn_device.privacy.aggregation.fixed_point import WORD_BYTES
from crowdlearn_device.privacy.aggregation.masks import length
from crowdlearn_device.privacy.aggregation.messages import (
    Advert,
    Confirmation,
    Masked,
    Revealed,
    SealedShares,
)
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.security.identity import KEY_BYTES

from crowdlearn_host.coordinator.group.restore_points import Place
from crowdlearn_host.privacy.aggregation.aggregator import Aggregator

from .norms import Norms

Stage = Literal["keys", "shares", "masked", "norms", "agreeing", "revealing", "unmasking"]


@dataclass
class Attempt:
    """An attempt at a sum of rounds, which began at `places`, by group. `group_of` tells the group of each
    member.

    Raises AggregationError if an answer is refused: it changes nothing.
    """

    aggregator: Aggregator
    places: Mapping[int, Place]
    group_of: Mapping[int, int]
    stage: Stage = "keys"
    adverts: dict[int, Advert] = field(default_factory=dict)
    shares: dict[int, list[SealedShares]] = field(default_factory=dict)
    parts: dict[int, bytearray] = field(default_factory=dict)
    norms: Norms | None = None
    """The projections, where groups' norms are bounded; its seed is drawn when all masked values are here."""
    tags: dict[int, list[Confirmation]] = field(default_factory=dict)
    forgotten: set[int] = field(default_factory=set)
    revealed: dict[int, Revealed] = field(default_factory=dict)

    @property
    def id(self) -> bytes:
        """Return what tells this attempt from others."""
        return self.aggregator.round.attempt

    @property
    def members(self) -> Collection[int]:
        """Return the devices in the sum."""
        return self.aggregator.round.stretches.keys()

    @property
    def is_named(self) -> bool:
        """Return whether its survivors may have been named to a device."""
        return self.stage in ("agreeing", "revealing", "unmasking")

    @property
    def owing(self) -> set[int]:
        """Return the devices that have not answered what the stage takes."""
        survivors = {*self.aggregator.survivors}
        return {
            "keys": lambda: {*self.members} - self.adverts.keys(),
            "shares": lambda: {*self.adverts} - self.shares.keys(),
            "masked": lambda: {*self.shares} - survivors,
            "norms": lambda: survivors - self.shown - self.forgotten,
            "agreeing": lambda: survivors - self.tags.keys() - self.forgotten,
            "revealing": lambda: {*self.tags} - self.revealed.keys(),
            "unmasking": lambda: set[int](),
        }[self.stage]()

    @property
    def shown(self) -> set[int]:
        """Return the devices whose projections are here."""
        return set() if self.norms is None else {*self.norms.by_device}

    def take(self, device: int, step: pb.SumStep) -> bool:
        """Take a device's answer; whether it was due."""
        kind = step.WhichOneof("step")
        if device not in self.members:
            raise AggregationError("it has no part in this sum")
        if kind == "key" and self.stage == "keys":
            if {len(step.key.mask), len(step.key.share)} != {KEY_BYTES} or step.key.device != device:
                raise AggregationError("keys of a wrong length, or in another's name")
            self.adverts[device] = Advert(device, step.key.mask, step.key.share)
        elif kind == "shares" and self.stage == "shares":
            given = [SealedShares(s.sender, s.receiver, s.sealed) for s in step.shares.shares]
            receivers = [each.receiver for each in given]
            if any(s.sender != device for s in given) or len({*receivers}) < len(receivers):
                raise AggregationError("shares in another's name, or twice for one")
            if not {*receivers} <= self.adverts.keys():
                raise AggregationError("shares for a device that has no part in this sum")
            self.shares[device] = given
        elif kind == "masked" and self.stage == "masked" and device not in self.aggregator.survivors:
            self._take_masked(device, step.masked)
        elif kind == "projected" and self.stage == "norms" and device in self.owing:
            assert self.norms is not None
            self.norms.take(device, step.projected)
        elif kind == "tags" and self.is_named:
            given_tags = [Confirmation(t.sender, t.receiver, t.tag) for t in step.tags.tags]
            if any(t.sender != device for t in given_tags) or device not in self.aggregator.survivors:
                raise AggregationError("tags in another's name, or of a device that is not in the sum")
            self.tags[device] = given_tags
        elif kind == "forgotten" and (self.is_named or self.stage == "norms"):
            self.forgotten.add(device)
        elif kind == "revealed" and self.stage == "revealing" and device in self.tags:
            answer = step.revealed
            shares = {
                name: {each.device: each.share for each in of}
                for name, of in (("own_masks", answer.own_masks), ("mask_keys", answer.mask_keys))
            }
            if any(len(share) != KEY_BYTES for of in shares.values() for share in of.values()):
                raise AggregationError("shares of secrets of a wrong length")
            self.revealed[device] = Revealed(device, **shares)
        else:
            return False
        return True

    def _take_masked(self, device: int, masked: pb.SumMasked) -> None:
        whole = self.parts.setdefault(device, bytearray())
        whole += masked.words
        due = WORD_BYTES * length(self.aggregator.round.stretches[device])
        if len(whole) > due or (masked.last and len(whole) != due):
            del self.parts[device]
            raise AggregationError(f"masked values of {len(whole)} bytes; {due} were due")
        if masked.last:
            words = np.frombuffer(bytes(self.parts.pop(device)), "<u4").astype(np.uint32, copy=False)
            self.aggregator.take(Masked(device, words))

    def keys(self) -> dict[int, pb.SumStep]:
        """Return by device its neighbours' keys."""
        return {
            device: self._step(
                keys=pb.SumKeys(
                    keys=[pb.SumKey(device=a.sender, mask=a.mask_key, share=a.share_key) for a in adverts]
                )
            )
            for device, adverts in self.aggregator.announce([*self.adverts.values()]).items()
        }

    def sealed(self) -> dict[int, pb.SumStep]:
        """Return by device the shares that are sealed for it."""
        given = self.aggregator.pass_on([each for sent in self.shares.values() for each in sent])
        self.shares = {device: [] for device in self.shares}  # all that is left to know is who sent them
        return {
            device: self._step(
                shares=pb.SumShares(
                    shares=[
                        pb.SealedShare(sender=s.sender, receiver=s.receiver, sealed=s.sealed) for s in shares
                    ]
                )
            )
            for device, shares in given.items()
        }

    def seed(self) -> pb.SumStep:
        """Return what asks for projections."""
        assert self.norms is not None
        return self._step(projection=self.norms.seed)

    def survivors(self) -> pb.SumStep:
        """Return what names the survivors."""
        return self._step(survivors=pb.SumSurvivors(devices=self.aggregator.survivors))

    def tags_for(self, device: int) -> pb.SumStep:
        """Return the tags of a device's neighbours."""
        given = [tag for sent in self.tags.values() for tag in sent if tag.receiver == device]
        tags = [pb.SumTag(sender=t.sender, receiver=t.receiver, tag=t.tag) for t in given]
        return self._step(tags=pb.SumTags(tags=tags))

    def _step(self, **body: object) -> pb.SumStep:
        return pb.SumStep(attempt=self.id, **body)  # type: ignore[arg-type]
