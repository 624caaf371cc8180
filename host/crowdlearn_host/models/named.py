"""The paper's two networks by name, and a user's own by reference."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable, Sequence
from functools import partial

import torch
from crowdlearn_export.user_code import import_file, staying
from torch import nn

from crowdlearn_host.errors import ConfigError
from crowdlearn_host.models.names import FORMS, MLP, model_file
from crowdlearn_host.models.several_inputs import of_one_input


def mlp(widths: Sequence[int]) -> nn.Module:
    """Build dense layers of these widths, inputs first, with batch norm and ReLU between them."""
    layers: list[nn.Module] = []
    for sources, targets in itertools.pairwise(widths[:-1]):
        layers += [nn.Linear(sources, targets), nn.BatchNorm1d(targets), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]))


def paper_mlp() -> nn.Module:
    """Build 784-400-200-100-10 with batch norm, for MNIST; inputs [B, 784]."""
    return mlp((784, 400, 200, 100, 10))


def paper_cnn() -> nn.Module:
    """Build conv-pool-conv-pool-3200-128-64-10 for CIFAR-10; inputs [B, 3, 32, 32].

    The paper names the 3200 inputs of its dense part, not the convolutions: 5 x 5 without padding, 32 and 128
    channels, the second pool of width 2 leave 128 maps of 5 x 5 = 3200.
    """
    return nn.Sequential(
        *(nn.Conv2d(3, 32, 5), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 128, 5), nn.BatchNorm2d(128), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(3200, 128), nn.BatchNorm1d(128), nn.ReLU()),
        *(nn.Linear(128, 64), nn.BatchNorm1d(64), nn.ReLU()),
        nn.Linear(64, 10),
    )


PAPER_MODELS: dict[str, Callable[[], nn.Module]] = {"paper-mlp": paper_mlp, "paper-cnn": paper_cnn}


def build_model(name: str, seed: int) -> nn.Module:
    """Return the model called `name`, initialised by `seed`.

    `paper-mlp`, `paper-cnn`, `mlp:784-100-10` for dense layers of these widths, or `package.module:function`
    or `file.py:function` for a function that returns a torch.nn.Module. Raises ConfigError if there is no
    such model.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        builder = _builder(name)
        try:
            with staying():
                model = builder()
        except Exception as error:  # whatever a user's function raises is a mistake of the configuration
            raise ConfigError(f"model {name!r} failed: {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise ConfigError(f"{name} gives a {type(model).__name__}; it must return a torch.nn.Module")
    for parameter, values in model.named_parameters():
        if _is_there(values) and not torch.isfinite(values).all():
            raise ConfigError(f"model {name!r}: {parameter} is not finite; initialise it with numbers")
    return of_one_input(model)


def _is_there(values: nn.Parameter) -> bool:
    return not isinstance(values, nn.UninitializedParameter) and values.device.type == "cpu"


def _builder(name: str) -> Callable[[], object]:
    if name in PAPER_MODELS:
        return PAPER_MODELS[name]
    if widths := MLP.fullmatch(name):
        return partial(mlp, [int(width) for width in widths[1].split("-")])
    module, _, function = name.rpartition(":")
    file = model_file(name)
    try:
        with staying():
            found = import_file(file) if file else importlib.import_module(module)
        builder: Callable[[], object] = getattr(found, function)
    except Exception as error:  # importing runs a user's code
        raise ConfigError(f"model {name!r} is neither {FORMS} ({error})") from error
    return builder
