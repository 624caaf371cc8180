"""The model that a configuration names, and what it makes of a test set."""

from __future__ import annotations

import importlib
import importlib.util
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from crowdlearn_device.dataset import Dataset
from torch import nn

from ..errors import ConfigError, RunError
from .config import ModelSection

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}


def build_model(section: ModelSection, seed: int, folder: Path) -> nn.Module:
    """The model with weights drawn from `seed`; a factory file is looked up beside the configuration, in
    `folder`.

    Raises ConfigError where the factory cannot be found, fails, or returns something else.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if section.mlp is not None:
            return _mlp(section)
        return _from_factory(section.factory or "", section.arguments, folder)


def _mlp(section: ModelSection) -> nn.Module:
    widths = section.mlp or ()
    layers: list[nn.Module] = [nn.Flatten()] if len(section.input_shape or ()) > 1 else []
    for before, after in itertools.pairwise(widths):
        layers.append(nn.Linear(before, after))
        if section.batch_norm:
            layers.append(nn.BatchNorm1d(after))
        layers.append(ACTIVATIONS[section.activation]())
    return nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]))


def _from_factory(factory: str, arguments: Mapping[str, Any], folder: Path) -> nn.Module:
    where, _, name = factory.rpartition(":")
    try:
        if where.endswith(".py"):
            spec = importlib.util.spec_from_file_location(Path(where).stem, folder / where)
            if spec is None or spec.loader is None:
                raise ImportError("no Python file")
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(where)
        model = getattr(module, name)(**arguments)
    except Exception as error:  # whatever a user's file raises is told as a mistake of the configuration
        raise ConfigError(f"model.factory = {factory!r}: {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise ConfigError(
            f"model.factory = {factory!r} returned {type(model).__name__}; a torch.nn.Module is needed"
        )
    return model


@dataclass(frozen=True)
class Evaluation:
    """`loss` is the mean cross-entropy; `accuracy` is a share of `samples`."""

    samples: int
    loss: float
    accuracy: float


def evaluate(
    model: nn.Module, state: Mapping[str, torch.Tensor], data: Dataset, batch: int = 1024
) -> Evaluation:
    """The model with these weights on a data set, in evaluation mode. Raises RunError where they do
    not fit.
    """
    try:
        model.load_state_dict(state)
        model.eval()
        loss, correct = 0.0, 0
        with torch.no_grad():
            for start in range(0, len(data), batch):
                labels = torch.from_numpy(data.labels[start : start + batch])
                logits = model(torch.from_numpy(data.inputs[start : start + batch]))
                loss += float(nn.functional.cross_entropy(logits, labels, reduction="sum"))
                correct += int((logits.argmax(1) == labels).sum())
    except (RuntimeError, IndexError) as error:
        raise RunError(f"the model does not fit these weights or this data: {error}") from error
    return Evaluation(len(data), loss / len(data), correct / len(data))
