"""How many devices a run gets, and when it begins; when others come again; in which seats devices sit."""

import random

import pytest
from crowdlearn_host.runs.train import in_turn
from crowdlearn_host.service.cohort import Cohort
from crowdlearn_host.service.pace import LEAST_SECONDS, MOST_SECONDS, Pace

COHORT = Cohort(pieces=3, least=2, most=4, spares=0.25, wait=30.0)


@pytest.mark.parametrize(
    ("devices", "groups"), [(0, 0), (5, 0), (6, 2), (8, 2), (11, 2), (12, 3), (16, 4), (1000, 4)]
)
def test_groups_are_formed_of_those_that_are_there(devices, groups):
    assert (COHORT.size, COHORT.fewest, COHORT.seats) == (4, 6, 16)
    assert COHORT.groups(devices) == groups
    assert groups * COHORT.pieces <= devices


def test_a_run_waits_for_more_than_the_least_but_not_for_ever():
    assert not COHORT.begins(5, 1e9)
    assert not COHORT.begins(6, 29.9)
    assert COHORT.begins(6, 30.0)
    assert COHORT.begins(16, 0.0)


@pytest.mark.parametrize("sizes", [[3], [4, 4], [3, 5, 4], [1, 1, 1, 1]])
def test_seats_are_filled_in_turn(sizes):
    order, ends = in_turn(sizes), [sum(sizes[: k + 1]) for k in range(len(sizes))]
    assert sorted(order) == list(range(sum(sizes)))
    for count in range(len(order)):
        taken = [0] * len(sizes)
        for number in order[:count]:
            taken[next(k for k, end in enumerate(ends) if number < end)] += 1
        open_groups = [n for n, size in zip(taken, sizes, strict=True) if n < size]
        assert max(open_groups, default=0) - min(open_groups, default=0) <= 1


def test_few_devices_come_again_soon_and_many_are_spread_out():
    clock = [0.0]
    pace = Pace(random.Random(0), now=lambda: clock[0], a_second=10)
    assert 0.5 * LEAST_SECONDS <= pace.again() <= 1.5 * LEAST_SECONDS
    told = [pace.again() for _ in range(20_000)]
    assert pace.turned_away == 20_001
    assert max(told) <= 1.5 * MOST_SECONDS
    # of the last thousand, no second has many more than ten times what it may
    seconds = [int(each) for each in told[-10_000:]]
    assert max(seconds.count(second) for second in set(seconds)) <= 3 * 10
    clock[0] = 2 * MOST_SECONDS
    assert pace.again() <= 1.5 * LEAST_SECONDS
