"""A pass of a helper on shares in steps of DP-SGD: it gets no gradient that has no noise."""

from __future__ import annotations

import numpy as np

from crowdlearn_device.errors import WireError
from crowdlearn_device.piece.private_steps import clipping_of
from crowdlearn_device.privacy.shares.replicated import CLIPPED, Place, role_of
from crowdlearn_device.privacy.shares.triple import Received
from crowdlearn_device.protocol import wire_pb2 as pb

from .base import Assigned, Results
from .helper_on_shares import HelperOnShares, deliver
from .on_shares import message_of, ring_of


class PrivateHelper(HelperOnShares):
    """A helper whose parts of gradients go to the dominator, which sends what is left once noise is in it."""

    FROM_DOMINATOR = (*HelperOnShares.FROM_DOMINATOR, pb.SHARED_CLIPPED, pb.SHARED_NOISY)
    FROM_HELPERS = (pb.SHARED_WEIGHTS,)

    def __init__(self, assigned: Assigned) -> None:
        clipping_of(assigned.assign.training, assigned.manifest)
        super().__init__(assigned)
        self._answered: set[int] = set()
        """Edges on which errors went further back in this mini-batch."""
        self._given: set[int] = set()
        """Edges whose gradients' parts were sent in this mini-batch."""

    def _take_shares(self, message: pb.SharedArray) -> Results:
        if message.kind == pb.SHARED_NOISY:
            yield from self._take_noisy(message)
        elif message.kind == pb.SHARED_CLIPPED:
            self._take_clipped(message)
        else:
            yield from super()._take_shares(message)

    def _ends(self, message: pb.SharedArray) -> None:
        """Wait for clipped errors before a gradient is computed."""
        if message.edge in self._answered or not self._maps[message.edge].back:
            raise WireError(f"the dominator shares errors of edge {message.edge} that are not due")
        self._answered.add(message.edge)

    def _take_clipped(self, message: pb.SharedArray) -> None:
        assert self._helpers is not None
        of, shape = self._maps[message.edge], tuple(message.shape)
        if message.step != self._boundary or message.edge in self._given:
            raise WireError(f"the dominator shares clipped errors of step {message.step} that are not due")
        if shape != (self._rows.pop(message.edge, 0), *of.left):
            raise WireError(f"the dominator shares clipped errors of shape {shape} on edge {message.edge}")
        third = ring_of(message, shape) if role_of(self._position, message.step) else None
        place = Place(message.step, message.edge, CLIPPED)
        self._helpers[message.edge].keep(Received(place, third, shape, 0, 0))
        self._due.append(message.edge)

    def _give_gradient(self, edge: int) -> Results:
        """Let the dominator have this one's part of a map's gradient."""
        assert self._helpers is not None
        part = self._helpers[edge].gradient(self._boundary)
        self._given.add(edge)
        yield deliver(0, pb.PURPOSE_ERROR, message_of(pb.SHARED_GRADIENT, self._boundary, edge, part))

    def _take_noisy(self, message: pb.SharedArray) -> Results:
        """Take a map's gradient with noise; a step without samples has no other."""
        assert self._helpers is not None
        edge = message.edge
        name, due = self._name[self._maps[edge].layer], self._maps[edge].weights
        under_way = edge in self._rows or edge in self._due
        if message.step != self._boundary or name in self._done or under_way:
            raise WireError(f"the dominator sends a gradient that is not due at step {message.step}")
        if tuple(message.shape) != due or len(message.data) != 4 * int(np.prod(due)):
            raise WireError(f"the dominator sends a gradient of shape {tuple(message.shape)}, {due} is due")
        gradient = np.frombuffer(message.data, "<f4").astype(np.float32).reshape(due)
        if not np.isfinite(gradient).all():
            raise WireError(f"the dominator sends a gradient of step {message.step} that is not finite")
        self._helpers[edge].forget()
        self._given.discard(edge)
        self._answered.discard(edge)
        yield from self._take_whole(edge, gradient)
