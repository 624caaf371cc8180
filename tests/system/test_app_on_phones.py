"""Phones with the app: a run starts it, reaches it by its own socket, and ends in the weights of plain SGD.

The app's Java half is emulated; the Python half is the one that the APK has inside.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch
from crowdlearn_host import emulator as phones
from crowdlearn_host.adb import AdbDevice
from crowdlearn_host.adb.deployment.app import PACKAGE
from crowdlearn_host.common.files import read_lines
from crowdlearn_host.coordinator.storage.run_folder import load_model_state
from crowdlearn_host.runs.folder import new_run
from crowdlearn_host.runs.prepare import prepare
from crowdlearn_host.runs.train import train
from crowdlearn_host.spec.run_spec import RunSpec

from tests.host.emulator.apks import apk

from .unsliced import unsliced

pytestmark = pytest.mark.system
PHONES = 2
CONFIG: dict[str, Any] = {
    "name": "test",
    "data": "digits",
    "model": "mlp:64-24-10",
    "fleet": {"runtime": "app"},
    "group": {"pieces": 2},
    "training": {"epochs": 1, "batch": 128, "learning_rate": 0.05, "momentum": 0.9, "wire": "float32"},
}


def apk_in(folder: Path) -> Path:
    """Return an APK of the app's name, which virtual phones take for it."""
    path = folder / "app.apk"
    path.write_bytes(apk(PACKAGE))
    return path


async def install(serials: list[str], path: Path) -> None:
    for serial in serials:
        async with await AdbDevice.connect(serial) as device:
            await device.install_app(path)


def test_training_on_apps_equals_unsliced_sgd(tmp_path: Path) -> None:
    prepared = prepare(RunSpec.model_validate(CONFIG), lambda event, fields: None)
    with (
        phones.running(PHONES, tmp_path / "home") as started,
        new_run(tmp_path / "run", "", prepared, tmp_path) as opened,
    ):
        serials = [phone.serial for phone in started]
        asyncio.run(install(serials, apk_in(tmp_path)))
        asyncio.run(train(prepared, serials, opened, lambda event, fields: None))
    told = list(read_lines(tmp_path / "run/events.jsonl"))
    assert [line["awake"] for line in told if line["event"] == "deployed"] == ["wake lock"] * PHONES
    expected, losses = unsliced(CONFIG, PHONES, torch.float32)
    assert [m["loss"] for m in read_lines(tmp_path / "run/metrics.jsonl")] == pytest.approx(losses, rel=1e-3)
    state = load_model_state(tmp_path / "run")
    for name, value in expected.items():
        if not name.endswith("num_batches_tracked"):
            assert float((state[name] - value).abs().max() / value.abs().max()) <= 1e-4, name
