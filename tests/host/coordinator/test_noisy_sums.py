"""Noise in secure sums between real members: moves clipped over a group's pieces, with shares of noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from crowdlearn_device.errors import AggregationError
from crowdlearn_device.member.handlers.sharing import summed_weights
from crowdlearn_device.privacy.aggregation.fixed_point import FixedPoint
from crowdlearn_device.privacy.dp.noisy_move import NoisyMove, discrete_gaussian, share_of
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_host.privacy.dp.accountant import Schedule, own_epsilon

from .crowd import TWO_PIECES, layout_of
from .sum_crowd import GROUPS, PATIENCE, SumCrowd, lot
from .test_secure_rounds import VICTIM, flat, heard, stage
from .tiny import first_weights

CLIP = 0.05
HARDLY = 1e-9
"""Noise that no number shows."""


def moves(crowd: SumCrowd) -> np.ndarray:
    """How each group's weights have moved, float32 [groups, weights]."""
    ranges = [lot(0).of(neurons) for neurons in layout_of(TWO_PIECES)]
    found = np.zeros((crowd.groups, len(lot(0).positions)), np.float32)
    for phone in crowd.phones:
        generation = phone.member.generation if phone.member else None
        assert generation is not None
        values, at = summed_weights(generation, 0, 1.0), 0
        for start, stop in ranges[generation.assign.piece]:
            found[phone.number // 2, start:stop] = values[at : at + stop - start]
            at += stop - start
    return found - flat(first_weights())


def check_clipped(crowd: SumCrowd, bound: float) -> None:
    """The first sum is of moves clipped to the bound, some of which were longer; the run comes to its end."""
    crowd.run(lambda: stage(crowd) == "masked")
    moved = moves(crowd)
    norms = np.linalg.norm(moved, axis=1)
    assert (norms > bound).any()
    expected = (moved * np.minimum(1, bound / norms)[:, None]).mean(0)
    crowd.run(lambda: crowd.host.sums.number == 1)
    assert np.abs(flat(crowd.model()) - flat(first_weights()) - expected).max() <= 2e-6
    crowd.run()
    crowd.check_done(crowd.model())


def test_a_sum_is_of_moves_that_are_clipped_over_all_pieces_of_a_group(folder: Path) -> None:
    crowd = SumCrowd(folder, noise=HARDLY, clip=CLIP, epochs=2)
    check_clipped(crowd, CLIP)
    assert not crowd.log("refused") + crowd.log("fault") + crowd.log("sum_begun_anew")
    assert [told["sums"] for told in crowd.log("noisy_sum")] == [1, 2]


def test_noise_of_a_sum_is_as_large_as_was_accounted(folder: Path) -> None:
    """The clip is far below the noise, so that what is left of the moves does not count."""
    noise = 40.0
    crowd = SumCrowd(folder, noise=noise, clip=CLIP, epochs=2)
    crowd.run()
    first, second = (told["group_epsilon"] for told in crowd.log("noisy_sum"))
    assert first == own_epsilon(Schedule(noise, 1.0, 1), 1e-5) < second
    off = (flat(crowd.model()) - flat(first_weights())) * GROUPS / (CLIP * noise)
    assert 0.7 < off.std() / 2**0.5 < 1.4  # two sums; 8 groups, as few as are released


@pytest.mark.parametrize("step", ["key", "shares", "masked", "tags"])
def test_a_device_may_die_at_every_step_of_a_noisy_sum(step: str, folder: Path) -> None:
    crowd = SumCrowd(folder, seed=1, noise=HARDLY, clip=CLIP)
    crowd.run(lambda: VICTIM in heard(crowd, step))
    crowd.crash(VICTIM)
    crowd.run(lambda: bool(crowd.log("left")))
    crowd.connect(VICTIM)
    crowd.run()
    assert crowd.done
    assert not crowd.log("sum_lost")


def test_groups_that_drop_out_leave_noise_enough(folder: Path) -> None:
    """Shares of noise are those of the fewest groups that are released: more groups have more."""
    crowd = SumCrowd(folder, groups=GROUPS + 2, noise=40.0, clip=CLIP)
    crowd.run(lambda: stage(crowd) == "keys")
    for number in (0, 1):
        crowd.crash(number)
    crowd.run()
    for now in (1.0, PATIENCE + 2, 2 * PATIENCE + 4, 3 * PATIENCE + 6):
        crowd.tick(now)
        crowd.run()
    left = crowd.groups - 1
    off = (flat(crowd.model()) - flat(first_weights())) * left / (CLIP * 40)
    assert crowd.log("noisy_sum")
    assert off.std() > 0.8  # of nine of ten groups
    assert share_of(1.0, 8) * left**0.5 > 1


def test_devices_refuse_sums_that_would_not_hide_a_group() -> None:
    for clip, noise in ((0.0, 1.0), (float("inf"), 1.0), (1.0, float("nan")), (1.0, -1.0)):
        with pytest.raises(AggregationError, match="clipped to"):
            NoisyMove(clip, noise, 8, 4, {1, 2})
    move = NoisyMove(1.0, 1.0, 8, 2, {1, 2})
    with pytest.raises(AggregationError, match="reference of 12 bytes"):
        move.take_reference(bytes(12))
    move = NoisyMove(1.0, HARDLY, 8, 2, {1, 2})
    assert not move.take_reference(np.zeros(1, "<f4").tobytes())
    assert move.take_reference(np.zeros(1, "<f4").tobytes())
    assert move.moved(1, np.array([3.0, 4.0], np.float32)) == 25.0
    assert not move.ready
    for device, square in ((1, 1.0), (3, 1.0), (2, -1.0), (2, float("nan"))):
        with pytest.raises(AggregationError, match="not due"):
            move.take_square(device, square)
    move.take_square(2, 75.0)
    assert move.ready
    numbers = FixedPoint(8)
    np.testing.assert_allclose(numbers.decode(move.encoded(numbers)), [0.3, 0.4], atol=2e-6)


def test_the_discrete_gaussian_is_that() -> None:
    drawn = discrete_gaussian(3.0, 200_000, np.random.default_rng(0))
    assert abs(drawn.std() - 3) < 0.02
    assert abs(drawn.mean()) < 0.05
    assert pb.SumBegin(noise=1.0).noise == 1.0
