"""Meters over adb read what real phones told, and refuse what cannot be trusted with what to do."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from crowdlearn_device.energy.readings import Covers, Power, Provenance, Reading, used
from crowdlearn_device.errors import MeterError
from crowdlearn_host.energy.meters import METERS, readable_of
from crowdlearn_host.energy.meters.base import AdbMeter
from crowdlearn_host.energy.meters.battery import DumpsysBattery, SysfsBattery
from crowdlearn_host.energy.meters.perfetto import TRACE, PerfettoBattery, PerfettoRails, read_trace
from crowdlearn_host.energy.meters.power_monitor import MONITORS, PowerMonitor
from crowdlearn_host.energy.meters.rails import FILES, IioRails, apart, read_rails
from crowdlearn_host.energy.meters.stats import BatteryStats, ShellStats
from crowdlearn_host.energy.meters.virtual import VirtualModel

from tests.device_runtime.energy.recorded import RECORDED, Recorded
from tests.host.energy.fake_phone import UNPLUGGED, FakePhone
from tests.host.energy.recorded import PIXEL_6, PIXEL_6_LATER, STATS

BATTERY = "dumpsys battery"
APP = Path(__file__).parents[3] / "android_app/app/src/main/java/org/crowdlearn/device"
UEVENT = "cat /sys/class/power_supply/battery/uevent"
PERFETTO = f"perfetto --txt -c - -o {TRACE}"
DISCHARGING = "STATUS=Discharging\nVOLTAGE_NOW=3985000\nCURRENT_NOW=-411000\n"


def trace(rails: dict[str, int], **battery: int) -> bytes:
    """A trace as Android writes it: rails are described in the first packet only."""
    messages = pytest.importorskip(
        "perfetto.protos.perfetto.trace.perfetto_trace_pb2", reason="extra energy is not installed"
    )
    written = messages.Trace()
    for tick in range(2):
        packet = written.packet.add(timestamp=tick)
        for index, (name, energy) in enumerate(rails.items()):
            if tick == 0:
                packet.power_rails.rail_descriptor.add(index=index, rail_name=name)
            packet.power_rails.energy_data.add(index=index, energy=energy * (1 + tick))
    if battery:
        written.packet.add(battery=messages.BatteryCounters(**battery))
    return written.SerializeToString()


def phone_of(meter: str) -> FakePhone:
    """A phone, unplugged, that has what a meter reads."""
    answers = {
        "dumpsys battery": UNPLUGGED.replace("level", "Charge counter: 2849000\n  level"),
        "sysfs power supply": DISCHARGING,
        "power rails (iio)": PIXEL_6,
        "dumpsys batterystats": STATS["Meizu m2 note"][0],
        "dumpsys batterystats, shell": STATS["Meizu m2 note"][0],
        "PowerMonitor": "S4M_VDD_CPUCL0\tmeasurement\t46356942\t349894\nCPU\tconsumer\t9\t349894\n",
        "virtual phone's model": f"{UNPLUGGED}  modelled energy used (mJ): 4200\n",
    }
    files = {}
    if meter.startswith("perfetto"):
        files[TRACE] = trace({"S4M_VDD_CPUCL0": 46356942}, current_ua=411_000, voltage_uv=3_985_000)
    commands = {
        "sysfs power supply": UEVENT,
        "power rails (iio)": f"cat {FILES}",
        "dumpsys batterystats": "dumpsys batterystats --charged",
        "dumpsys batterystats, shell": "dumpsys batterystats --charged",
        "PowerMonitor": f"content read --uri {MONITORS}",
    }
    told = {commands.get(meter, BATTERY): answers.get(meter, "")} if meter in answers else {PERFETTO: ""}
    return FakePhone({BATTERY: UNPLUGGED, f"rm -f {TRACE}": "", **told}, files=files)


@pytest.mark.parametrize("name", METERS)
async def test_a_reading_says_what_it_is(name: str) -> None:
    reading = await METERS[name](phone_of(name), "Google").read()
    assert reading.source == name
    assert reading.provenance is (
        Provenance.MODELLED if "stats" in name or "virtual" in name else Provenance.MEASURED
    )
    assert reading.covers in Covers
    assert reading.resolution > 0
    assert reading.celsius == 29.4
    assert (reading.unit, isinstance(reading, Power)) in (("J", False), ("W", True))


@pytest.mark.parametrize("name", METERS)
async def test_a_virtual_phone_s_readings_are_modelled_whichever_meter_it_imitates(name: str) -> None:
    reading = await METERS[name](phone_of(name), "Google", virtual=True).read()
    assert reading.provenance is Provenance.MODELLED


@pytest.mark.parametrize("name", METERS)
async def test_a_charger_is_refused_by_every_meter(name: str) -> None:
    phone = phone_of(name)
    plugged = UNPLUGGED.replace("USB powered: false", "USB powered: true").replace("status: 3", "status: 2")
    with pytest.raises(MeterError, match=r"on a charger .*unplug it"):
        await METERS[name](FakePhone({**phone.answers, BATTERY: plugged}), "Google").read()


@pytest.mark.parametrize("name", METERS)
async def test_a_phone_without_the_meter_is_told_what_to_do(name: str) -> None:
    with pytest.raises(MeterError, match=r"use another meter|another meter"):
        await METERS[name](FakePhone({BATTERY: UNPLUGGED}), "Google").read()


async def test_a_meter_without_permission_is_told() -> None:
    phone = FakePhone({BATTERY: UNPLUGGED, UEVENT: DISCHARGING}, denied=("/sys/",))
    for meter in (SysfsBattery, IioRails):
        with pytest.raises(MeterError, match=r"the phone's shell may not read it .*root"):
            await meter(phone, "Google").read()


async def test_readable_meters_come_in_the_order_in_which_they_are_trusted() -> None:
    phone = FakePhone({**phone_of("power rails (iio)").answers, UEVENT: DISCHARGING})
    found, why = await readable_of(phone, "Google")
    assert [meter.name for meter in found] == ["power rails (iio)", "sysfs power supply"]
    assert {*why, *(meter.name for meter in found)} == {*METERS}


@pytest.mark.parametrize("recorded", RECORDED, ids=lambda recorded: recorded.phone)
async def test_a_fake_phone_of_recorded_answers_is_read_right(recorded: Recorded) -> None:
    if recorded.by == "dumpsys":
        meter: AdbMeter = DumpsysBattery(FakePhone({BATTERY: recorded.says}), recorded.maker)
    else:
        meter = SysfsBattery(FakePhone({BATTERY: UNPLUGGED, UEVENT: recorded.says}), recorded.maker)
    if recorded.charger:
        with pytest.raises(MeterError, match="on a charger"):
            await meter.read()
        return
    reading = await meter.read()
    assert isinstance(reading, Reading)
    assert recorded.coulombs is not None
    assert reading.resolution == pytest.approx(recorded.volts * 3.6)  # 2849000: milliampere-hours


@pytest.mark.parametrize(
    ("maker", "current"),
    [("Google", "-411000"), ("samsung", "-411"), ("OnePlus", "411"), ("Xiaomi", "411000")],
)
async def test_power_is_the_same_in_every_maker_s_unit_and_sign(maker: str, current: str) -> None:
    says = DISCHARGING.replace("-411000", current)
    reading = await SysfsBattery(FakePhone({BATTERY: UNPLUGGED, UEVENT: says}), maker).read()
    assert isinstance(reading, Power)
    assert reading.watts == pytest.approx(3.985 * 0.411)


async def test_charge_that_left_the_battery_is_energy() -> None:
    left = iter(["2849000", "2849000", "2839000", "2839000"])

    def charge() -> str:
        return UNPLUGGED.replace("level", f"Charge counter: {next(left)}\n  level")

    meter = DumpsysBattery(FakePhone({BATTERY: charge}), "OnePlus")
    first, _, last = await meter.read(), await meter.read(), await meter.read()
    assert isinstance(first, Reading)
    assert isinstance(last, Reading)
    assert last.joules - first.joules == pytest.approx(10_000e-6 * 3600 * 3.985)
    assert used(first, last).joules > 0


def test_rails_of_a_pixel_are_read_and_told_apart() -> None:
    rails = read_rails(PIXEL_6)
    assert len(rails) == 10
    assert rails["S2M_VDD_CPUCL2"] == pytest.approx(30.203502)
    compute, radio, rest = apart(rails)
    assert radio == pytest.approx(45.993209)
    assert rest == pytest.approx(81.221665 + 2.822928)
    assert compute + radio + rest == pytest.approx(sum(rails.values()))
    later = apart(read_rails(PIXEL_6_LATER))
    assert later[1] == pytest.approx(48.480309 + 9.594393)
    assert read_rails("no rails") == {}


@pytest.mark.parametrize("phone", STATS)
async def test_android_s_estimate_is_read_right(phone: str) -> None:
    text, milliampere_hours, step, of_shell, _ = STATS[phone]
    answers = {BATTERY: UNPLUGGED, "dumpsys batterystats --charged": text}
    reading = await BatteryStats(FakePhone(answers), "").read()
    assert isinstance(reading, Reading)
    assert reading.joules == pytest.approx(milliampere_hours * 3.6 * 3.985)
    assert reading.resolution == pytest.approx(step * 3.6 * 3.985)
    if of_shell is None:
        with pytest.raises(MeterError, match="no estimate of this yet"):
            await ShellStats(FakePhone(answers), "").read()
    else:
        shell = await ShellStats(FakePhone(answers), "").read()
        assert isinstance(shell, Reading)
        assert (shell.covers, shell.joules) == (Covers.PROCESS, pytest.approx(of_shell * 3.6 * 3.985))


async def test_a_trace_tells_rails_and_battery() -> None:
    content = trace({"S2M_VDD_CPUCL2": 30203502, "VSYS_PWR_WLAN_BT": 45993209}, current_ua=-411_000)
    told = read_trace(content)
    assert told.rails == pytest.approx({"S2M_VDD_CPUCL2": 60.407004, "VSYS_PWR_WLAN_BT": 91.986418})
    phone = FakePhone({BATTERY: UNPLUGGED, PERFETTO: "", f"rm -f {TRACE}": ""}, files={TRACE: content})
    rails, battery = PerfettoRails(phone, "Google"), PerfettoBattery(phone, "Google")
    reading, power = await rails.read(), await battery.read()
    assert isinstance(reading, Reading)
    assert reading.joules == pytest.approx(60.407004 + 91.986418)
    assert isinstance(power, Power)
    assert power.watts == pytest.approx(3.985 * 0.411)  # the voltage is Android's where perfetto has none


def test_a_damaged_trace_is_told() -> None:
    trace({})
    with pytest.raises(MeterError, match="trace is damaged"):
        read_trace(b"\xff\xff\xff")


async def test_a_phone_that_meters_no_rails_is_told() -> None:
    content = trace({}, capacity_percent=80)
    phone = FakePhone({BATTERY: UNPLUGGED, PERFETTO: "", f"rm -f {TRACE}": ""}, files={TRACE: content})
    with pytest.raises(MeterError, match="meters no rails"):
        await PerfettoRails(phone, "Google").read()


async def test_no_real_phone_is_taken_for_a_virtual_one() -> None:
    with pytest.raises(MeterError, match="no virtual phone"):
        await VirtualModel(FakePhone({BATTERY: UNPLUGGED}), "Google").read()


async def test_the_app_that_has_no_monitors_is_told() -> None:
    answers = {BATTERY: UNPLUGGED, f"content read --uri {MONITORS}": "[ERROR] No provider"}
    with pytest.raises(MeterError, match="install the app"):
        await PowerMonitor(FakePhone(answers), "Google").read()


SAY = """package org.crowdlearn.device;

public final class Say {
  public static void main(String[] words) {
    System.out.print(MonitorLine.of("S4M_VDD\\tCPUCL0", true, 46356942L, 349894L));
    System.out.print(MonitorLine.of("CPU", false, 9L, 349894L));
    System.out.print(MonitorLine.of("VSYS_PWR_WLAN_BT", true, Long.MAX_VALUE, 349894L));
  }
}
"""
"""A main that prints what the app's provider would, of rails of a Pixel 6 and the largest number."""


@pytest.mark.skipif(shutil.which("javac") is None, reason="no javac: apt-get install openjdk-17-jdk-headless")
async def test_the_lines_of_the_app_s_provider_are_read(tmp_path: Path) -> None:
    (tmp_path / "Say.java").write_text(SAY)
    sources = [str(APP / "MonitorLine.java"), str(tmp_path / "Say.java")]
    subprocess.run(["javac", "-proc:none", "-d", str(tmp_path), *sources], check=True)
    say = ["java", "-cp", str(tmp_path), "org.crowdlearn.device.Say"]
    lines = subprocess.run(say, check=True, capture_output=True, text=True).stdout
    answers = {BATTERY: UNPLUGGED, f"content read --uri {MONITORS}": lines}
    meter = PowerMonitor(FakePhone(answers), "Google")
    await meter.read()
    assert meter.rails == pytest.approx({"S4M_VDD CPUCL0": 46.356942, "VSYS_PWR_WLAN_BT": (2**63 - 1) / 1e6})
