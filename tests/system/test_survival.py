"""Runs on virtual phones survive the death of the host and of the runtime on a phone, to the last bit."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch
from crowdlearn_host import emulator as phones
from crowdlearn_host.adb import AdbDevice
from crowdlearn_host.common.files import read_lines
from crowdlearn_host.common.toml_files import parse_config
from crowdlearn_host.coordinator.storage.run_folder import RunFolder, load_model_state
from crowdlearn_host.runs.folder import new_run
from crowdlearn_host.runs.prepare import Prepared, prepare
from crowdlearn_host.runs.train import train
from crowdlearn_host.spec.run_spec import RunSpec

pytestmark = pytest.mark.system
CONFIG = """
name = "survival"
data = "digits"
model = "mlp:64-24-16-10"
[group]
pieces = 3
[training]
epochs = 1
batch = 64
snapshot_every = 3
optimizer = "adam"
clip_norm = 1.0
augment = ["scale", "noise"]
warmup = 4
kernels = "by_size"
[fleet]
phones = {serials}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def crowd(home: Path) -> Iterator[list[phones.PhoneInfo]]:
    with phones.running(4, home) as started:
        yield started


def config_for(crowd: Sequence[phones.PhoneInfo]) -> str:
    return CONFIG.format(serials=[phone.serial for phone in crowd])


def run_in(
    folder: Path,
    crowd: Sequence[phones.PhoneInfo],
    on_event: Callable[[str, dict[str, object]], None],
    epochs: int = 1,
    pieces: int = 3,
) -> Path:
    text = config_for(crowd).replace("epochs = 1", f"epochs = {epochs}")
    text = text.replace("pieces = 3", f"pieces = {pieces}")
    prepared: Prepared = prepare(
        parse_config(tomllib.loads(text), RunSpec, "test"), lambda event, fields: None
    )
    with new_run(folder, text, prepared, folder.parent) as opened:
        asyncio.run(train(prepared, [phone.serial for phone in crowd], opened, on_event))
    return folder


@pytest.fixture(scope="module")
def undisturbed(
    crowd: list[phones.PhoneInfo], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, torch.Tensor]:
    folder = run_in(tmp_path_factory.mktemp("runs") / "undisturbed", crowd, lambda event, fields: None)
    return load_model_state(folder)


def assert_same(folder: Path, expected: dict[str, torch.Tensor]) -> None:
    model = load_model_state(folder)
    assert model.keys() == expected.keys()
    for name, value in expected.items():
        assert model[name].numpy().tobytes() == value.numpy().tobytes(), name


async def kill_runtime(serial: str) -> None:
    async with await AdbDevice.connect(serial) as device:
        said = await device.shell("pidof crowdlearn-device")
        os.kill(int(said.stdout), signal.SIGKILL)


def await_while_running(host: subprocess.Popen[bytes], there: Callable[[], bool]) -> None:
    """Look for something now and then, and leave the processor to whoever makes it."""
    while not there():
        assert host.poll() is None, host.stdout and host.stdout.read().decode()
        time.sleep(0.01)


def test_a_killed_host_goes_on_where_the_group_stood(
    crowd: list[phones.PhoneInfo], home: Path, undisturbed: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    """Also while a phone is out of reach at first."""
    (tmp_path / "run.toml").write_text(config_for(crowd))
    command = [sys.executable, "-c", "from crowdlearn_host.cli import main; main()", "train"]
    start = [*command, str(tmp_path / "run.toml"), "--run", str(tmp_path / "run")]
    with subprocess.Popen(start, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as host:
        metrics = tmp_path / "run" / "metrics.jsonl"
        await_while_running(host, lambda: metrics.exists() and metrics.read_bytes().count(b"\n") >= 10)
        host.kill()
    phones.unplug(crowd[0].name, home)
    resume = [*command, "--resume", str(tmp_path / "run")]
    events = tmp_path / "run" / "events.jsonl"
    before = len(list(read_lines(events)))
    with subprocess.Popen(resume, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as host:
        await_while_running(host, lambda: any(e["event"] == "unreachable" for e in read_lines(events)))
        phones.plug(crowd[0].name, home)
        said = host.communicate()[0].decode()
    assert host.returncode == 0, said
    assert_same(tmp_path / "run", undisturbed)
    again = [told["boundary"] for told in list(read_lines(events))[before:] if told["event"] == "assigned"]
    assert min(again) >= 9  # the last one that all pieces were kept at


def test_a_runtime_that_is_killed_comes_back_and_nothing_is_lost(
    crowd: list[phones.PhoneInfo], undisturbed: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    due = [4, 13, 20]
    victims: list[asyncio.Task[None]] = []

    def on_event(event: str, fields: dict[str, object]) -> None:
        if event == "progress" and due and fields["boundary"] == due[0]:
            due.pop(0)
            victims.append(asyncio.get_running_loop().create_task(kill_runtime(crowd[len(victims)].serial)))

    folder = run_in(tmp_path / "run", crowd, on_event)
    assert len(victims) == 3
    assert all(victim.done() and victim.exception() is None for victim in victims)
    assert_same(folder, undisturbed)
    events = [line["event"] for line in read_lines(folder / "events.jsonl")]
    assert events.count("recovering") >= 1
    with RunFolder(folder, create=False) as opened:
        saved = opened.load_group(0)
    assert saved is not None
    assert saved["done"]


def test_whoever_trains_the_whole_network_may_die_too(crowd: list[phones.PhoneInfo], tmp_path: Path) -> None:
    undisturbed = run_in(tmp_path / "undisturbed", crowd[:2], lambda event, fields: None, pieces=1)
    kills: list[asyncio.Task[None]] = []

    def on_event(event: str, fields: dict[str, object]) -> None:
        if event == "assigned" and not kills:
            (dominator,) = fields["holders"]  # type: ignore[misc]
            serial = next(phone.serial for phone in crowd if phone.name == dominator)
            kills.append(asyncio.get_running_loop().create_task(kill_runtime(serial)))

    folder = run_in(tmp_path / "run", crowd[:2], on_event, pieces=1)
    assert kills[0].exception() is None
    assert_same(folder, load_model_state(undisturbed))


def test_a_phone_whose_battery_runs_low_leaves_to_the_others(
    crowd: list[phones.PhoneInfo], home: Path, tmp_path: Path
) -> None:
    seen: list[tuple[str, dict[str, object]]] = []

    def on_event(event: str, fields: dict[str, object]) -> None:
        seen.append((event, fields))
        if event == "progress" and fields["boundary"] == 4:
            phones.drain(crowd[1].name, 10, home)

    try:
        run_in(tmp_path / "run", crowd, on_event, epochs=30)
    finally:
        phones.drain(crowd[1].name, 80, home)
    leaving = [fields for event, fields in seen if event == "leaving"]
    assert leaving == [{"device": crowd[1].name, "reason": "battery at 10 %"}]
    after = seen[[event for event, _ in seen].index("leaving") :]
    assert any(event == "assigned" and crowd[1].name not in fields["holders"] for event, fields in after)  # type: ignore[operator]
    assert seen[-1][0] != "stopped"
