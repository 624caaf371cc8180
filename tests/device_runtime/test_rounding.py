"""A message is rounded by the same lots whenever it is sent, and by others than every other message."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
from crowdlearn_device.piece.inbox import Message
from crowdlearn_device.piece.rounding import Rounding
from crowdlearn_device.protocol import wire_pb2 as pb

NOTHING = np.zeros((1, 1), np.float32)


def message(partner: int, purpose: pb.Purpose, step: int, micro: int, edge: int) -> Message:
    return Message(partner, purpose, step, micro, 2, 8, edge, NOTHING)


def drawn(rounding: Rounding, *place: Any, count: int = 7) -> tuple[float, ...]:
    return tuple(rounding.of(message(*place)).random(count, np.float32))


def test_a_message_that_is_sent_again_is_rounded_alike_whatever_was_sent_before():
    first, again = Rounding(3, 1), Rounding(3, 1)
    expected = drawn(first, 0, pb.PURPOSE_ERROR, 9, 1, 2)
    assert drawn(first, 1, pb.PURPOSE_ERROR, 9, 1, 2, count=1000) != expected
    assert drawn(again, 0, pb.PURPOSE_ERROR, 9, 1, 2) == expected
    assert drawn(first, 0, pb.PURPOSE_ERROR, 9, 1, 2) == expected


def test_no_two_messages_have_lots_in_common():
    purposes = (pb.PURPOSE_ACTIVATION, pb.PURPOSE_ERROR)
    places = product((0, 1, 2), purposes, (0, 1, 1 << 40), (0, 1, 65535), (0, 1, 500))
    lots = [drawn(Rounding(3, piece), *place) for piece in (0, 1) for place in places]
    lots.append(drawn(Rounding(4, 0), 0, pb.PURPOSE_ERROR, 0, 0, 0))
    assert len(set(lots)) == len(lots)


def test_lots_are_uniform():
    rounding = Rounding(0, 0)
    means = [np.mean(drawn(rounding, 1, pb.PURPOSE_ERROR, step, 0, 0, count=1000)) for step in range(100)]
    assert abs(np.mean(means) - 0.5) < 0.005
    assert 0.006 < np.std(means) < 0.013  # 1000 uniform lots have a mean of deviation 0.0091
