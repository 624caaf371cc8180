"""doctor, plan, train and simulate give one verdict on one model, and the same words if it is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from crowdlearn_device.data.dataset import Dataset
from crowdlearn_export.doctor.doctor import diagnose
from crowdlearn_export.errors import ExportError
from crowdlearn_host.cli import build
from crowdlearn_host.runs import prepare as runs
from crowdlearn_host.simulation import setting
from crowdlearn_host.spec.run_spec import RunSpec
from crowdlearn_host.spec.simulation import SimulationConfig
from torch import nn
from typer.testing import CliRunner

from tests.host.family import CLASSES, SINGLE, generated

FLEET = """
[[class]]
name = "phone"
count = 3
samples = 60
macs_per_second = 1e9
"""


def verdicts(
    model: str, network: nn.Module, shape: tuple[int, ...], folder: Path, sizes: Sequence[int]
) -> dict[str, str]:
    """Nothing, or why not, by command; training in so many pieces."""
    draw = np.random.default_rng(0)
    for split in ("train", "test"):
        inputs = draw.normal(size=(60, *shape)).astype(np.float32)
        np.savez(folder / split, inputs=inputs, labels=np.arange(60) % min(CLASSES, _outputs(network, shape)))
    (folder / "fleet.toml").write_text(FLEET)
    sample = torch.randn(8, *shape, generator=torch.Generator().manual_seed(1))
    found = diagnose(network, sample)
    said = {"doctor": found.slices}
    planned = CliRunner().invoke(
        build(["plan"]),
        [
            *("plan", model, "--fleet", str(folder / "fleet.toml"), "--shape", "x".join(map(str, shape))),
            *("--no-baselines", "--seconds", "1", "--json"),
        ],
    )
    said["plan"] = str(planned.exception) if planned.exit_code else ""
    for pieces in sizes:
        config = RunSpec.model_validate(
            {
                "model": model,
                "data": str(folder),
                "input_shape": list(shape),
                "group": {"pieces": pieces},
                "training": {"batch": 8, "kernels": "by_size"},
            }
        )
        why = _why(lambda config=config: runs.prepare(config, lambda event, fields: None))
        if pieces == 1:  # which also takes what only trains whole
            assert bool(why) == bool(found.compiles), (why, found.compiles)
        else:
            said[f"train {pieces}"] = why
    data = Dataset(np.load(folder / "train.npz")["inputs"], np.load(folder / "train.npz")["labels"])
    crowd = SimulationConfig.model_validate({"model": model, "devices": 3, "group": 3})
    parts = [np.arange(device, 60, 3) for device in range(3)]
    said["simulate"] = _why(lambda: setting.prepare(crowd, data, data, parts))
    return said


def _outputs(network: nn.Module, shape: tuple[int, ...]) -> int:
    with torch.no_grad():
        return network(torch.zeros(2, *shape)).shape[1]


def _why(attempt) -> str:
    try:
        attempt()
    except ExportError as error:
        return str(error)
    return ""


def written(folder: Path, source: str) -> str:
    (folder / "net.py").write_text(source)
    return f"{folder / 'net.py'}:build"


@pytest.mark.parametrize("what", SINGLE)
def test_one_verdict_on_what_was_judged_apart(what: str, tmp_path: Path) -> None:
    make, shape, slices = SINGLE[what]
    model = written(
        tmp_path, f"from tests.host.family import SINGLE\ndef build(): return SINGLE[{what!r}][0]()"
    )
    said = verdicts(model, make(), shape, tmp_path, (3,))
    assert len(set(said.values())) == 1, said
    assert (not said["doctor"]) == slices


def _one_verdict(seed: int, folder: Path) -> None:
    network, shape = generated(seed)
    model = written(
        folder, f"from tests.host.family import generated\ndef build(): return generated({seed})[0]"
    )
    said = verdicts(model, network, shape, folder, (1, 2, 3))
    assert len(set(said.values())) == 1, (network, said)


@pytest.mark.parametrize("seed", range(4))
def test_one_verdict_on_every_network(seed: int, tmp_path: Path) -> None:
    _one_verdict(seed, tmp_path)


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(4, 60))
def test_one_verdict_on_many_networks(seed: int, tmp_path: Path) -> None:
    _one_verdict(seed, tmp_path)


@pytest.mark.parametrize("last", [nn.Sigmoid(), nn.Softmax(1)])
def test_scores_that_look_like_probabilities_are_told(last: nn.Module) -> None:
    network = nn.Sequential(nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 3), last)
    (note,) = diagnose(network, torch.randn(8, 12)).notes
    assert "leave the last activation out" in note
    assert not diagnose(network[:3], torch.randn(8, 12)).notes
