"""Every way to a phone: it connects, or refuses in words that name the phone; what it finds, it reaches."""

from __future__ import annotations

from pathlib import Path

import pytest
from crowdlearn_host import emulator as phones
from crowdlearn_host.adb.carriers.server import server_runs
from crowdlearn_host.devices.discovery import discover, named
from crowdlearn_host.devices.ways.base import Surroundings, Way
from crowdlearn_host.devices.ways.registry import WAYS
from crowdlearn_host.errors import FleetError


@pytest.fixture
def nothing_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", "1")


ALL = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


@ALL
def test_a_way_has_words_of_its_own_and_a_name_of_one_word(way: Way) -> None:
    assert type(way).__doc__
    assert way.name.isalpha()


@ALL
@pytest.mark.usefixtures("nothing_served")
async def test_a_phone_that_is_not_there_is_named_with_what_to_do(way: Way, tmp_path: Path) -> None:
    with pytest.raises(FleetError, match=r"R58M123ABC.*|libusb|adb-server"):
        await way.connect("R58M123ABC", key=tmp_path / "key")
    assert not server_runs(1)  # nor was one started, which would take the USB


@ALL
@pytest.mark.usefixtures("nothing_served")
async def test_what_a_way_finds_it_reaches(way: Way, tmp_path: Path, key: Path) -> None:
    with phones.running(1, tmp_path) as (phone,):
        found = list(way.serials(Surroundings(tmp_path)))
        assert (phone.serial in found) == (way.name == "virtual")
        for serial in found:
            async with await way.connect(serial, key=key) as device:
                assert (await device.shell("echo here")).stdout == b"here\n"


@pytest.mark.usefixtures("nothing_served")
def test_some_way_leads_to_whatever_is_named(tmp_path: Path) -> None:
    for serial in ("192.168.1.20:5555", "R58M123ABC", "tablet"):
        assert [found.way for found in discover([serial], tmp_path)] == ["tcp"]


@pytest.mark.usefixtures("nothing_served")
def test_around_is_looked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from crowdlearn_host.devices.ways import base

    looked: list[int] = []
    monkeypatch.setattr(base, "server_devices", lambda port: looked.append(port) or [])
    discover(["192.168.1.20:5555", "R58M123ABC"], tmp_path)
    assert looked == [1]


def test_an_error_names_its_phone_once() -> None:
    assert named("usb-1", FleetError("usb-1 is gone: plug it in")) == "usb-1 is gone: plug it in"
    assert named("usb-1", FleetError("no room")) == "usb-1: no room"
