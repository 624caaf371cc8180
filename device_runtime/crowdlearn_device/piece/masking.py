"""The sums of a piece that travel masked: whom they go to, whose masks they carry, and what comes of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from crowdlearn_device.errors import WireError
from crowdlearn_device.privacy.masked import LEAST_SENDERS, MaskPlace, Words, masked, total
from crowdlearn_device.program.manifest import Manifest
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.frames import Array

from .inbox import Message
from .routes import Layout

MOST_FRACTION = 20
"""Binary places of masked sums at most."""


class Masking:
    """The masks of the piece `index` in one generation. `key_of` gives its key with another piece."""

    def __init__(
        self,
        manifest: Manifest,
        layout: Layout,
        index: int,
        fraction: int,
        key_of: Callable[[int], bytes],
    ) -> None:
        if not 0 < fraction <= MOST_FRACTION:
            raise WireError(f"masked sums with {fraction} binary places; 1 to {MOST_FRACTION} are known")
        self._manifest, self._layout, self._index = manifest, layout, index
        self._fraction, self._key_of = fraction, key_of
        self._keys: dict[int, bytes] = {}
        self._arrived: dict[tuple[int, int, int], dict[int, Words]] = {}
        """The sums that arrived, by mini-batch, micro-batch and edge."""

    def senders(self, edge: int, target: int) -> tuple[int, ...]:
        """Return the pieces whose sums on an edge travel masked to the piece `target`; () if they do not.

        They do not if a single piece sends, as a total would be its sums; nor if each of the target's neurons
        gets them from one piece alone.
        """
        if not 0 <= edge < len(self._manifest.edges):
            return ()
        spec = self._manifest.edges[edge]
        (start, stop), pieces = self._layout[target][spec.target], enumerate(self._layout)
        if spec.matched or stop <= start:
            return ()
        found = tuple(p for p, own in pieces if p != target and own[spec.source][1] > own[spec.source][0])
        return found if len(found) >= LEAST_SENDERS else ()

    def leaving(self, message: Message) -> Words | None:
        """Return sums as they leave, uint32 [rows, neurons, ...]; None if they travel in the clear."""
        if message.purpose != pb.PURPOSE_ACTIVATION:
            return None
        others = [p for p in self.senders(message.edge, message.partner) if p != self._index]
        if not others:
            return None
        place = MaskPlace(message.step, message.micro, message.edge, message.partner)
        keys = {piece: self._key(piece) for piece in others}
        return masked(np.asarray(message.values), keys, self._index, place, self._fraction)

    def _key(self, piece: int) -> bytes:
        if piece not in self._keys:
            self._keys[piece] = self._key_of(piece)
        return self._keys[piece]

    def arrived(self, message: Message) -> list[Message]:
        """Take masked sums, uint32 [rows, neurons, ...]. Once those of all senders are here, return the
        messages that add up to their total: it is the first one's, and the others hold zeros.

        Raises WireError if they do not fit or came before.
        """
        place = message.step, message.micro, message.edge
        spec = self._manifest.edges[message.edge]
        start, stop = self._layout[self._index][spec.target]
        shape = (stop - start, *self._manifest.layers[spec.target].sum_shape)
        senders, found = self.senders(message.edge, self._index), self._arrived.setdefault(place, {})
        if message.partner not in senders or message.partner in found:
            raise WireError(f"masked sums on edge {message.edge} that piece {message.partner} does not owe")
        rows = {words.shape[0] for words in found.values()} | {message.values.shape[0]}
        if message.values.shape[1:] != shape or len(rows) > 1:
            raise WireError(f"masked sums of shape {message.values.shape}, [rows, {shape}] were due")
        found[message.partner] = message.values
        if len(found) < len(senders):
            return []
        del self._arrived[place]
        added: Array = total(found, self._fraction)
        nothing = np.zeros_like(added)
        first, *others = senders
        messages = [replace(message, partner=first, values=added)]
        return messages + [replace(message, partner=other, values=nothing) for other in others]
