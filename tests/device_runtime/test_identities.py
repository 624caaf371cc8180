"""Whom a device met, and whom its owner trusts to name devices."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from crowdlearn_device.cli import main
from crowdlearn_device.energy.meters import BatteryMeter, Meter
from crowdlearn_device.energy.readings import Covers, Provenance, Reading
from crowdlearn_device.energy.spending import Spending
from crowdlearn_device.errors import MeterError, PolicyError, StateError
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.security.assignment_policy import (
    FILE,
    AssignmentPolicy,
    fingerprint,
    load_assignment_policy,
)
from crowdlearn_device.security.daily_use import UNSAVED, DailyUse
from crowdlearn_device.security.device_list import (
    link_of,
    list_of_link,
    load_signer,
    read_list,
    signed_list,
)
from crowdlearn_device.security.identity import Identity
from crowdlearn_device.security.identity_log import IdentityLog

OWN, FRIEND, STRANGER = (Identity.generate().public for _ in range(3))


def test_every_identity_is_in_the_log_once_a_run(tmp_path: Path) -> None:
    log = IdentityLog(tmp_path)
    assert [each.is_new for each in log.note("a", {0: OWN, 1: FRIEND})] == [True, True]
    assert log.note("a", {0: OWN, 1: FRIEND}) == []
    again = IdentityLog(tmp_path)
    assert again.head == log.head
    assert [each.is_new for each in again.note("b", {0: FRIEND, 2: STRANGER})] == [False, True]
    # A host that puts another device into another's place within a run cannot do so unseen.
    (other,) = again.note("b", {0: STRANGER})
    assert (other.number, other.fingerprint) == (0, fingerprint(STRANGER))
    assert len(IdentityLog(tmp_path).met) == 5


@pytest.mark.parametrize("damage", ["removed", "changed", "swapped"])
def test_a_log_that_was_changed_is_refused(damage: str, tmp_path: Path) -> None:
    IdentityLog(tmp_path).note("a", {0: OWN, 1: FRIEND, 2: STRANGER})
    path = tmp_path / "identities.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    changed = {
        "removed": lines[1:],
        "changed": [lines[0].replace(fingerprint(OWN)[:4], "0000"), *lines[1:]],
        "swapped": [lines[1], lines[0], lines[2]],
    }
    path.write_text("".join(changed[damage]))
    with pytest.raises(StateError, match="line 1, is not as this device wrote it"):
        IdentityLog(tmp_path)


def test_a_line_that_was_being_written_when_the_device_died_is_written_again(tmp_path: Path) -> None:
    IdentityLog(tmp_path).note("a", {0: OWN, 1: FRIEND})
    path = tmp_path / "identities.jsonl"
    path.write_bytes(path.read_bytes()[:-9])
    log = IdentityLog(tmp_path)
    assert [each.number for each in log.met] == [0]
    assert [each.number for each in log.note("a", {0: OWN, 1: FRIEND})] == [1]
    assert len(IdentityLog(tmp_path).met) == 2


def test_the_bytes_of_a_day_are_counted_and_bounded(tmp_path: Path) -> None:
    day = ["2026-11-29"]
    use = DailyUse(tmp_path, lambda: day[0])
    use.count(700)
    (tmp_path / FILE).write_text(json.dumps({"bytes_a_day": 1000}))
    found = load_assignment_policy(tmp_path)
    assert found is not None
    found.check_use(use.bytes)
    use.count(UNSAVED)
    with pytest.raises(PolicyError, match="the owner allows 1000; try tomorrow"):
        found.check_use(use.bytes)
    assert DailyUse(tmp_path, lambda: day[0]).bytes == 700 + UNSAVED
    day[0] = "2026-11-30"
    assert use.bytes == DailyUse(tmp_path, lambda: day[0]).bytes == 0


class Counting(Meter):
    """A meter that counts what it is told to."""

    name = "counting"

    def __init__(self) -> None:
        self.joules: float | None = 5.0

    async def read(self) -> Reading:
        if self.joules is None:
            raise MeterError("it cannot be read")
        return Reading(self.joules, self.joules, self.name, Provenance.EMULATED, Covers.PHONE, 0.1)


def test_the_joules_of_a_day_are_counted_and_bounded(tmp_path: Path) -> None:
    meter, day = Counting(), ["2026-11-29"]
    spending, use = Spending({"counting": lambda: meter}), DailyUse(tmp_path, lambda: day[0])
    (tmp_path / FILE).write_text(json.dumps({"joules_a_day": 40}))
    found = load_assignment_policy(tmp_path)
    assert found is not None
    for joules in (5.0, 25.0, 47.0):
        meter.joules = joules
        use.spend(asyncio.run(spending.since()))
        if joules < 40:
            found.check_energy(use.joules, metered=use.metered)
    assert use.joules == DailyUse(tmp_path, lambda: day[0]).joules == 42.0
    with pytest.raises(PolicyError, match="42 joules were spent today, the owner allows 40; try tomorrow"):
        found.check_energy(use.joules, metered=use.metered)
    day[0] = "2026-11-30"
    assert use.joules == 0.0
    meter.joules = None
    use.spend(asyncio.run(spending.since()))
    with pytest.raises(PolicyError, match="no meter of this device can be read"):
        found.check_energy(use.joules, metered=use.metered)
    AssignmentPolicy().check_energy(1e9, metered=False)


def test_a_battery_on_a_charger_spends_nothing(tmp_path: Path) -> None:
    battery = tmp_path / "battery"
    battery.mkdir()
    told = {"type": "Battery", "voltage_now": "4000000", "current_now": "-500000", "status": "Charging"}
    for name, value in told.items():
        (battery / name).write_text(value + "\n")
    assert asyncio.run(Spending({"battery": lambda: BatteryMeter(tmp_path)}).since()) == 0.0
    assert asyncio.run(Spending({"battery": lambda: BatteryMeter(tmp_path / "none")}).since()) is None


def policy(home: Path, signer: str) -> None:
    (home / FILE).write_text(json.dumps({"strangers": False, "least_known": 1, "signers": [signer]}))


def assign(other: bytes) -> pb.Assign:
    pieces = [pb.PieceSpec(device=k, neurons=[pb.Range(stop=1)] * 2) for k in (0, 1)]
    peers = [pb.Peer(device=0, identity=OWN), pb.Peer(device=1, identity=other)]
    return pb.Assign(generation=1, pieces=pieces, peers=peers)


def test_devices_of_a_signed_list_are_known_and_others_are_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["sign-list", "--key", str(tmp_path / "signer.key"), "--output", str(tmp_path / "devices.json")]
    assert main([*command, f"friend={fingerprint(FRIEND)}"]) == 0
    signer = capsys.readouterr().out.strip()
    assert (tmp_path / "signer.key").stat().st_mode & 0o077 == 0
    policy(tmp_path, signer)
    found = load_assignment_policy(tmp_path)
    assert found is not None
    found.check(assign(FRIEND), OWN)
    with pytest.raises(PolicyError, match="not known to the owner"):
        found.check(assign(STRANGER), OWN)
    assert main([*command, "friend=1234"]) != 0
    assert main([*command, f"friend={fingerprint(FRIEND)}", f"other={fingerprint(STRANGER)}"]) == 0
    capsys.readouterr()
    both = load_assignment_policy(tmp_path)
    assert both is not None
    both.check(assign(STRANGER), OWN)


def test_a_list_that_is_forged_or_of_another_signer_allows_nothing(tmp_path: Path) -> None:
    signer, other = (load_signer(tmp_path / name) for name in ("signer.key", "other.key"))
    public = signer.public_key().public_bytes_raw().hex()
    policy(tmp_path, public)
    listed = signed_list({"friend": fingerprint(FRIEND)}, signer)
    forged = listed.replace(fingerprint(FRIEND), fingerprint(STRANGER))
    for text, reason in (
        (forged, "signed by none of the signers"),
        (signed_list({"friend": fingerprint(FRIEND)}, other), "signed by none of the signers"),
        ("{}", "cannot be read"),
    ):
        (tmp_path / "devices.json").write_text(text)
        with pytest.raises(PolicyError, match=reason):
            load_assignment_policy(tmp_path)
    assert read_list(listed, [other.public_key().public_bytes_raw().hex(), public]) == {
        "friend": fingerprint(FRIEND)
    }


def test_a_list_travels_as_a_link_that_a_code_holds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    signer, other = (load_signer(tmp_path / name) for name in ("signer.key", "other.key"))
    policy(tmp_path, signer.public_key().public_bytes_raw().hex())
    listed = signed_list({"friend": fingerprint(FRIEND), "Ada's \u260e": fingerprint(OWN)}, signer)
    link = link_of(listed)
    assert list_of_link(link) == json.dumps(json.loads(listed), indent=1) + "\n"
    assert main(["take-list", "--home", str(tmp_path), link]) == 0
    assert capsys.readouterr().out == "2 devices\n"
    found = load_assignment_policy(tmp_path)
    assert found is not None
    found.check(assign(FRIEND), OWN)
    kept = (tmp_path / "devices.json").read_bytes()
    for wrong, reason in (
        (link_of(signed_list({"x": fingerprint(STRANGER)}, other)), "none of the signers"),
        (link[:-8], "has no list of devices"),
        ("crowdlearn://join?list=abc", "another kind of link"),
    ):
        assert main(["take-list", "--home", str(tmp_path), wrong]) == 1
        assert reason in capsys.readouterr().err
    assert (tmp_path / "devices.json").read_bytes() == kept
    many = {f"phone-{k}": Identity.generate().public for k in range(120)}
    with pytest.raises(PolicyError, match="120 devices take"):
        link_of(signed_list({name: fingerprint(each) for name, each in many.items()}, signer))


def test_the_log_is_printed_with_its_head(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = IdentityLog(tmp_path)
    log.note("digits/00", {3: FRIEND})
    assert main(["identities", "--home", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert f"{fingerprint(FRIEND)}  new    device 3 of digits/00" in told
    assert f"1 lines, head {log.head}" in told
