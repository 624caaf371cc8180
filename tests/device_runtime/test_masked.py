"""Masked sums: totals are exact, single ones are random, and what does not fit is refused."""

from __future__ import annotations

import numpy as np
import pytest
from crowdlearn_device.errors import WireError
from crowdlearn_device.privacy.masked import MaskPlace, decode_words, encode_words, masked, total
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.frames import decode_tensor, encode_tensor

PLACE = MaskPlace(7, 1, 2, 0)
FRACTION = 14


def keys_of(me: int, senders: tuple[int, ...]) -> dict[int, bytes]:
    """Keys that two senders have in common, by the other one."""
    return {other: bytes([min(me, other), max(me, other)]) * 16 for other in senders if other != me}


def sent(values: dict[int, np.ndarray], place: MaskPlace = PLACE) -> dict[int, np.ndarray]:
    senders = tuple(values)
    return {p: masked(x, keys_of(p, senders), p, place, FRACTION) for p, x in values.items()}


def drawn(count: int) -> dict[int, np.ndarray]:
    rng = np.random.default_rng(0)
    return {p + 1: (9 * rng.standard_normal((16, 50))).astype(np.float32) for p in range(count)}


@pytest.mark.parametrize("count", [2, 3, 9])
def test_masks_cancel_in_the_total(count: int) -> None:
    values = drawn(count)
    found = total({p: decode_words(encode_words(x)) for p, x in sent(values).items()}, FRACTION)
    exact = sum(np.rint(x.astype(np.float64) * 2**FRACTION) for x in values.values()) / 2**FRACTION
    np.testing.assert_array_equal(found, exact.astype(np.float32))
    assert np.abs(found - sum(values.values())).max() <= count * 2.0 ** -(FRACTION + 1) + 1e-5


def test_single_sums_are_uniform_words_and_fresh_in_every_place() -> None:
    values = {1: np.zeros((200, 100), np.float32), 2: np.ones((200, 100), np.float32)}
    first, second = sent(values)[1], sent(values, MaskPlace(8, 1, 2, 0))[1]
    assert (first != second).mean() > 0.99
    counts = np.bincount((first.ravel() >> 16) & 0xFF, minlength=256)
    expected = counts.sum() / 256
    assert ((counts - expected) ** 2 / expected).sum() < 400  # uniform: chi square of 255 degrees, 1e-8


def test_without_one_senders_sums_the_others_stay_random() -> None:
    values = drawn(3)
    words = sent(values)
    left = total({p: words[p] for p in (1, 2)}, FRACTION)
    true = values[1] + values[2]
    assert abs(np.corrcoef(left.ravel(), true.ravel())[0, 1]) < 0.2


def test_sums_that_could_leave_the_ring_are_refused() -> None:
    values = {1: np.full((1, 1), 300, np.float32), 2: np.zeros((1, 1), np.float32)}
    with pytest.raises(WireError, match=r"privacy.fraction, now 14, must be less"):
        sent(values)
    with pytest.raises(WireError, match="does not fit"):
        sent({1: np.full((1, 1), np.nan, np.float32), 2: values[2]})


@pytest.mark.parametrize(
    "tensor",
    [
        encode_tensor(np.zeros((2, 3), np.float32)),
        pb.Tensor(dtype=pb.MASKED, shape=[2, 3], data=bytes(17)),
        pb.Tensor(dtype=pb.MASKED, shape=[1 << 31, 1 << 31, 1 << 31], data=bytes(18)),
    ],
)
def test_what_holds_no_masked_sums_is_refused(tensor: pb.Tensor) -> None:
    with pytest.raises(WireError):
        decode_words(tensor)


def test_masked_sums_are_no_plain_tensor() -> None:
    with pytest.raises(WireError):
        decode_tensor(encode_words(np.zeros((2, 3), np.uint32)))
