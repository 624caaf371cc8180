"""Mistakes that are cheap to see are told before anything is exported, and leave no folder behind."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from crowdlearn_device.errors import CrowdlearnError, DataError
from crowdlearn_host import emulator as phones
from crowdlearn_host.adb import AdbDevice
from crowdlearn_host.cli import build
from crowdlearn_host.coordinator.storage.run_folder import RunFolder
from crowdlearn_host.errors import ConfigError, FleetError, RunError
from typer.testing import CliRunner

CONFIG = """
model = "mlp:{widths}"
{data}
group = {{ pieces = 2 }}
training = {{ epochs = 1, batch = 64, kernels = "by_size" }}
fleet = {{ {fleet} }}
metrics = {{ {metrics} }}
"""
DIGITS = 'data = "digits"'
VIRTUAL = "virtual = 2"


@pytest.fixture(autouse=True)
def _nothing_is_exported(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def export(*_: object, **__: object) -> None:
        pytest.fail("it exports")

    monkeypatch.setattr("crowdlearn_host.runs.prepare.export_slices", export)
    monkeypatch.chdir(tmp_path)


def train(
    error: type[CrowdlearnError] | type[OSError],
    words: str,
    *,
    widths: str = "64-12-10",
    data: str = DIGITS,
    fleet: str = VIRTUAL,
    metrics: str = "",
    run: str = "run",
) -> None:
    Path("my.toml").write_text(CONFIG.format(widths=widths, data=data, fleet=fleet, metrics=metrics))
    with pytest.raises(error, match=words):
        CliRunner().invoke(build(["train"]), ["train", "my.toml", "--run", run], catch_exceptions=False)
    assert not Path("run").exists()


def test_a_folder_that_cannot_be_written() -> None:
    train(OSError, "/proc/run", run="/proc/run")


def test_a_file_in_the_place_of_the_runs_folder(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    Path("run.toml").write_text(CONFIG.format(widths="64-12-10", data=DIGITS, fleet=VIRTUAL, metrics=""))
    words = ["train", "run.toml", "--check"]
    with pytest.raises(RunError, match=r"runs/run cannot be made: .*runs is no folder to write to"):
        CliRunner().invoke(build(words[:1]), words, catch_exceptions=False)


def test_a_folder_in_use(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "other", create=True):
        train(RunError, "in use by another process", run="other")


def test_a_folder_that_holds_something_else(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.toml").write_text("a = 1\n")
    train(RunError, "not of a run of phones", run="other")
    assert os.listdir(tmp_path / "other") == ["config.toml"]


def test_a_port_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        listening = f'listen = "127.0.0.1:{port}", joining = 2'
        told = f"cannot listen on 127.0.0.1:{port}: Address already in use"
        train(FleetError, f"{told}.* in fleet.listen", fleet=listening)
        train(FleetError, f"{told}.* in metrics.listen", metrics=f'listen = "127.0.0.1:{port}"')


def test_too_few_devices() -> None:
    train(FleetError, "need 2 devices; 1 given", fleet='listen = "127.0.0.1:0", joining = 1')


def test_a_device_that_does_not_answer() -> None:
    train(
        FleetError,
        "127.0.0.1:1 cannot .*; 127.0.0.1:2 cannot ",
        fleet='phones = ["127.0.0.1:1", "127.0.0.1:2"]',
    )


def test_too_few_samples(tmp_path: Path) -> None:
    write(tmp_path / "data", samples=3)
    train(ConfigError, "3 samples are too few for 2 devices", widths="4-5-3", data='data = "data"')


def test_labels_that_the_model_has_no_output_for(tmp_path: Path) -> None:
    write(tmp_path / "data", samples=30, classes=7)
    train(
        DataError,
        "has a label 6, but the model distinguishes classes 0 to 2",
        widths="4-5-3",
        data='data = "data"',
    )


def write(folder: Path, *, samples: int, classes: int = 3) -> None:
    folder.mkdir(exist_ok=True)
    labels = np.arange(samples) % classes
    for split in ("train", "test"):
        np.savez(folder / f"{split}.npz", inputs=np.zeros((samples, 4), np.float32), labels=labels)


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[phones.PhoneInfo]]:
    with phones.running(2, tmp_path_factory.mktemp("phones"), auto_accept=True) as infos:
        yield infos


@pytest.mark.system
@pytest.mark.parametrize(
    ("samples", "classes", "said"),
    [
        (30, 7, "has a label 6, but the model distinguishes classes 0 to 2"),
        (1, 1, "holds 1 samples"),
        (0, 0, "is not a folder"),
    ],
    ids=["labels without an output", "one sample", "no samples"],
)
def test_samples_on_a_device_that_cannot_be_trained_on(
    started: list[phones.PhoneInfo], tmp_path: Path, samples: int, classes: int, said: str
) -> None:
    """All devices are named at once; the others hold good samples."""
    folder = f"/sdcard/samples-{samples}"
    for phone, held, of in zip(started, (10, samples), (3, classes), strict=True):
        if held:
            write(tmp_path / phone.name, samples=held, classes=of)
            asyncio.run(push(phone, tmp_path / phone.name / "train.npz", f"{folder}/train.npz"))
    serials = ", ".join(f'"{phone.serial}"' for phone in started)
    data = f'device_data = "{folder}"\ninput_shape = [4]'
    told = f"^{started[1].serial}: [^;]*{said}"
    train(FleetError, told, widths="4-5-3", data=data, fleet=f"phones = [{serials}]")


@pytest.mark.system
def test_samples_on_a_device_in_another_unit_than_the_test_data(
    started: list[phones.PhoneInfo], tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    pixels, labels = rng.integers(0, 256, (100, 4)), np.arange(100) % 3
    for phone, kind in zip(started, (np.float32, np.uint8), strict=True):
        np.savez(tmp_path / "held.npz", inputs=pixels.astype(kind), labels=labels)
        asyncio.run(push(phone, tmp_path / "held.npz", "/sdcard/units/train.npz"))
    (tmp_path / "data").mkdir()
    np.savez(tmp_path / "data/test.npz", inputs=pixels.astype(np.float32), labels=labels)
    serials = ", ".join(f'"{phone.serial}"' for phone in started)
    train(
        FleetError,
        f"^{started[1].serial}: [^;]*/sdcard/units and the host's test data are not in one unit",
        widths="4-5-3",
        data='device_data = "/sdcard/units"\ninput_shape = [4]\ndata = "data"',
        fleet=f"phones = [{serials}]",
    )


async def push(phone: phones.PhoneInfo, file: Path, path: str) -> None:
    async with await AdbDevice.connect(phone.serial) as device:
        (await device.shell(f"mkdir -p {path.rpartition('/')[0]}")).check("making the folder")
        await device.push(file, path)
