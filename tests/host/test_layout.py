"""Samples whose axes lie in another order than the model's are refused by every command, never reshaped."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from crowdlearn_device.errors import DataError
from crowdlearn_host.cli import build
from crowdlearn_host.common.toml_files import parse_config
from crowdlearn_host.models.named import build_model
from crowdlearn_host.runs.data import load_split
from crowdlearn_host.runs.prepare import prepare
from crowdlearn_host.spec.provenance import RunInput
from crowdlearn_host.spec.run_spec import RunSpec
from safetensors.torch import save_file
from typer.testing import CliRunner

NETS = """
from torch import nn

def channels():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 4))

def pooled():
    features = nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*features, nn.Linear(4, 4))
"""
CONFIG = """
model = "{model}"
devices = 4
group = 2
[training]
epochs = 1
batch = 8
{more}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(NETS)
    return tmp_path


def samples(count: int, *shape: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(count)
    return rng.standard_normal((count, *shape)).astype(np.float32), np.arange(count) % 4


def write(path: Path, *shape: int, count: int = 40) -> None:
    inputs, labels = samples(count, *shape)
    path.parent.mkdir(exist_ok=True)
    np.savez(path, inputs=inputs, labels=labels)


def invoke(*arguments: object) -> None:
    command = [str(argument) for argument in arguments]
    result = CliRunner().invoke(build(command[:1]), command, catch_exceptions=False)
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("model", ["nets.py:channels", "mlp:72-8-4"])
def test_simulate_refuses_a_test_split_of_another_layout(folder: Path, model: str) -> None:
    write(folder / "data/train.npz", 3, 4, 6)
    write(folder / "data/test.npz", 4, 6, 3)
    (folder / "crowd.toml").write_text(CONFIG.format(model=model, more=""))
    with pytest.raises(DataError, match=r"the test data.*transpose\(0, 3, 1, 2\)"):
        invoke("simulate", "crowd.toml", "--data", "data", "--run", "run", "--processes", 1)


@pytest.mark.parametrize("odd", [0, 2])
def test_simulate_names_the_device_file_of_another_layout(folder: Path, odd: int) -> None:
    for device in range(4):
        write(folder / f"data/device-{device}.npz", *((4, 6, 3) if device == odd else (3, 4, 6)))
    write(folder / "data/device-1.npz", 72)  # flat: agrees with any
    write(folder / "data/test.npz", 3, 4, 6)
    more = '[partition]\nkind = "files"'
    (folder / "crowd.toml").write_text(CONFIG.format(model="mlp:72-8-4", more=more))
    with pytest.raises(DataError, match=r"device-[02]\.npz, unlike device-[02]\.npz: .*transpose"):
        invoke("simulate", "crowd.toml", "--data", "data", "--run", "run", "--processes", 1)


@pytest.mark.parametrize(("train", "test"), [((4, 6, 3), (3, 4, 6)), ((3, 4, 6), (4, 6, 3))])
def test_train_refuses_a_split_of_another_layout_before_it_exports(
    folder: Path, train: tuple[int, ...], test: tuple[int, ...]
) -> None:
    write(folder / "data/train.npz", *train)
    write(folder / "data/test.npz", *test)
    values = {"model": "mlp:72-8-4", "data": str(folder / "data"), "group": {"pieces": 2}}
    for shaped in ({}, {"model": "nets.py:channels", "input_shape": [3, 4, 6]}):
        config = parse_config({**values, **shaped}, RunSpec, "the test")
        with pytest.raises(DataError, match=r"(train|test)(ing)? data.*transpose"):
            prepare(config, lambda event, fields: pytest.fail(event))


@pytest.mark.parametrize("began_flat", [False, True])
def test_evaluate_and_export_refuse_height_and_width_exchanged(folder: Path, began_flat: bool) -> None:
    """A pooled network takes images of any size: nothing else would notice."""
    shape = (1, 6, 8)
    write(folder / "data/test.npz", *((48,) if began_flat else shape))
    write(folder / "other/test.npz", 1, 8, 6)
    run = finished(folder, shape)
    invoke("evaluate", run)
    invoke("export-model", run, "--pte", "out.pte")
    for command in (("evaluate", run), ("export-model", run, "--pte", "again.pte")):
        with pytest.raises(DataError, match=r"the test data.*transpose\(0, 1, 3, 2\)"):
            invoke(*command, "--data", "other")
    assert not (folder / "again.pte").exists()


@pytest.mark.parametrize("unit", [np.uint8, np.float32])
def test_evaluate_and_export_refuse_samples_in_another_unit(folder: Path, unit: type) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 1, 6, 8))
    for name, inputs in (("data", pixels.astype(unit)), ("other", pixels.astype(np.float32) / 255)):
        (folder / name).mkdir()
        np.savez(folder / name / "test.npz", inputs=inputs, labels=np.arange(40) % 4)
    run = finished(folder, (1, 6, 8))
    invoke("evaluate", run)
    if unit is np.uint8:  # a device scales bytes to 0 to 1
        invoke("evaluate", run, "--data", "other")
        np.savez(folder / "other/test.npz", inputs=pixels.astype(np.float32), labels=np.arange(40) % 4)
    for command in (("evaluate", run), ("export-model", run, "--onnx", "again.onnx")):
        with pytest.raises(DataError, match=r"the run's test data and the test data of other are not in one"):
            invoke(*command, "--data", "other")
    assert not (folder / "again.onnx").exists()


def finished(folder: Path, shape: tuple[int, ...]) -> Path:
    """Return the folder of a run of `pooled` that began with the test split of `folder`/data."""
    run = folder / "run"
    run.mkdir()
    (run / "config.toml").write_text(
        f'model = "nets.py:pooled"\ndata = "data"\ninput_shape = {list(shape)}\ndevice_data = "/sdcard"'
    )
    (run / "run.db").touch()
    given = RunInput.samples(str(folder / "data"), load_split(str(folder / "data"), "test"))
    kept = {"config_folder": str(folder), "given": {"test data": given.model_dump()}}
    (run / "inputs.json").write_text(json.dumps(kept))
    save_file(build_model("nets.py:pooled", 1).state_dict(), run / "model.safetensors")
    return run
