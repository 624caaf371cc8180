"""The app's process dies, sleeps and is started again while it trains: nothing is lost."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from crowdlearn_device.app.service import invite
from crowdlearn_device.protocol.invitation import Invitation
from crowdlearn_device.transport.join import join_host
from crowdlearn_host import emulator as phones
from crowdlearn_host.adb import AdbDevice
from crowdlearn_host.common.files import read_lines
from crowdlearn_host.coordinator.storage.run_folder import load_model_state
from crowdlearn_host.devices.joining.certificate import certificate
from crowdlearn_host.devices.joining.enrolment import Enrolment
from crowdlearn_host.runs.data import deal, shares_of, to_npz
from crowdlearn_host.runs.folder import new_run
from crowdlearn_host.runs.prepare import prepare
from crowdlearn_host.runs.train import train
from crowdlearn_host.spec.run_spec import RunSpec

from benchmarks.android.jvm import java_vm
from benchmarks.android.library import Missing
from tests.benchmarks.app_process import AppProcess

from .test_app_on_phones import CONFIG as OVER_ADB
from .test_app_on_phones import PHONES, apk_in, install
from .unsliced import unsliced

pytestmark = pytest.mark.system
DIALLED: dict[str, Any] = {
    "name": "test",
    "data": "digits",
    "model": "mlp:64-24-10",
    "group": {"pieces": 2},
    "fleet": {"listen": "127.0.0.1:0", "joining": 2},
    "training": {
        "epochs": 1,
        "batch": 64,
        "learning_rate": 0.05,
        "momentum": 0.9,
        "wire": "float32",
        "snapshot_every": 3,
        "grace_seconds": 120.0,
    },
}
DOZE_SECONDS = 1.5


def assert_plain_sgd(config: dict[str, Any], run: Path) -> None:
    expected, losses = unsliced(config, 2, torch.float32)
    told = {m["boundary"]: m["loss"] for m in read_lines(run / "metrics.jsonl")}
    assert [told[boundary] for boundary in sorted(told)] == pytest.approx(losses, rel=1e-3)
    state = load_model_state(run)
    for name, value in expected.items():
        if not name.endswith("num_batches_tracked"):
            assert float((state[name] - value).abs().max() / value.abs().max()) <= 1e-4, name


async def test_an_app_that_dials_in_is_killed_and_dozes_and_android_starts_it_again(
    app_classes: list[Path], android_cache: Path, tmp_path: Path, home: Path
) -> None:
    """Its own classes on a Java VM where Android is played, its Python half in their process, and the program
    in an isolated one.
    """
    try:
        vm = java_vm(android_cache)
    except Missing as reason:
        pytest.skip(str(reason))
    prepared = prepare(RunSpec.model_validate(DIALLED), lambda event, fields: None)
    assert prepared.train is not None
    loop = asyncio.get_running_loop()
    listens: asyncio.Future[int] = loop.create_future()
    first = asyncio.Event()
    phone = tmp_path / "phone"
    own, other = deal(prepared.train, shares_of(len(prepared.train), [1, 1]), seed=0)
    for folder, part in ((phone / "files/data", own), (tmp_path / "other/data", other)):
        folder.mkdir(parents=True)
        (folder / "train.npz").write_bytes(to_npz(part))
    _, pin = certificate(home)
    tokens = {name: Enrolment(home).enrol(name) for name in ("phone-1", "phone-2")}
    due, restarts = [4, 9], []
    app = AppProcess(app_classes, phone, programs=vm)

    def come_back() -> AppProcess:
        again = AppProcess(app_classes, phone, programs=vm)
        again.happen("again")
        return again

    async def die() -> None:
        nonlocal app
        await asyncio.to_thread(app.kill)
        app = await asyncio.to_thread(come_back)

    def on_event(event: str, fields: dict[str, Any]) -> None:
        if event == "listening":
            listens.set_result(fields["port"])
        elif event == "joined" and fields["device"] == "phone-1":
            first.set()
        if event == "progress" and due and fields["boundary"] >= due[0]:
            due.pop(0)
            restarts.append(loop.create_task(die()))
        elif event == "progress" and fields["boundary"] == 14:
            app.sleep(True)
            loop.call_later(DOZE_SECONDS, app.sleep, False)

    try:
        with new_run(tmp_path / "run", "", prepared, tmp_path) as opened:
            training = asyncio.create_task(train(prepared, [], opened, on_event))
            await asyncio.wait({training, listens}, return_when=asyncio.FIRST_COMPLETED)
            assert not training.done(), training.exception()
            address = f"127.0.0.1:{await listens}"
            invite(str(phone / "files"), Invitation(address, "phone-1", tokens["phone-1"], pin).link())
            await asyncio.to_thread(app.happen, "open")
            await first.wait()  # it is device 0, with the first part of the data
            given = "phone-2", f"wss://{address}", tokens["phone-2"], pin
            joining = join_host(tmp_path / "other", tmp_path / "other/data", *given, once=True)
            await asyncio.gather(training, joining, *restarts)
        await asyncio.gather(*restarts)
        assert len(restarts) == 2
        app.until(lambda told: told == ["may sleep"])  # the run is over
    finally:
        app.sleep(False)
        app.kill()
    assert ["awake"] in app.reports
    assert "recovering" in [line["event"] for line in read_lines(tmp_path / "run/events.jsonl")]
    assert_plain_sgd(DIALLED, tmp_path / "run")


async def kill_app(serial: str) -> None:
    async with await AdbDevice.connect(serial) as device:
        for pid in (await device.shell("pidof crowdlearn-device")).stdout.split():
            os.kill(int(pid), signal.SIGKILL)


def test_an_app_on_a_phone_is_killed_and_nothing_is_lost(tmp_path: Path) -> None:
    config = {**OVER_ADB, "fleet": {"runtime": "app", "keep_awake": False}}
    prepared = prepare(RunSpec.model_validate(config), lambda event, fields: None)
    victims: list[asyncio.Task[None]] = []
    due = [3, 8]
    with (
        phones.running(PHONES, tmp_path / "home") as started,
        new_run(tmp_path / "run", "", prepared, tmp_path) as opened,
    ):
        serials = [phone.serial for phone in started]

        def on_event(event: str, fields: dict[str, Any]) -> None:
            if event == "progress" and due and fields["boundary"] >= due[0]:
                due.pop(0)
                victims.append(asyncio.get_running_loop().create_task(kill_app(serials[len(victims)])))

        asyncio.run(install(serials, apk_in(tmp_path)))
        asyncio.run(train(prepared, serials, opened, on_event))
    assert len(victims) == 2
    assert all(victim.exception() is None for victim in victims)
    told = list(read_lines(tmp_path / "run/events.jsonl"))
    assert "recovering" in [line["event"] for line in told]
    assert {line["awake"] for line in told if line["event"] == "deployed"} == {None}
    assert_plain_sgd(OVER_ADB, tmp_path / "run")
