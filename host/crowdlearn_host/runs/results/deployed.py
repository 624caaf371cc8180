"""A run's model as it is deployed: with its newest weights, and samples to export it by."""

from __future__ import annotations

from pathlib import Path

import torch
from crowdlearn_export.tracing.whole import as_samples, sample_dtype
from torch import Tensor, nn

from crowdlearn_host.coordinator.storage.run_folder import check_has_model, load_model_state

from .trained_model import model_and_test


def model_and_sample(run: Path, data: str | None) -> tuple[nn.Module, Tensor]:
    """Return a run's network with the newest global weights, and two random samples that it takes, float32 or
    int64 [2, ...].

    Raises RunError if the run has no model yet, ConfigError if neither `data` nor the run names test data.
    """
    check_has_model(run)
    model, test = model_and_test(run, data)
    model.load_state_dict(load_model_state(run))
    shape = test.inputs.shape[1:]
    numbers = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    return model, as_samples(numbers, sample_dtype(model, shape))
