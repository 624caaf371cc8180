"""Figures are medians over kept rounds, beyond idling, and none that cannot be trusted."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest
from crowdlearn_device.energy.meters import Meter
from crowdlearn_device.energy.readings import Covers, Power, Provenance, Reading, Used
from crowdlearn_device.energy.step_time import StepTime
from crowdlearn_device.errors import MeterError
from crowdlearn_host.energy.experiment import Kind, Window, run_rounds
from crowdlearn_host.energy.figures import COLUMNS, Figures, as_csv
from crowdlearn_host.energy.published import PUBLISHED, deviation
from crowdlearn_host.energy.subject import Condition, Edge, Program, Subject
from crowdlearn_host.energy.table import shown
from crowdlearn_host.errors import FleetError

BATCH, MACS = 10, 1e6
TRAFFIC = {"int8": (300.0, 100.0), "float32": (1200.0, 400.0)}
PROGRAMS = [
    Program("whole network", MACS, BATCH, {}),
    Program("follower of 3", MACS / 2, BATCH, {}, traffic=TRAFFIC),
]
IDLE, WATTS, STEP = 0.5, 3.0, 0.01
SENT, RECEIVED = 2e-6, 1e-6


class Counter(Meter):
    """A meter whose joules a test counts up."""

    name = "counter"

    def __init__(self, resolution: float = 1e-6) -> None:
        self.joules = self.seconds = 0.0
        self.resolution = resolution

    async def read(self) -> Reading | Power:
        return Reading(
            self.joules, self.seconds, self.name, Provenance.MEASURED, Covers.PHONE, self.resolution, 30.0
        )


class Device(Subject):
    """A device that draws IDLE watts at rest and WATTS more while it computes; time is the meter's own."""

    model, virtual, has_radio = "Fairphone 4", False, True
    time_provenance, time_source = Provenance.MEASURED, "a test's clock"
    peak_gflops = 100.0

    def __init__(self, name: str, meter: Counter | None, conditions: list[Condition] | None = None) -> None:
        self.name, self.meter = name, meter
        self._conditions = list(conditions or [])
        self.installed: list[Program] = []

    async def condition(self) -> Condition:
        return self._conditions.pop(0) if self._conditions else Condition(False, 60, 31.0, 0)

    async def install(self, programs: list[Program]) -> None:
        self.installed = programs

    async def step(self, program: Program, seconds: float, begin: Edge, end: Edge) -> StepTime:
        await begin()
        steps = 20
        took = STEP * program.macs / MACS
        self._spend(steps * took, WATTS)
        await end()
        return StepTime(steps, BATCH, steps * took, {"forward": steps * took}, 1 << 20)

    async def move(self, up: bool, seconds: float) -> int:
        count = 1_000_000
        self._spend(1.0, count * (SENT if up else RECEIVED))
        return count

    def _spend(self, seconds: float, watts: float) -> None:
        if isinstance(self.meter, Counter):
            self.meter.seconds += seconds
            self.meter.joules += seconds * (IDLE + watts)


def window(kind: Kind, used: Used | None, **changes: Any) -> Window:
    told: dict[str, Any] = {
        "program": "",
        "parts": None,
        "timed": None,
        "moved": 0,
        "celsius": 31.0,
        "dropped": "",
        "why": "",
    }
    return Window(kind, used=used, **(told | changes))


def energy(joules: float, seconds: float, resolution: float = 1e-6) -> Used:
    return Used(joules, seconds, "counter", Provenance.MEASURED, Covers.PHONE, resolution)


def rested(windows: list[Window]) -> list[Window]:
    """The windows, with the energy of idling that a test's clock does not see pass."""
    return [window(Kind.IDLE, energy(IDLE, 1.0)), *windows]


async def measured(device: Device, rounds: int = 3) -> Figures:
    (windows,) = await run_rounds([device], PROGRAMS, rounds, 0.0, lambda *_: None)
    return Figures(device, rested([w for w in windows if w.kind is not Kind.IDLE]), PROGRAMS)


async def test_joules_are_those_beyond_idling_and_computing_and_radio_are_told_apart() -> None:
    figures = await measured(Device("phone", Counter()))
    by = {(row["program"], row["wire"], row["stage"]): row for row in figures.rows()}
    whole, follower = by["whole network", "", ""], by["follower of 3", "int8", ""]
    assert whole["joules"] == pytest.approx(WATTS * STEP / BATCH)
    assert whole["joules a mini-batch"] == pytest.approx(WATTS * STEP)
    assert whole["gflops"] == pytest.approx(2 * MACS * BATCH / STEP / 1e9)
    assert whole["peak %"] == pytest.approx(whole["gflops"])
    assert follower["radio joules"] == pytest.approx(300 * SENT + 100 * RECEIVED)
    assert follower["joules"] == pytest.approx(follower["compute joules"] + follower["radio joules"])
    assert follower["joules a MB"] == pytest.approx(1e6 * (300 * SENT + 100 * RECEIVED) / 400)
    assert by["follower of 3", "float32", ""]["bytes"] == 1600
    assert by["whole network", "", "forward"]["ms"] == pytest.approx(1e3 * STEP)


async def test_constants_are_fitted_to_what_was_measured() -> None:
    constants = (await measured(Device("phone", Counter()))).constants
    assert constants.idle_watts == pytest.approx(IDLE)
    assert constants.joules_per_mac == pytest.approx(WATTS * STEP / (MACS * BATCH))
    assert (constants.joules_per_byte_sent, constants.joules_per_byte_received) == (
        pytest.approx(SENT),
        pytest.approx(RECEIVED),
    )
    assert (constants.provenance, constants.complete, constants.why) == ("measured", True, "")


async def test_no_number_is_without_its_provenance() -> None:
    for meter in (Counter(), None):
        rows = (await measured(Device("phone", meter))).rows()
        assert rows
        for row in rows:
            for column, told in COLUMNS.items():
                assert row[column] is None or row[told]
            assert row["source"]
            assert row["provenance"] in [*Provenance]
        for row in csv.DictReader(io.StringIO(as_csv(rows))):
            assert row["provenance"]
            assert row["source"]
            assert row["time provenance"]
    assert as_csv([]) == ""


async def test_a_device_without_a_meter_tells_its_time_and_why_it_has_no_joules() -> None:
    device = Device("phone", None)
    device.unread = {"RAPL": "it has none"}
    figures = await measured(device)
    row = figures.rows()[0]
    assert (row["joules"], row["ms"]) == (None, pytest.approx(1e3 * STEP))
    assert row["source"] == "no meter: it has none"
    assert shown(row, "provenance") == "no figure"
    assert figures.constants.why.startswith("J/MAC, J/byte sent, J/byte received: no meter")


async def test_what_is_smaller_than_the_meter_s_steps_is_not_told() -> None:
    figures = await measured(Device("phone", Counter(resolution=0.1)))
    row = figures.rows()[0]
    assert row["joules"] is None
    assert "measure until 1 J are used" in row["source"]
    assert figures.constants.joules_per_mac is None


async def test_throttled_and_charging_rounds_are_dropped_and_counted() -> None:
    good, hot, charging = Condition(False, 60, 31.0, 0), Condition(False, 60, 45.0, 2), Condition(True, 60)
    # Before and after each of a round's five windows: idle, two programs, send, receive.
    conditions = [good, good, good, hot, good, good, charging, charging]
    figures = await measured(Device("phone", Counter(), conditions))
    assert figures.dropped == {"throttled": 1, "charging": 1}
    assert figures.rows()[0]["rounds"] == 2
    assert figures.rows()[0]["dropped"] == 2


async def test_rounds_are_interleaved_and_every_second_one_is_reversed() -> None:
    told: list[str] = []
    devices = [Device("a", Counter()), Device("b", None)]
    await run_rounds(devices, PROGRAMS, 2, 0.0, lambda what, number, of: told.append(what))
    one = ["a: idle", "a: whole network", "a: follower of 3", "a: send", "a: receive"]
    other = ["b: whole network", "b: follower of 3"]
    assert told == [
        *(f"round 1, {what}" for what in [*one, *other]),
        *(f"round 2, {what}" for what in [*one[::-1], *other[::-1]]),
    ]


async def test_a_device_that_fails_is_left_out_with_the_reason() -> None:
    class Broken(Device):
        async def step(self, program: Program, seconds: float, begin: Edge, end: Edge) -> StepTime:
            raise FleetError("the cable is out; put it back")

    device = Broken("phone", Counter())
    (windows,) = await run_rounds([device], PROGRAMS, 2, 0.0, lambda *_: None)
    figures = Figures(device, windows, PROGRAMS)
    assert figures.failure == "the cable is out; put it back"
    assert figures.rows() == []


async def test_a_meter_that_is_on_a_charger_gives_no_energy() -> None:
    class Charging(Counter):
        async def read(self) -> Reading | Power:
            raise MeterError("the phone is on a charger; unplug it")

    device = Device("phone", Charging())
    (windows,) = await run_rounds([device], PROGRAMS, 1, 0.0, lambda *_: None)
    figures = Figures(device, windows, PROGRAMS)
    assert all(row["joules"] is None for row in figures.rows())
    assert "unplug it" in figures.rows()[0]["source"]


def test_published_measurements_are_of_phones_and_compared_in_percent() -> None:
    assert len({published.source for published in PUBLISHED}) >= 2
    row = deviation(PUBLISHED[0], 0.2e-9)
    assert row["joules"] == pytest.approx(0.2e-9 * 519e6)
    assert row["within"]
    assert row["deviation %"] == pytest.approx(100 * (row["joules"] / row["published joules"] - 1))
