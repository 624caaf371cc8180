"""Batteries of eight phones of five makers are read right, in every unit and sign; a charger is refused."""

from __future__ import annotations

import pytest
from crowdlearn_device.energy.gauge import Gauge, from_sysfs, read_dumpsys, read_uevent
from crowdlearn_device.errors import MeterError
from hypothesis import given
from hypothesis import strategies as st

from .recorded import RECORDED, UNITS, Recorded


def gauge_of(recorded: Recorded) -> Gauge:
    read = {"dumpsys": read_dumpsys, "uevent": read_uevent}[recorded.by]
    return read(recorded.says, recorded.maker)


def test_there_are_eight_phones_of_five_makers() -> None:
    assert len({r.phone for r in RECORDED}) >= 8
    assert len({r.maker for r in RECORDED}) >= 5


@pytest.mark.parametrize("recorded", RECORDED, ids=lambda recorded: recorded.phone)
def test_what_a_phone_said_is_read_right(recorded: Recorded) -> None:
    gauge = gauge_of(recorded)
    assert gauge.volts == pytest.approx(recorded.volts)
    assert (gauge.percent, gauge.celsius) == (recorded.percent, recorded.celsius)
    assert gauge.coulombs == pytest.approx(recorded.coulombs)
    if recorded.charger:
        with pytest.raises(MeterError, match=r"on a charger .*unplug it"):
            gauge.check_unplugged()
    else:
        gauge.check_unplugged()


@given(st.sampled_from(sorted(UNITS)), st.floats(0.05, 8.0), st.booleans())
def test_a_discharging_battery_s_current_is_the_same_in_every_unit_and_sign(
    phone: str, amperes: float, negative: bool
) -> None:
    maker, unit, _ = UNITS[phone]
    told = round(amperes / unit) * (-1 if negative else 1)
    fields = {"status": "Discharging", "voltage_now": "3900000", "current_now": str(told)}
    gauge = from_sysfs(fields, maker)
    assert gauge.amperes == pytest.approx(amperes, abs=unit)
    assert gauge.watts == pytest.approx(3.9 * amperes, abs=4 * unit)


@pytest.mark.parametrize(
    ("fields", "maker", "words"),
    [
        ({"voltage_now": "13"}, "", "which is no cell's"),
        ({}, "", "which is no cell's"),
        (
            {"voltage_now": "3900000", "status": "Discharging", "current_now": "976"},
            "Fairphone",
            r"milliampere",
        ),
        (
            {"voltage_now": "3900000", "status": "Discharging", "current_now": "99000000"},
            "",
            "no phone draws",
        ),
    ],
)
def test_what_cannot_be_true_is_refused(fields: dict[str, str], maker: str, words: str) -> None:
    with pytest.raises(MeterError, match=words):
        from_sysfs(fields, maker)


def test_a_battery_without_a_current_has_no_power() -> None:
    gauge = from_sysfs({"voltage_now": "3900000", "status": "Discharging", "current_now": "0"}, "Google")
    with pytest.raises(MeterError, match="reports no current"):
        _ = gauge.watts


def test_what_android_was_told_to_say_is_no_reading() -> None:
    said = "Current Battery Service state:\n  (UPDATES STOPPED)\n  voltage: 3900\n"
    with pytest.raises(MeterError, match="dumpsys battery reset"):
        read_dumpsys(said)
    with pytest.raises(MeterError, match="is it an Android phone"):
        read_dumpsys("sh: dumpsys: not found")
