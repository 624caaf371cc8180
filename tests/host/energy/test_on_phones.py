"""Virtual phones are measured over adb, and their constants are those of their power model."""

from __future__ import annotations

import asyncio
import time
import tomllib
from pathlib import Path

import pytest
from crowdlearn_device.energy.readings import Reading, used
from crowdlearn_host import emulator as phones
from crowdlearn_host.adb import AdbDevice
from crowdlearn_host.cli import build
from crowdlearn_host.devices.constants import Constants
from crowdlearn_host.devices.discovery import Found
from crowdlearn_host.devices.facts import parse_facts, read_facts
from crowdlearn_host.devices.fleet_file import Measured, fleet_toml
from crowdlearn_host.devices.measuring import MeasuredLink, Probe
from crowdlearn_host.emulator.hardware.power import RADIOS, cpu_watts
from crowdlearn_host.emulator.phone import LEAST_SECONDS
from crowdlearn_host.energy.calibration import calibrate
from crowdlearn_host.energy.measure import measure
from crowdlearn_host.energy.meters import METERS, readable_of
from crowdlearn_host.energy.subject import Program
from crowdlearn_host.errors import ConfigError, FleetError
from crowdlearn_host.planner.problem.fleet import Fleet
from typer.testing import CliRunner

from tests.host.conftest import STAND_IN
from tests.host.devices.test_fleet import REAL_ANSWER

PROFILE = phones.PROFILES["redmi-7"]
IDLE_AT_MOST = 1.0
"""Watts of a virtual phone that does nothing, at most."""
PROBE = Probe({"program.pte": b"p"}, "0" * 64, 1e6, 10)
PROGRAMS = [Program("whole network", 1e6, 10, {"program.pte": b"p"}, "0" * 64)]


async def test_constants_are_those_of_the_power_model(tmp_path: Path, key: Path) -> None:
    with phones.running(1, tmp_path, programs=STAND_IN, preload=(), profile="redmi-7") as (info,):
        async with await AdbDevice.connect(info.serial, key=key) as device:
            facts = await read_facts(device)
            assert facts.charging
            told = await calibrate(device, facts, "virtual", PROBE, lambda *_: None, seconds=6)
            assert (await read_facts(device)).charging  # the charger is back
    wifi = RADIOS["wifi"]
    assert told.provenance == "modelled"
    assert told.joules_per_byte_sent == pytest.approx(wifi.sent, rel=0.05)
    assert told.joules_per_byte_received == pytest.approx(wifi.received, rel=0.05)
    # 10 steps of 10 samples in a window of 0.3 s of the processor, which is more of a slow phone's.
    of_model = cpu_watts(PROFILE) / PROFILE.cpu_share * 0.3 / (1e6 * 100)
    assert told.joules_per_mac == pytest.approx(of_model, rel=0.1)


async def test_every_way_to_read_a_virtual_phone_tells_the_same_energy(tmp_path: Path, key: Path) -> None:
    pytest.importorskip("perfetto", reason="extra energy is not installed")
    with phones.running(1, tmp_path, programs=STAND_IN, preload=()) as (info,):
        async with await AdbDevice.connect(info.serial, key=key) as device:
            await device.shell("dumpsys battery unplug")
            meters, _ = await readable_of(device, "Google", virtual=True)
            counting = [meter for meter in meters if isinstance(await meter.read(), Reading)]
            assert {meter.name for meter in meters} >= set(METERS) - {"PowerMonitor", "power rails (iio)"}
            began = time.monotonic()
            first = [await meter.read() for meter in counting]
            await device.push(b"x" * 4_000_000, "/data/local/tmp/moved")
            await asyncio.sleep(2 * LEAST_SECONDS)  # a phone's state may be as old as that
            last = [await meter.read() for meter in counting]
            took = time.monotonic() - began
    whole = {
        before.source: used(before, after).joules
        for before, after in zip(first, last, strict=True)
        if isinstance(before, Reading) and isinstance(after, Reading) and "shell" not in before.source
    }
    assert len(whole) >= 4
    received = 4_000_000 * RADIOS["wifi"].received
    for joules in whole.values():  # readings are not at the same moments: idling between them counts, too
        assert received < joules < received + 2 + IDLE_AT_MOST * took


async def test_throttled_rounds_are_dropped_and_a_missing_phone_is_told(tmp_path: Path, key: Path) -> None:
    with phones.running(1, tmp_path, programs=STAND_IN, preload=()) as (info,):
        async with await AdbDevice.connect(info.serial, key=key) as device:
            await device.shell("cmd thermalservice override-status 3")
        found = [Found(info.serial, "virtual"), Found("127.0.0.1:9", "tcp")]
        measured = await measure(found, PROGRAMS, lambda *_: None, quick=True, here=False, key=key)
    (figures,) = measured.figures
    assert set(figures.dropped) == {"throttled"}
    assert measured.rows() == []
    assert set(measured.missing) == {"127.0.0.1:9"}
    assert measured.devices()[0]["constants"]["joules_per_mac"] is None


async def test_a_time_too_short_for_all_windows_is_told(tmp_path: Path, key: Path) -> None:
    too_short = pytest.raises(FleetError, match=r"1 s are 0\.05 s for each of 20 windows.*more --seconds")
    with phones.running(1, tmp_path, programs=STAND_IN, preload=()) as (info,), too_short:
        found = [Found(info.serial, "virtual")]
        await measure(found, PROGRAMS, lambda *_: None, seconds=1, here=False, key=key)


@pytest.mark.parametrize(
    ("words", "error", "match"),
    [
        (["--meter", "voltmeter"], ConfigError, "there is no meter 'voltmeter'; there are: virtual"),
        (["--plot", "joules.bmp"], ConfigError, r"a plot is \.svg, \.png or \.pdf"),
        (["--no-here"], FleetError, "no phones"),
        (["--model", "mlp:8"], ConfigError, "mlp"),
    ],
)
def test_wrong_options_are_told_before_the_work(
    words: list[str],
    error: type[Exception],
    match: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CROWDLEARN_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=match):
        CliRunner().invoke(build(["measure"]), ["measure", *words], catch_exceptions=False)


def test_a_fleet_file_tells_constants_with_their_provenance() -> None:
    facts = [parse_facts(name, REAL_ANSWER.replace("0123abcd", name)) for name in ("a", "b")]
    energies = [
        Constants(0.2, 2e-10, 2e-6, 1e-6, "measured", "perfetto android.power rails, rail, beyond idle"),
        Constants(0.3, 3e-10, 1e-6, 1e-6, "measured", "perfetto android.power rails, rail, beyond idle"),
    ]
    phones_of = [
        Measured(f, MeasuredLink(0.1, 1e6, 1e6), 1e9, e) for f, e in zip(facts, energies, strict=True)
    ]
    fleet = Fleet.model_validate(tomllib.loads(fleet_toml(phones_of, samples=1)))
    (kind,) = fleet.classes
    assert kind.power == (3e-10, 2e-6, 1e-6)
    assert (kind.idle_watts, kind.energy_provenance) == (0.3, "measured")
    assert kind.energy_source.startswith("perfetto")
    missing = [
        Measured(facts[0], MeasuredLink(0.1, 1e6, 1e6), 1e9, Constants(0.2, None, None, None, "", "no meter"))
    ]
    assert "joules" not in fleet_toml(missing, samples=1)
