"""On which conditions a phone takes part: its owner's, whatever a host asks for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from crowdlearn_device.app.phone import Facts, facts_of
from crowdlearn_device.app.policy import Conditions, Policy, load_policy, policy_of, save_policy

GOOD = Facts(percent=80, charging=True, unmetered=True, idle=True, celsius=30.0, thermal=0)
STRICT = Policy(idle=True)


class Shown:
    """A phone that tells these facts."""

    def __init__(self, told: str) -> None:
        self._told = told

    def facts(self) -> str:
        return self._told

    def meters(self) -> str:
        return "{}"

    def show(self, status: str) -> None:
        pass

    def program(self, descriptor: int) -> int:
        return 0

    def endProgram(self, number: int) -> None:
        pass


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"charging": False}, "the phone is not charging"),
        ({"charging": None}, "the phone is not charging"),
        ({"unmetered": False}, "the network may cost money"),
        ({"idle": False}, "the phone is in use"),
        ({"celsius": 41.2}, "the battery has 41 degrees Celsius"),
        ({"thermal": 2}, "the phone is hot (thermal status 2)"),
        ({"percent": 15}, ""),  # it is charging
        ({"celsius": None, "thermal": None, "percent": None}, ""),
    ],
)
def test_a_phone_takes_part_while_every_condition_holds(change: dict[str, object], reason: str) -> None:
    assert STRICT.refusal(GOOD, dialled=True) == ""
    found = STRICT.refusal(replace(GOOD, **change), dialled=True)  # type: ignore[arg-type]
    assert found == reason


def test_adb_uses_no_network_of_the_phone_s() -> None:
    assert Policy().refusal(replace(GOOD, unmetered=False), dialled=False) == ""


def test_the_stricter_limit_of_owner_and_host_counts() -> None:
    phone = Shown(json.dumps({"percent": 40, "charging": False}))
    policy = Policy(charging=False, lowest_percent=20)
    assert Conditions(phone, policy, dialled=False).low() == ""
    assert Conditions(phone, policy, dialled=False, lowest=50).low() == "battery at 40 %"
    assert Conditions(phone, replace(policy, lowest_percent=45), dialled=False, lowest=5).low()


@pytest.mark.parametrize("told", ["", "[]", "null", '{"percent": ', "7", '{"thermal": 0, "more": 1}'])
def test_damaged_facts_are_unknown(told: str) -> None:
    assert facts_of(Shown(told)) in (Facts(), Facts(thermal=0))


def test_a_policy_is_kept_and_a_damaged_one_is_the_default(tmp_path: Path) -> None:
    path = tmp_path / "policy.json"
    assert load_policy(path) == Policy()
    changed = Policy(charging=False, idle=True, highest_celsius=35.5, adb=False)
    save_policy(path, changed)
    assert load_policy(path) == changed
    assert path.stat().st_mode & 0o077 == 0
    path.write_text('{"charging": 1}')
    assert load_policy(path) == Policy()


@pytest.mark.parametrize("text", ["[]", '{"chargin": true}', '{"idle": 1}', '{"lowest_percent": true}', "{"])
def test_a_policy_of_other_fields_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"polic|Expecting"):
        policy_of(text)
