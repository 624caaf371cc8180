"""A device's side of a secure sum, as a state machine without I/O.

Advertise keys; share their secrets among neighbours; send the masked vector; confirm the survivors with the
neighbours; reveal. What the last two take is on disk before the masked vector leaves (unmasking.py), and that
a round was confirmed before any neighbour hears so: a device confirms a round once.
"""

from __future__ import annotations

import secrets
import struct
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from crowdlearn_device.errors import AggregationError
from crowdlearn_device.security.identity import KEY_BYTES, Identity, agree

from .fixed_point import Words
from .graph import neighbours, threshold
from .masks import add_mask, common, length, pair_seed, stream
from .messages import Advert, Confirmation, Masked, Revealed, SealedShares, SumRound
from .shamir import split
from .unmasking import Kept, Unmasking


@dataclass
class Contributor:
    """The device `number` in one round. `identities` are the public keys of members that it trusts, by
    number.

    Every method raises AggregationError if the host's message contradicts an earlier one or the round: then
    the device takes no further part in it, and nothing more of it is revealed.
    """

    round: SumRound
    number: int
    identity: Identity
    identities: Mapping[int, bytes]
    kept: Kept
    _mask: X25519PrivateKey = field(init=False, repr=False)
    _share: X25519PrivateKey = field(init=False, repr=False)
    _own: bytes = field(init=False, repr=False)
    _adverts: dict[int, Advert] = field(init=False, default_factory=dict)
    _held: dict[int, tuple[bytes, bytes]] = field(init=False, default_factory=dict, repr=False)
    unmasking: Unmasking | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        if self.round.id in self.kept:
            raise AggregationError("this round was confirmed before; a device unmasks a round once")
        if self.number not in self.round.stretches:
            raise AggregationError(f"device {self.number} owns nothing of this round")
        self._context = self.round.context
        own = self.round.stretches[self.number]
        cohort = [m for m, ranges in self.round.stretches.items() if m == self.number or common(own, ranges)]
        if self.round.coverage(own, cohort) < self.round.least:
            raise AggregationError(f"fewer than {self.round.least} devices share these weights; add groups")
        unknown = [m for m in cohort if m not in self.identities]
        if unknown:
            raise AggregationError(f"devices {unknown} of this round are not known to device {self.number}")
        self._neighbours = neighbours(cohort, self._context)[self.number]
        self._threshold = threshold(len(self._neighbours))
        self._mask, self._share = X25519PrivateKey.generate(), X25519PrivateKey.generate()
        self._own = secrets.token_bytes(KEY_BYTES)

    def advertise(self) -> Advert:
        """Return this device's keys for the round."""
        return Advert(
            self.number,
            self._mask.public_key().public_bytes_raw(),
            self._share.public_key().public_bytes_raw(),
        )

    def share(self, adverts: Collection[Advert]) -> list[SealedShares]:
        """Return shares of this device's secrets for the neighbours that advertised, sealed for each."""
        if self._adverts:
            raise AggregationError("keys of this round were announced twice")
        found = {each.sender: each for each in adverts if each.sender in self._neighbours}
        keys = [each.mask_key for each in found.values()] + [self.advertise().mask_key]
        if len(found) < self._threshold or len({*keys}) < len(keys):
            raise AggregationError(
                f"{len(found)} of {len(self._neighbours)} neighbours announced keys, "
                f"{self._threshold} are needed; wait for more devices"
            )
        self._adverts = found
        order = sorted(found)
        own = split(self._own, self._threshold, len(order))
        keyed = split(self._mask.private_bytes_raw(), self._threshold, len(order))
        return [
            SealedShares(
                self.number,
                other,
                self._cipher(other).encrypt(_nonce(self.number), a + b, self._bound(self.number, other)),
            )
            for other, a, b in zip(order, own, keyed, strict=True)
        ]

    def mask(self, shares: Collection[SealedShares], values: Words) -> Masked:
        """Return `values` uint32 [n], this device's stretches one after another, under all of its masks.

        Only neighbours whose shares open count: they, and no host, made the keys that they announced. What
        unmasking takes is on disk when this returns.
        """
        own = self.round.stretches[self.number]
        if self.unmasking is not None or not self._adverts:
            raise AggregationError("values of this round were asked for twice, or before its keys")
        if len(values) != length(own):
            raise AggregationError(f"{len(values)} values for {length(own)} positions")
        for each in shares:
            if each.receiver != self.number or each.sender not in self._adverts or each.sender in self._held:
                raise AggregationError(f"shares of device {each.sender} that were not due")
            try:
                opened = self._cipher(each.sender).decrypt(
                    _nonce(each.sender), each.sealed, self._bound(each.sender, self.number)
                )
            except InvalidTag as error:
                raise AggregationError(
                    f"shares of device {each.sender} are forged: the host, or that device, lies about keys"
                ) from error
            if len(opened) != 2 * KEY_BYTES:
                raise AggregationError(f"shares of device {each.sender} have {len(opened)} bytes")
            self._held[each.sender] = opened[:KEY_BYTES], opened[KEY_BYTES:]
        if len(self._held) < self._threshold:
            raise AggregationError(f"{len(self._held)} neighbours sent shares; {self._threshold} are needed")
        masked = values.copy()
        masked += stream(self._own, len(masked))
        for other in sorted(self._held):
            where = common(own, self.round.stretches[other])
            seed = pair_seed(self._mask, self._adverts[other].mask_key, self._context)
            sign = 1 if self.number < other else -1
            add_mask(masked, own, where, stream(seed, length(where)), sign)
        tag_keys = {other: self._pair(other, b"survivors") for other in self._held}
        self.unmasking = Unmasking(self.round, self.number, self._threshold, self._held, tag_keys)
        self.kept.keep(self.unmasking)
        return Masked(self.number, masked)

    def confirm(self, survivors: Sequence[int]) -> list[Confirmation]:
        """Return tags of the survivors that the host names, as Unmasking does."""
        if self.unmasking is None:
            raise AggregationError("survivors that this round cannot have: no values were sent")
        return self.unmasking.confirm(survivors, self.kept)

    def reveal(self, confirmations: Collection[Confirmation]) -> Revealed:
        """Return the shares that unmask the sum, as Unmasking does."""
        if self.unmasking is None:
            raise AggregationError("nothing was confirmed")
        return self.unmasking.reveal(confirmations)

    def _pair(self, other: int, purpose: bytes) -> bytes:
        """Return a key of this device and another that no host can make, for one purpose in this round."""
        secret = agree(self.identity.private, self.identities[other])
        secret += agree(self._share, self._adverts[other].share_key)
        return HKDF(SHA256(), KEY_BYTES, salt=None, info=purpose + self._context).derive(secret)

    def _cipher(self, other: int) -> ChaCha20Poly1305:
        return ChaCha20Poly1305(self._pair(other, b"shares"))

    def _bound(self, sender: int, receiver: int) -> bytes:
        """Return what shares are bound to: both devices and the keys that both announced."""
        both = {**self._adverts, self.number: self.advertise()}
        keys = b"".join(both[each].mask_key + both[each].share_key for each in (sender, receiver))
        return self._context + struct.pack("<II", sender, receiver) + keys


def _nonce(sender: int) -> bytes:
    return struct.pack("<IQ", sender, 0)
