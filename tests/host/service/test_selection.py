"""Selections: which of the devices that wait a run gets. Every selection keeps to the first tests."""

import math
import random
from typing import Any

import pytest
from crowdlearn_device.platform.battery import DeviceState
from crowdlearn_host.service.selection.able import Able
from crowdlearn_host.service.selection.base import Candidate
from crowdlearn_host.service.selection.registry import SELECTIONS
from crowdlearn_host.spec.crowd import CrowdSection


def candidate(name: str, samples: int = 10, rested: float = math.inf, **state: Any) -> Candidate:
    return Candidate(name, samples, DeviceState(**state), 1.0, rested, 0)


CROWD = [candidate(f"phone-{k}", samples=k % 4, rested=float(k)) for k in range(40)]


@pytest.fixture(params=sorted(SELECTIONS))
def kind(request):
    return SELECTIONS[request.param]


@pytest.mark.parametrize("most", [0, 1, 7, 30, 100])
def test_no_more_are_chosen_than_asked_for_and_each_once(kind, most):
    chosen = kind(random.Random(0)).choose(CROWD, most)
    able = [each for each in CROWD if each.samples]
    assert len(chosen) == min(most, len(able)) == len({each.name for each in chosen})
    assert all(each in able for each in chosen)


def test_lots_alone_decide_what_is_drawn(kind):
    names = [[e.name for e in kind(random.Random(3)).choose(CROWD, 9)] for _ in range(2)]
    assert names[0] == names[1]


def test_a_refusal_says_why_and_nothing_is_chosen_against_it(kind):
    selection = kind(random.Random(0))
    assert selection.refusal(candidate("a", samples=0)) == "holds no samples"
    assert selection.refusal(candidate("b")) == ""
    assert selection.choose([candidate("a", samples=0)], 1) == []


def test_a_run_can_ask_for_every_selection():
    assert set(CrowdSection.model_fields["selection"].annotation.__args__) == set(SELECTIONS)


@pytest.mark.parametrize(
    ("state", "why"),
    [
        ({"charging": False, "percent": 79}, "is not charged, at 79 %"),
        ({"charging": False, "percent": 80}, ""),
        ({"charging": True, "percent": 3}, ""),
        ({"thermal": 2}, "is hot (thermal status 2)"),
        ({"metered": True}, "is on a network that may cost money"),
        ({"in_use": True}, "is in use"),
    ],
)
def test_only_devices_that_can_spare_it_are_able(state, why):
    assert Able(random.Random(0)).refusal(candidate("phone", **state)) == why


def test_those_that_were_not_chosen_for_longest_are_taken_first():
    chosen = Able(random.Random(0)).choose(
        [candidate("now", rested=1), candidate("never"), candidate("old", rested=9)], 2
    )
    assert [each.name for each in chosen] == ["never", "old"]
