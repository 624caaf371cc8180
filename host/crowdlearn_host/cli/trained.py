"""A run's model and test samples, whether phones trained it or a simulation."""

from __future__ import annotations

from pathlib import Path

from crowdlearn_device.dataset import Dataset
from torch import nn

from ..config import load_toml
from ..errors import ConfigError
from ..models import build_model, input_shape
from ..simulation.config import SimulationConfig
from ..simulation.run_folder import CHECKPOINT
from ..training.config import load_config
from ..training.data import load_split
from ..training.prepare import sample_shape
from ..training.run import config_folder


def model_and_test(run: Path, data: str | None) -> tuple[nn.Module, Dataset]:
    """The model as it was before training, and the test samples of `data`, or else the run's, as it takes
    them. Raises ConfigError where neither names data, as a simulation's configuration does not.
    """
    if (run / CHECKPOINT).exists():
        simulated = load_toml(run / "config.toml", SimulationConfig)
        test = _test(data)
        shape = input_shape(simulated.model, test.inputs.shape[1:])
        return build_model(simulated.model, simulated.seed), test.shaped(shape)
    config = load_config(run / "config.toml")
    test = _test(data or config.data)
    model = build_model(config.model, config.training.seed, config_folder(run))
    return model, test.shaped(sample_shape(config, test))


def _test(name: str | None) -> Dataset:
    if name is None:
        raise ConfigError("the run names no test data; give --data FOLDER")
    return load_split(name, "test")
