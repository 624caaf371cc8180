"""A slow group is not waited for by secure sums: they begin without it, and it is in a later one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from crowdlearn_host.coordinator.sums import effects as of_sums

from .sum_crowd import PATIENCE, SumCrowd
from .test_secure_rounds import flat, stage, summed

SLOW, DEVICES = 8, {16, 17}
"""The last of nine groups, and its devices."""


def crowd_with_a_slow_group(folder: Path, wait: float | None, groups: int = 9) -> SumCrowd:
    """A crowd of which the last group trains nothing, and all others are at the end of the first round."""
    crowd = SumCrowd(folder, groups=groups, epochs=2, wait=wait)
    crowd.run(lambda: all(group.phase == "running" for group in crowd.host.groups))
    crowd.tick(1.0)
    crowd.frozen = {2 * groups - 2, 2 * groups - 1}
    crowd.run()
    return crowd


def test_a_sum_begins_without_a_slow_group_which_is_in_the_next(folder: Path) -> None:
    crowd = crowd_with_a_slow_group(folder, wait=2.0)
    crowd.tick(PATIENCE)
    assert not stage(crowd)
    crowd.tick(1.0 + PATIENCE)
    assert crowd.log("not_waited_for") == [{"groups": [SLOW]}]
    crowd.run(lambda: stage(crowd) == "masked")
    expected = summed(crowd, but=tuple(DEVICES))
    crowd.run(lambda: crowd.host.sums.number == 1)
    assert np.array_equal(flat(crowd.model()), expected)
    crowd.frozen = set()
    crowd.run(lambda: stage(crowd) == "masked")
    attempt = crowd.host.sums._attempt
    assert attempt is not None
    assert attempt.places == {**dict.fromkeys(range(SLOW), (1, 0)), SLOW: (0, 0)}
    crowd.run()
    assert crowd.done
    # Its last round, the others being done.
    assert [told["groups"] for told in crowd.log("not_summed")] == [1]


def test_the_time_that_the_others_took_is_given_more_than_once(folder: Path) -> None:
    crowd = SumCrowd(folder, groups=9, wait=2.0)
    crowd.run(lambda: all(group.phase == "running" for group in crowd.host.groups))
    crowd.tick(1.0)
    crowd.tick(201.0)
    crowd.frozen = DEVICES
    crowd.run()
    crowd.tick(600.0)
    assert not stage(crowd)
    crowd.tick(601.0)
    assert stage(crowd)


@pytest.mark.parametrize(("wait", "groups"), [(0.0, 8), (None, 9)])
def test_every_group_is_waited_for_where_the_sum_is_of_too_few_or_a_run_repeats_exactly(
    wait: float | None, groups: int, folder: Path
) -> None:
    crowd = crowd_with_a_slow_group(folder, wait, groups)
    for now in (1e3, 1e6):
        crowd.tick(now)
    assert not stage(crowd)
    crowd.frozen = set()
    crowd.run()
    assert crowd.done
    assert not crowd.log("not_waited_for") + crowd.log("not_summed")


def test_a_host_that_dies_remembers_which_groups_were_summed(folder: Path) -> None:
    crowd = crowd_with_a_slow_group(folder, wait=0.0)
    crowd.tick(1.0 + PATIENCE)
    crowd.host.crash_at = lambda effect: isinstance(effect, of_sums.Over)
    crowd.run(lambda: crowd.host.sums.number == 1 and not crowd.host.attached)
    crowd.frozen = set()
    crowd.run(lambda: stage(crowd) == "masked")
    attempt = crowd.host.sums._attempt
    assert attempt is not None
    assert attempt.places == {**dict.fromkeys(range(SLOW), (1, 0)), SLOW: (0, 0)}
    crowd.run()
    assert crowd.done
    assert crowd.host.sums.number == 3
