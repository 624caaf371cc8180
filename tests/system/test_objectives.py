"""Whatever is learned, phones and simulation end with the same weights, and the model is tested and kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from crowdlearn_host.coordinator.storage.run_folder import load_model_state
from crowdlearn_host.methods.index_space import unflatten
from crowdlearn_host.runs.data import load_split
from crowdlearn_host.runs.prepare import prepare
from crowdlearn_host.simulation.engine import global_weights, run
from crowdlearn_host.simulation.setting import prepare as simulated
from crowdlearn_host.simulation.workers import InProcess
from crowdlearn_host.spec.run_spec import RunSpec
from crowdlearn_host.spec.simulated import simulated as as_simulation

from .over_adb import trained

pytestmark = pytest.mark.system
PHONES, SAMPLES = 3, 120
DENSE = """
from torch import nn

def build():
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, {outputs}))
"""


def learned(folder: Path, outputs: int, sample: tuple[int, ...], *, labels: bool) -> Path:
    """Data of a linear map: numbers, or labels 0 and 1."""
    draw = np.random.default_rng(0)
    way = draw.normal(size=(6, outputs))
    for split in ("train", "test"):
        inputs = draw.normal(size=(SAMPLES, 6)).astype(np.float32)
        numbers = inputs @ way
        targets = (numbers > 0) if labels else numbers
        samples = inputs.reshape(-1, *sample)
        np.savez(folder / split, inputs=samples, labels=targets.astype(np.float32))
    return folder


MAPS = """
from torch import nn

def build():
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 8, 2), nn.ReLU(),
        nn.Flatten(), nn.Linear(16, {outputs}),
    )
"""
# Without biases: that of the keys has no gradient but rounding, which Adam makes as large as any.
TOKENS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(12, 8)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True, bias=False)
        self.head = nn.Linear(8, {outputs})

    def forward(self, x):
        return self.head(self.block(self.embedding(x)).mean(1))

def build():
    return Net()
"""
CELLS = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.cells, self.head = nn.GRU(2, 6, batch_first=True), nn.Linear(6, {outputs})

    def forward(self, x):
        return self.head(self.cells(x.reshape(-1, 3, 2))[0][:, -1])

def build():
    return Net()
"""


def tokens(folder: Path) -> Path:
    """Rows of whole numbers, and the class of the first."""
    draw = np.random.default_rng(0)
    for split in ("train", "test"):
        inputs = draw.integers(0, 12, (SAMPLES, 5))
        np.savez(folder / split, inputs=inputs, labels=inputs[:, 0] % 3)
    return folder


OBJECTIVES: dict[str, tuple[str, int, int, dict[str, Any]]] = {
    "regression by adam": (DENSE, 1, 3, {"loss": "mse", "optimizer": "adam", "learning_rate": 0.02}),
    "several labels of changed maps by adamw, clipped": (
        MAPS,
        4,
        3,
        {
            "loss": "bce",
            "optimizer": "adamw",
            "weight_decay": 0.1,
            "clip_norm": 0.3,
            "warmup": 5,
            "learning_rate": 0.01,
            "micro_batch": 4,
            "augment": ["flip", {"kind": "shift", "most": 1}, "noise"],
        },
    ),
    "tokens by a transformer": (
        TOKENS,
        3,
        1,
        {
            "optimizer": "adamw",
            "learning_rate": 0.01,
            "clip_norm": 1.0,
            "schedule": "step",
            "step_epochs": 1,
            "epochs": 3,
        },
    ),
    "signals by a GRU": (
        CELLS,
        2,
        1,
        {"loss": "l1", "optimizer": "adam", "betas": [0.8, 0.99], "augment": ["scale", "offset"]},
    ),
    "huber, by Nesterov": (
        DENSE,
        2,
        3,
        {"loss": {"kind": "huber", "delta": 0.5}, "nesterov": True, "learning_rate": 0.02},
    ),
}


@pytest.mark.parametrize("what", OBJECTIVES)
def test_phones_and_simulation_learn_the_same(what: str, tmp_path: Path) -> None:
    source, outputs, pieces, training = OBJECTIVES[what]
    (tmp_path / "net.py").write_text(source.format(outputs=outputs))
    classes = source is TOKENS
    labels = training.get("loss") == "bce"
    sample = (1, 2, 3) if source is MAPS else (6,)
    data = tokens(tmp_path) if classes else learned(tmp_path, outputs, sample, labels=labels)
    values: dict[str, Any] = {"data": str(data), "model": f"{tmp_path / 'net.py'}:build"}
    values["group"] = {"pieces": pieces, "keep_model": True}
    common = {"epochs": 2, "batch": 10, "wire": "float32", "seed": 5, "kernels": "by_size"}
    values["training"] = {**common, **training}
    spec = RunSpec.model_validate(values)
    prepared = prepare(spec, lambda event, fields: None)
    real = load_model_state(trained(prepared, PHONES, tmp_path))

    train = load_split(str(data), "train")
    dealt = np.array_split(np.random.default_rng(5).permutation(len(train)), PHONES)
    micro = spec.training.micro_rows(pieces=spec.group.pieces)
    setting = simulated(as_simulation(spec, PHONES, micro), train, load_split(str(data), "test"), dealt)
    state = run(setting, InProcess(setting.workload))
    expected = unflatten(global_weights(setting, state), prepared.model.state_dict())
    for name, value in real.items():
        np.testing.assert_allclose(value, expected[name], atol=1e-4, err_msg=name)
    assert (state.records[-1].accuracy is not None) == classes
    assert (state.records[-1].test_loss is None) == classes
    assert state.records[-1].loss < state.records[0].loss
