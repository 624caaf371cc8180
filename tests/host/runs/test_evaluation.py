"""A test set is evaluated alike whether its targets are [N] or [N, 1]."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from crowdlearn_device.data.dataset import Dataset
from crowdlearn_device.errors import DataError
from crowdlearn_export.losses.registry import make_loss
from crowdlearn_host.runs.results.evaluation import BATCH, evaluate
from torch import nn


@pytest.mark.parametrize("kind", ["mse", "l1", "huber"])
def test_numbers_are_compared_with_their_own_sample(kind: str) -> None:
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((BATCH + 7, 3)).astype(np.float32)
    model = nn.Linear(3, 1)
    with torch.no_grad():
        exact = model(torch.from_numpy(inputs)).numpy()
    targets = exact[:, 0] + np.float32(0.5)
    state, loss = model.state_dict(), make_loss(kind)
    flat = evaluate(model, state, Dataset(inputs, targets), loss)
    column = evaluate(model, state, Dataset(inputs, targets[:, None]), loss)
    assert flat == column
    assert flat.metrics["mae"] == pytest.approx(0.5, rel=1e-5)
    assert flat.loss == pytest.approx({"mse": 0.25, "l1": 0.5, "huber": 0.125}[kind], rel=1e-5)


def test_targets_of_another_width_are_refused() -> None:
    model = nn.Linear(3, 2)
    data = Dataset(np.zeros((4, 3), np.float32), np.zeros(4, np.float32))
    with pytest.raises(DataError, match="the test data has targets of shape"):
        evaluate(model, model.state_dict(), data, make_loss("mse"))
