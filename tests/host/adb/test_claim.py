"""A phone serves one run; a second is refused by name, and one that died holds it up only for a moment."""

from __future__ import annotations

import pytest
from crowdlearn_host.adb import AdbDevice
from crowdlearn_host.adb.deployment.claim import Claim, Holder
from crowdlearn_host.errors import FleetError

SOON = 1.0
"""Seconds between two renewals."""


def holder(run: str) -> Holder:
    return Holder.here(run, run.encode(), SOON)


async def test_a_second_run_is_refused_with_the_name_of_the_first(device: AdbDevice) -> None:
    async with Claim(device, holder("first")):
        with pytest.raises(FleetError, match=f"{device.serial} serves the run 'first' of .*wait for its end"):
            async with Claim(device, holder("second")):
                pytest.fail("two runs on one phone")
    async with Claim(device, holder("second")) as claim:
        assert claim.lost is None
    assert (await device.shell("ls /data/local/tmp/crowdlearn/claim")).exit_code == 1


async def test_a_run_takes_its_phone_again_at_once(device: AdbDevice) -> None:
    async with Claim(device, Holder.here("run", b"id", every=1000)), Claim(device, Holder.here("run", b"id")):
        pass


async def test_a_run_that_died_gives_way_and_is_told_if_it_comes_back(device: AdbDevice) -> None:
    first = Claim(device, holder("first"))
    await first.__aenter__()
    assert first._renewing is not None
    first._renewing.cancel()  # as if its host had stopped
    async with Claim(device, holder("second")):
        await first._renew()
        assert first.lost is not None
        assert "was taken over by the run 'second'" in first.lost
        await first.__aexit__()
        with pytest.raises(FleetError, match="'second'"):
            async with Claim(device, holder("third")):
                pass


@pytest.mark.parametrize("said", ["no json", '{"run": "a", "id": "b", "host": "c", "every": "x"}'])
async def test_a_word_that_cannot_be_read_holds_nobody_up(device: AdbDevice, said: str) -> None:
    await device.push(said.encode(), "/data/local/tmp/crowdlearn/claim/holder")
    async with Claim(device, holder("run")) as claim:
        assert claim.lost is None
