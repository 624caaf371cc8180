"""A crowd small enough to simulate in a blink: 12 devices, 3 groups, 4 classes of blobs."""

from collections.abc import Callable

import numpy as np
import pytest
from crowdlearn_device.data.dataset import Dataset
from crowdlearn_host.common.toml_files import parse_config
from crowdlearn_host.simulation.partition import partition
from crowdlearn_host.simulation.setting import Setting, prepare
from crowdlearn_host.spec.simulation import SimulationConfig

CONFIG = """
seed = 3
model = "mlp:6-10-8-4"
devices = 12
group = 4
[training]
epochs = 4
batch = 8
momentum = 0.5
[sharing]
theta = 0.8
"""


def blobs(samples: int, seed: int) -> Dataset:
    """Four classes around four corners, [N, 6]."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, samples)
    centres = np.random.default_rng(99).standard_normal((4, 6)) * 2
    return Dataset((centres[labels] + rng.standard_normal((samples, 6))).astype(np.float32), labels)


@pytest.fixture
def crowd() -> Callable[..., Setting]:
    """Makes the small crowd; keyword arguments replace keys of its configuration."""

    def make(**changed: object) -> Setting:
        values = {
            "seed": 3,
            "model": "mlp:6-10-8-4",
            "devices": 12,
            "group": 4,
            "training": {"epochs": 4, "batch": 8, "momentum": 0.5},
            "sharing": {"theta": 0.8},
            **changed,
        }
        config = parse_config(values, SimulationConfig, "test")
        train = blobs(396, 1)
        devices = partition(train.labels, config.devices, config.partition, config.seed)
        return prepare(config, train, blobs(200, 2), devices)

    return make


@pytest.fixture
def files(tmp_path):
    """A folder with the crowd's data and configuration as a user would have them."""
    for split, seed in (("train", 1), ("test", 2)):
        data = blobs(396 if split == "train" else 200, seed)
        np.savez(tmp_path / f"{split}.npz", inputs=data.inputs, labels=data.labels)
    (tmp_path / "crowd.toml").write_text(CONFIG)
    return tmp_path
