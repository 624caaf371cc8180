"""Deep networks of every day, cut into pieces, train over virtual phones as PyTorch trains them.

Their ReLUs are SiLUs here, and the learning rate is small. At a kink a rounding error takes the other side,
and in twenty layers that is no rounding error any more: after the twelve mini-batches of this test at a rate
of 0.01, PyTorch in float32 is 24 % off PyTorch in float64.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from crowdlearn_host.coordinator.storage.run_folder import load_model_state
from crowdlearn_host.runs.prepare import prepare
from crowdlearn_host.spec.run_spec import RunSpec

from .over_adb import trained
from .unsliced import unsliced

pytestmark = pytest.mark.system
PHONES, CLASSES, PIXELS = 3, 10, 16
SMALL = 1e-2
"""Weights that are smaller are compared as if they were so large."""
SMOOTH = """
from benchmarks.models import {network}
from torch import nn

def smooth(module):
    for name, child in module.named_children():
        setattr(module, name, nn.SiLU() if isinstance(child, nn.ReLU | nn.ReLU6) else smooth(child))
    return module

def build():
    return smooth({network}())
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of a class's own colours and noise: 32 for each phone, and some for tests."""
    folder = tmp_path_factory.mktemp("images")
    draw = np.random.default_rng(0)
    means = draw.standard_normal((CLASSES, 3, 1, 1))
    for split, count in (("train", 32 * PHONES), ("test", 20)):
        labels = np.arange(count) % CLASSES
        images = means[labels] + draw.standard_normal((count, 3, PIXELS, PIXELS))
        np.savez(folder / f"{split}.npz", inputs=images.astype(np.float32), labels=labels)
    return folder


@pytest.mark.parametrize(
    ("network", "pieces"),
    [
        ("resnet20", 3),
        pytest.param("mobilenet_v2", 3, marks=pytest.mark.nightly),
        pytest.param("resnet50", 3, marks=pytest.mark.nightly),
    ],
)
@pytest.mark.timeout(1800)
def test_a_deep_network_trains_like_the_whole(
    network: str, pieces: int, data: Path, tmp_path: Path, home: Path
) -> None:
    (tmp_path / "net.py").write_text(SMOOTH.format(network=network))
    values = {
        "data": str(data),
        "model": f"{tmp_path}/net.py:build",
        "group": {"pieces": pieces},
        "training": {
            "epochs": 2,
            "batch": 16,
            "micro_batch": 16,
            "learning_rate": 1e-3,
            "momentum": 0.9,
            "wire": "float32",
            "kernels": "by_size",
        },
    }
    prepared = prepare(RunSpec.model_validate(values), lambda event, fields: None)
    run = trained(prepared, PHONES, tmp_path)
    expected, losses = unsliced(values, PHONES, torch.float64)
    assert len(losses) == 2 * 2 * PHONES
    state = load_model_state(run)
    for name, value in expected.items():
        if not name.endswith("num_batches_tracked"):
            # A bias before another batch norm has no gradient, and is rounding errors altogether.
            scale = max(float(value.abs().max()), SMALL)
            difference = float((state[name] - value).abs().max()) / scale
            assert difference <= 1e-4, f"{name} differs by {difference:.1e}"
