"""Pieces go to devices that can afford them, if there is any way to do so."""

from __future__ import annotations

from itertools import permutations

import pytest
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_host.coordinator.hub.admission import samples_of
from crowdlearn_host.errors import FleetError
from crowdlearn_host.planner.problem.seating import beyond, led, meeting, seated
from hypothesis import given, settings
from hypothesis import strategies as st

from .crowd import settings_for

DEVICES = 4


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[set[int]], list[int], list[int], int]:
    """Who can afford each of one to four pieces, who is wanted for it, who is here, and the dominator."""
    pieces = draw(st.integers(1, DEVICES))
    takers = [draw(st.sets(st.integers(0, DEVICES - 1))) for _ in range(pieces)]
    wanted = [draw(st.integers(-1, DEVICES - 1)) for _ in range(pieces)]
    able = draw(st.permutations(range(DEVICES)))[: draw(st.integers(1, DEVICES))]
    return takers, wanted, able, draw(st.integers(-1, DEVICES - 1))


@given(cases())
def test_an_assignment_is_found_if_there_is_one(
    case: tuple[list[set[int]], list[int], list[int], int],
) -> None:
    takers, wanted, able, dominator = case
    every = [p for p in permutations(able, len(takers)) if not beyond(takers, p)]
    found = seated(takers, wanted, able)
    assert (found in every) if every else found is None
    if tuple(wanted) in every:
        assert found == tuple(wanted)
    under = [p for p in every if dominator in (-1, p[0])]
    led_by = led(takers, wanted, able, dominator)
    assert (led_by in under) if under else led_by is None


@st.composite
def on_shares(draw: st.DrawFn) -> tuple[list[set[int]], list[int], list[int], int, dict[int, str]]:
    """One or two triples; what each triple's helpers can afford; owners of some of the devices."""
    triples = draw(st.integers(1, 2))
    devices = draw(st.integers(3 * triples + 1, 3 * triples + 2))
    numbers = st.sets(st.integers(0, devices - 1), min_size=3)
    takers = [draw(numbers)] + [taker for _ in range(triples) for taker in [draw(numbers)] * 3]
    wanted = [draw(st.integers(-1, devices - 1)) for _ in takers]
    owners = {d: draw(st.sampled_from("abcd")) for d in range(devices) if draw(st.booleans())}
    return takers, wanted, draw(st.permutations(range(devices))), draw(st.integers(-1, 1)), owners


@settings(max_examples=60, deadline=None)
@given(on_shares())
def test_owners_do_not_meet_in_a_triple_if_there_is_any_way(
    case: tuple[list[set[int]], list[int], list[int], int, dict[int, str]],
) -> None:
    takers, wanted, able, dominator, owners = case
    every = [
        p
        for p in permutations(able, len(takers))
        if dominator in (-1, p[0]) and not beyond(takers, p) and not meeting(owners, p)
    ]
    found = led(takers, wanted, able, dominator, owners)
    assert (found in every) if every else found is None
    if tuple(wanted) in every:
        assert found == tuple(wanted)


def test_without_caps_any_device_takes_any_piece() -> None:
    assert seated((), [2, -1], [1, 2]) == (2, 1)
    assert led((), [2, 1], [1, 2], 1) == (1, 2)


@pytest.mark.parametrize(("number", "samples", "counted"), [(0, 5, 5), (1, 0, 0), (1, 7, 0)])
def test_a_device_that_is_planned_without_samples_takes_part_without(
    number: int, samples: int, counted: int
) -> None:
    settings = settings_for(without_samples=frozenset({1}), most_samples={0: 5})
    assert samples_of(pb.Hello(device="phone", samples=samples), number, settings) == counted


def test_more_samples_than_memory_was_planned_for_are_refused() -> None:
    settings = settings_for(most_samples={0: 5})
    with pytest.raises(FleetError, match="holds 6 training samples, and its memory was planned for 5"):
        samples_of(pb.Hello(device="phone", samples=6), 0, settings)
