"""Phones of ARM, which run a bundle under QEMU, are killed, unplugged, emptied and filled like any other."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
from crowdlearn_host.emulator.settings import FILES
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


def run_in(
    folder: Path,
    crowd: list[phones.PhoneInfo],
    on_event: Event,
    epochs: int = 1,
    enough: Callable[[], bool] = lambda: False,
) -> Path:
    """Train to the end, or until it is enough."""
    config = {**CONFIG, "training": {**CONFIG["training"], "epochs": epochs}}
    prepared = prepare(RunSpec.model_validate(config), lambda event, fields: None)

    async def run() -> None:
        def tell(event: str, fields: dict[str, Any]) -> None:
            on_event(event, fields)
            if enough():
                training.cancel()

        serials = [phone.serial for phone in crowd]
        training = asyncio.create_task(train(prepared, serials, opened, tell))
        await asyncio.wait({training})
        if not training.cancelled():
            await training

    with new_run(folder / "run", "", prepared, folder) as opened:
        asyncio.run(run())
    return folder / "run"


@contextmanager
def full_disk(folder: Path) -> Iterator[None]:
    """A disk in a folder of a phone that has no byte left."""
    folder.mkdir(parents=True, exist_ok=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        (folder / "blob").write_bytes(bytes(64 << 10))
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


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
    """The run is stopped once the others have gone on: to its end it would take many minutes."""
    weak = crowd[1].name
    left: list[dict[str, Any]] = []
    holders: list[list[str]] = []
    after: list[int] = []

    def on_event(event: str, fields: dict[str, Any]) -> None:
        if event == "progress" and fields["boundary"] == 4:
            phones.drain(weak, 10, home)
        elif event == "leaving":
            left.append(fields)
        elif event == "assigned" and left:
            holders.append(fields["holders"])
        elif event == "progress" and holders:
            after.append(fields["boundary"])

    try:
        run_in(tmp_path, crowd, on_event, epochs=30, enough=lambda: bool(after))
    finally:
        phones.drain(weak, 80, home)
        phones.plug(weak, home)
    assert left == [{"device": weak, "reason": "battery at 10 %"}]
    assert weak not in holders[-1]
    assert after[0] > 4


@pytest.mark.nightly
def test_a_phone_whose_disk_is_full_is_told_and_the_others_go_on(
    crowd: list[phones.PhoneInfo], home: Path, tmp_path: Path
) -> None:
    with full_disk(home / "phones" / crowd[2].name / FILES / HOME.lstrip("/") / "runs"):
        run = run_in(tmp_path, crowd, lambda event, fields: None)
    told = (run / "events.jsonl").read_text()
    assert "this device's storage failed (No space left on device)" in told
    assert load_model_state(run)
