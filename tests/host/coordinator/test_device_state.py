"""Devices tell how hot they are, and their charge if a run weighs it: then who has most is dominator next."""

from __future__ import annotations

from pathlib import Path

import pytest
from crowdlearn_device.member.events import StateRead
from crowdlearn_device.platform.battery import Battery, DeviceState
from crowdlearn_device.platform.heat import ZONE_CELSIUS, Heat
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_host.coordinator.group.events import Received

from .crowd import Action, Crowd, settings_for

STATES = {
    0: DeviceState(0, 20, False),
    1: DeviceState(0, 90, False),
    2: DeviceState(2, 55, False),
    3: DeviceState(0, 5, True),
}


def trained(folder: Path, *, weigh_charge: bool) -> Crowd:
    """A run of two epochs whose devices have these states."""
    crowd = Crowd(folder, settings_for(weigh_charge=weigh_charge))

    def tell(_: Action) -> None:
        for phone in crowd.phones:
            if phone.member is not None and phone.connection is not None:
                phone.handle(StateRead(STATES[phone.number]))
                crowd._collect(phone)

    crowd.run(tell)
    return crowd


def dominators(crowd: Crowd) -> list[list[str]]:
    """Who was dominator, by epoch and turn."""
    told = crowd.log("pass")
    return [[each["device"] for each in told if each["epoch"] == epoch] for epoch in range(2)]


def test_the_device_with_most_charge_is_dominator_next_and_each_is_once(tmp_path: Path) -> None:
    crowd = trained(tmp_path, weigh_charge=True)
    crowd.check_done()
    first, second = dominators(crowd)
    assert sorted(first) == [f"phone-{k}" for k in range(4)]
    assert second == ["phone-3", "phone-1", "phone-2", "phone-0"]  # the one that is charged first


def test_charge_is_not_told_to_a_run_that_does_not_weigh_it(tmp_path: Path) -> None:
    usual = Crowd(tmp_path / "usual", settings_for())
    usual.run()
    crowd = trained(tmp_path / "told", weigh_charge=False)
    assert dominators(crowd) == dominators(usual)
    assert set(crowd.group.attendance.charge.values()) <= {0}


def test_a_phone_that_throttles_is_told_once_for_each_change(tmp_path: Path) -> None:
    crowd = trained(tmp_path, weigh_charge=False)
    assert crowd.log("throttled") == [{"device": "phone-2", "status": "moderate"}]
    crowd = Crowd(tmp_path / "more", settings_for())
    crowd.run_until(lambda: len(crowd.group.live) == 4)
    for thermal in (1, 1, 3, 0, 0):
        crowd.host.handle(Received(0, pb.Frame(device_state=pb.DeviceState(thermal=thermal))))
    crowd.host.carry_out()
    assert [each["status"] for each in crowd.log("throttled")] == ["light", "severe"]
    assert crowd.log("cooled") == [{"device": "phone-0"}]


@pytest.mark.parametrize("state", [pb.DeviceState(thermal=7), pb.DeviceState(percent=101)])
def test_a_state_that_cannot_be_is_refused(tmp_path: Path, state: pb.DeviceState) -> None:
    crowd = Crowd(tmp_path, settings_for())
    crowd.run_until(lambda: len(crowd.group.live) == 4)
    crowd.host.handle(Received(1, pb.Frame(device_state=state)))
    crowd.host.carry_out()
    assert {"device": "phone-1", "reason": "a state that no device can be in"} in crowd.log("refused")


def test_a_device_reads_its_state(tmp_path: Path) -> None:
    supply, zone = tmp_path / "battery", tmp_path / "thermal_zone0"
    supply.mkdir()
    zone.mkdir()
    for name, text in {"type": "Battery", "status": "Discharging", "capacity": "42"}.items():
        (supply / name).write_text(text + "\n")
    (zone / "temp").write_text(f"{round(1000 * ZONE_CELSIUS[1])}\n")
    hot = Heat(zones=tmp_path)
    assert Battery(0, tmp_path, hot).state() == DeviceState(2, 42, False)
    assert Battery(50, tmp_path, hot).low() == "battery at 42 %"
    (tmp_path / "status").write_text("3\n")
    assert Heat(tmp_path).status() == 3
    assert Battery(50, tmp_path / "none", Heat(tmp_path)).state() == DeviceState(3, 100, True)
