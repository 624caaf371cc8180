"""Phones of ARM, which run a bundle under QEMU, are killed, unplugged, emptied and filled like any other."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from crowdlearn_host import emulator as phones
from crowdlearn_host.adb import AdbDevice
from crowdlearn_host.adb.deployment import runtimes
from crowdlearn_host.adb.deployment.shell import HOME
from crowdlearn_host.bundle import Bundle
from crowdlearn_host.common.files import read_lines
from crowdlearn_host.coordinator.storage.run_folder import load_model_state
from crowdlearn_host.runs.folder import new_run
from crowdlearn_host.runs.prepare import prepare
from crowdlearn_host.runs.train import train
from crowdlearn_host.spec.run_spec import RunSpec

from .unsliced import unsliced

pytestmark = pytest.mark.system
PHONES, HOLDERS = 3, 2
CONFIG: dict[str, Any] = {
    "name": "test",
    "data": "digits",
    "model": "mlp:64-24-10",
    "group": {"pieces": 2},
    "training": {
        "epochs": 1,
        "batch": 64,
        "learning_rate": 0.05,
        "momentum": 0.9,
        "wire": "float32",
        "grace_seconds": 300.0,
    },
}

Event = Callable[[str, dict[str, Any]], None]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def crowd(home: Path, arm_bundle: Bundle, bundles: Path) -> Iterator[list[phones.PhoneInfo]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtimes, "cache_home", lambda: bundles.parent)
        with phones.running(PHONES, home, machine="arm64") as started:
            yield started


def run_in(folder: Path, crowd: list[phones.PhoneInfo], on_event: Event, epochs: int = 1) -> Path:
    config = {**CONFIG, "training": {**CONFIG["training"], "epochs": epochs}}
    prepared = prepare(RunSpec.model_validate(config), lambda event, fields: None)
    with new_run(folder / "run", "", prepared, folder) as opened:
        asyncio.run(train(prepared, [phone.serial for phone in crowd], opened, on_event))
    return folder / "run"


def assert_plain_sgd(run: Path) -> None:
    expected, losses = unsliced(CONFIG, HOLDERS, torch.float32)
    state = load_model_state(run)
    for name, value in expected.items():
        if not name.endswith("num_batches_tracked"):
            assert float((state[name] - value).abs().max() / value.abs().max()) <= 1e-4, name
    told = {m["boundary"]: m["loss"] for m in read_lines(run / "metrics.jsonl")}
    assert [told[boundary] for boundary in sorted(told)] == pytest.approx(losses, rel=1e-3)


async def kill_runtime(serial: str) -> None:
    async with await AdbDevice.connect(serial) as device:
        for pid in (await device.shell("pidof crowdlearn-device")).stdout.split():
            os.kill(int(pid), signal.SIGKILL)


def test_a_runtime_that_is_killed_comes_back_and_nothing_is_lost(
    crowd: list[phones.PhoneInfo], tmp_path: Path
) -> None:
    kills: list[asyncio.Task[None]] = []

    def on_event(event: str, fields: dict[str, Any]) -> None:
        if event == "progress" and fields["boundary"] == 4 and not kills:
            kills.append(asyncio.get_running_loop().create_task(kill_runtime(crowd[1].serial)))

    run = run_in(tmp_path, crowd[:HOLDERS], on_event)
    assert len(kills) == 1
    assert kills[0].exception() is None
    assert "recovering" in [line["event"] for line in read_lines(run / "events.jsonl")]
    assert_plain_sgd(run)


@pytest.mark.nightly
def test_a_phone_that_is_unplugged_comes_back_and_nothing_is_lost(
    crowd: list[phones.PhoneInfo], home: Path, tmp_path: Path
) -> None:
    pulled: list[bool] = []

    def on_event(event: str, fields: dict[str, Any]) -> None:
        if event == "progress" and fields["boundary"] == 4 and not pulled:
            pulled.append(True)
            phones.unplug(crowd[1].name, home)
        elif event == "recovering":
            phones.plug(crowd[1].name, home)

    run = run_in(tmp_path, crowd[:HOLDERS], on_event)
    assert "recovering" in [line["event"] for line in read_lines(run / "events.jsonl")]
    assert_plain_sgd(run)


@pytest.mark.nightly
def test_a_phone_whose_battery_runs_low_leaves_to_the_others(
    crowd: list[phones.PhoneInfo], home: Path, tmp_path: Path
) -> None:
    left: list[dict[str, Any]] = []

    def on_event(event: str, fields: dict[str, Any]) -> None:
        if event == "progress" and fields["boundary"] == 4:
            phones.drain(crowd[1].name, 10, home)
        if event == "leaving":
            left.append(fields)

    try:
        run_in(tmp_path, crowd, on_event, epochs=30)
    finally:
        phones.drain(crowd[1].name, 80, home)
        phones.plug(crowd[1].name, home)
    assert left == [{"device": crowd[1].name, "reason": "battery at 10 %"}]


@pytest.mark.nightly
def test_a_phone_whose_storage_fails_is_told_and_the_others_go_on(
    crowd: list[phones.PhoneInfo], tmp_path: Path
) -> None:
    async def fill(command: str) -> None:
        async with await AdbDevice.connect(crowd[2].serial) as device:
            (await device.shell(command)).check(command)

    asyncio.run(fill(f"mkdir -p {HOME} && rm -rf {HOME}/runs && echo full > {HOME}/runs"))
    try:
        run = run_in(tmp_path, crowd, lambda event, fields: None)
    finally:
        asyncio.run(fill(f"rm -rf {HOME}/runs"))
    told = (run / "events.jsonl").read_text()
    assert "this device's storage failed" in told
    assert load_model_state(run)
