"""Lots by which sums and errors are rounded: the same ones when a mini-batch is repeated after a loss."""

from __future__ import annotations

import numpy as np

from crowdlearn_device.protocol import wire_pb2 as pb

from .inbox import Message


class Rounding:
    """One keyed stream of random numbers for all messages of a piece. Each begins at a place of its own in
    the stream: making a generator for every message would cost ten times as much.
    """

    def __init__(self, seed: int, piece: int) -> None:
        key = np.random.SeedSequence((seed, piece)).generate_state(2, np.uint64)
        self._bits = np.random.Philox(key=key)
        self._generator = np.random.Generator(self._bits)
        self._state = self._bits.state

    def of(self, message: Message) -> np.random.Generator:
        """Return the stream from the message's place on, until the next call."""
        state = self._state
        way = 2 * message.partner + (message.purpose == pb.PURPOSE_ERROR)
        # The generator counts up the first word; the others tell one message from another.
        state["state"]["counter"][:] = (0, message.micro << 32 | message.edge, way, message.step)
        self._bits.state = state
        return self._generator
