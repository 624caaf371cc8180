"""Every meter tells where its readings come from, or why it cannot be read and what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from crowdlearn_device.energy.meters import METERS, BatteryMeter, Meter, RaplMeter, readable
from crowdlearn_device.energy.readings import Covers, Power, Provenance, Reading, integrated, used
from crowdlearn_device.errors import MeterError


def battery(folder: Path, **files: str) -> BatteryMeter:
    supply = folder / "battery"
    supply.mkdir()
    told = {"type": "Battery", "status": "Discharging", "voltage_now": "4000000", "current_now": "-500000"}
    for name, content in (told | files).items():
        (supply / name).write_text(content + "\n")
    return BatteryMeter(folder, "Google")


def rapl(folder: Path, microjoules: int) -> RaplMeter:
    package = folder / "intel-rapl:0"
    package.mkdir(exist_ok=True)
    (package / "energy_uj").write_text(f"{microjoules}\n")
    (package / "max_energy_range_uj").write_text("1000000\n")
    return RaplMeter(folder)


@pytest.mark.parametrize("make", [battery, lambda folder: rapl(folder, 5)], ids=["battery", "RAPL"])
async def test_a_reading_says_where_it_comes_from(tmp_path: Path, make: Callable[[Path], Meter]) -> None:
    meter = make(tmp_path)
    reading = await meter.read()
    assert meter.name in METERS
    assert (reading.source, reading.provenance) == (meter.name, Provenance.MEASURED)
    assert reading.covers in Covers
    assert reading.resolution > 0
    assert reading.unit in ("J", "W")


async def test_a_virtual_battery_is_modelled(tmp_path: Path) -> None:
    reading = await battery(tmp_path, model_name="virtual (modelled)").read()
    assert reading.provenance is Provenance.MODELLED


async def test_a_meter_of_this_computer_reads_or_says_what_to_do() -> None:
    found, why = await readable()
    assert {*why, *(meter.name for meter in found)} == {*METERS}
    for reason in why.values():
        assert any(word in reason for word in ("use", "run", "has none", "unplug", "measure"))


async def test_meters_that_cannot_be_read_are_told_with_the_reason(tmp_path: Path) -> None:
    found, why = await readable({"sysfs power supply": lambda: BatteryMeter(tmp_path)})
    assert not found
    assert "has no battery" in why["sysfs power supply"]


async def test_a_battery_s_power_is_volts_times_amperes(tmp_path: Path) -> None:
    reading = await battery(tmp_path).read()
    assert reading.watts == pytest.approx(2.0)


async def test_a_charging_battery_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MeterError, match="on a charger"):
        await battery(tmp_path, status="Charging").read()


async def test_a_counter_that_wraps_goes_on(tmp_path: Path) -> None:
    meter = rapl(tmp_path, 900_000)
    first = await meter.read()
    rapl(tmp_path, 100_000)
    last = await meter.read()
    assert last.joules - first.joules == pytest.approx(0.2)


def reading(joules: float, seconds: float, **changes: object) -> Reading:
    values: dict[str, object] = {
        "source": "meter",
        "provenance": Provenance.MEASURED,
        "covers": Covers.PHONE,
        "resolution": 0.1,
    }
    return Reading(joules, seconds, **(values | changes))  # type: ignore[arg-type]


def test_energy_is_the_difference_of_two_readings() -> None:
    between = used(reading(1, 10), reading(5, 12))
    assert (between.joules, between.seconds, between.watts) == (4, 2, 2)


@pytest.mark.parametrize(
    ("last", "words"),
    [
        (reading(1.5, 12), r"too little .* measure until 1 J"),
        (reading(0, 12), "ran backward"),
        (reading(9, 12, source="other"), "cannot be compared"),
    ],
)
def test_a_difference_that_means_nothing_is_refused(last: Reading, words: str) -> None:
    with pytest.raises(MeterError, match=words):
        used(reading(1, 10), last)


def test_power_is_integrated_by_the_trapezoidal_rule() -> None:
    def at(watts: float, seconds: float) -> Power:
        return Power(watts, seconds, "meter", Provenance.MEASURED, Covers.PHONE, 1e-6)

    total = integrated([at(1, 0), at(3, 1), at(3, 3)])
    assert (total.joules, total.seconds) == (2 + 6, 3)
    with pytest.raises(MeterError, match="twice at least"):
        integrated([at(1, 0)])
