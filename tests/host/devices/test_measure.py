"""Measuring phones, and the fleet file that comes of it."""

import json
import tomllib
from pathlib import Path

import pytest
from crowdlearn_device.cli import main
from crowdlearn_device.energy.step_time import measure_step
from crowdlearn_device.program.executor import ProgramStore
from crowdlearn_device.program.kernels import KernelChoice, Timed
from crowdlearn_host import emulator as phones
from crowdlearn_host.adb import AdbDevice
from crowdlearn_host.devices.facts import parse_facts, read_facts
from crowdlearn_host.devices.fleet_file import Measured, fleet_toml
from crowdlearn_host.devices.measuring import (
    MeasuredKernels,
    MeasuredLink,
    Probe,
    measure_link,
    measure_macs,
    measure_messages,
)
from crowdlearn_host.devices.probe import build_kernel_probe, build_probe
from crowdlearn_host.errors import FleetError

from tests.host.conftest import STAND_IN
from tests.host.devices.test_fleet import REAL_ANSWER


async def test_a_phone_is_measured(tmp_path: Path, key: Path) -> None:
    probe = Probe({"program.pte": b"p"}, "0" * 64, macs_a_sample=1000.0)
    link = phones.LinkModel(down=400, up=200, round_trip=4)
    with phones.running(1, tmp_path, programs=STAND_IN, preload=(), link=link) as (info,):
        async with await AdbDevice.connect(info.serial, key=key) as device:
            measured = Measured(
                await read_facts(device), await measure_link(device), await measure_macs(device, probe)
            )
            assert await measure_messages(device) == 1e-4
            with pytest.raises(FleetError, match="inaccessible or not found"):
                await measure_messages(device, program=["no-such-program"])
    assert measured.macs_per_second == 2_000_000
    assert measured.link.round_trip >= 0.004
    assert 0 < measured.link.up <= 25_000_000
    assert 0 < measured.link.down <= 50_000_000
    (kind,) = tomllib.loads(fleet_toml([measured], samples=7))["class"]
    assert (kind["name"], kind["devices"], kind["samples"]) == ("Google Pixel 8", ["phone-0"], 7)


async def test_a_phone_without_the_runtime_is_told(device: AdbDevice) -> None:
    probe = Probe({}, "0" * 64, macs_a_sample=1.0)
    with pytest.raises(FleetError, match="inaccessible or not found"):
        await measure_macs(device, probe, program=["no-such-program"])


def test_the_probe_is_a_program_that_the_runtime_can_time(tmp_path: Path, programs: Path) -> None:
    probe = build_probe(programs, widths=(8, 6, 4))
    # The one follower of two owns half of the six hidden neurons: 3 x 4 products, three times.
    assert probe.macs_a_sample == 36
    for name, content in probe.files.items():
        (tmp_path / name).write_bytes(content)
    measured = measure_step(ProgramStore(tmp_path), probe.sha256, 0.01)
    assert measured.steps >= 1
    assert measured.batch == 32


def test_a_device_tells_what_it_chose_between_kernels(
    tmp_path: Path, programs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    probe = build_kernel_probe(programs)
    for name, content in probe.files.items():
        (tmp_path / name).write_bytes(content)
    words = ["measure", "--programs", str(tmp_path), "--program", probe.sha256, "--seconds", "0"]
    assert main(words) == 0
    told = KernelChoice.from_json(json.dumps(json.loads(capsys.readouterr().out)["kernels"]))
    assert not told.emulated
    assert told.methods
    assert set(told.methods) <= set(probe.sizes)
    assert main(words) == 0  # the choice is written beside the program, and is not made again
    assert json.loads(capsys.readouterr().out)["kernels"] == json.loads(told.to_json())


def test_the_fleet_file_tells_what_was_chosen() -> None:
    facts = parse_facts("a", REAL_ANSWER)
    link = MeasuredLink(0.01, 100.0, 900.0)
    timed = {"forward_1": Timed("xnnpack", 0.2, 0.1)}
    for chosen, told in (
        (
            MeasuredKernels("arm64-v8a", False, 98_304, timed),
            "timed: XNNPACK's from 98,304 multiplications on",
        ),
        (MeasuredKernels("arm64-v8a", False, None, timed), "timed: XNNPACK's for none"),
        (MeasuredKernels("arm64-v8a", True, None, {}), "kernels on arm64-v8a: chosen by size"),
    ):
        text = fleet_toml([Measured(facts, link, 1e9, kernels=chosen)], samples=1)
        assert told in text
        assert tomllib.loads(text)["class"]


def test_the_runtime_times_messages_between_devices(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["messages"]) == 0
    assert 0 < json.loads(capsys.readouterr().out)["message_seconds"] < 1


def test_a_class_is_as_slow_as_its_slowest_member() -> None:
    facts = [parse_facts(name, REAL_ANSWER.replace("0123abcd", name)) for name in ("a", 'b"')]
    measured = [
        Measured(facts[0], MeasuredLink(0.01, 100.0, 900.0), 5e9, message_seconds=1e-4),
        Measured(facts[1], MeasuredLink(0.02, 300.0, 200.0), 4e9, message_seconds=2.54321e-4),
    ]
    (kind,) = tomllib.loads(fleet_toml(measured, samples=1))["class"]
    assert kind["devices"] == ["a", 'b"']
    assert (kind["macs_per_second"], kind["uplink_bytes_per_second"]) == (4_000_000_000, 100)
    assert kind["downlink_bytes_per_second"] == 200
    assert kind["message_seconds"] == 2.54e-4
    assert kind["max_memory"] == 734088 * 1024
