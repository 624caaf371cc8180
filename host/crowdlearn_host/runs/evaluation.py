"""What a model makes of a test set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from crowdlearn_device.data.dataset import Dataset
from torch import nn

from crowdlearn_host.errors import RunError

BATCH = 1024


@dataclass(frozen=True)
class Evaluation:
    """`loss` is the mean cross-entropy; `accuracy` is a share of `samples`."""

    samples: int
    loss: float
    accuracy: float


def evaluate(model: nn.Module, state: Mapping[str, torch.Tensor], data: Dataset) -> Evaluation:
    """The model with these weights on a data set, in evaluation mode. Raises RunError where they do
    not fit.
    """
    try:
        model.load_state_dict(state)
        model.eval()
        loss, correct = 0.0, 0
        with torch.no_grad():
            for start in range(0, len(data), BATCH):
                labels = torch.from_numpy(data.labels[start : start + BATCH])
                logits = model(torch.from_numpy(data.inputs[start : start + BATCH]))
                loss += float(nn.functional.cross_entropy(logits, labels, reduction="sum"))
                correct += int((logits.argmax(1) == labels).sum())
    except (RuntimeError, IndexError) as error:
        raise RunError(f"the model does not fit these weights or this data: {error}") from error
    return Evaluation(len(data), loss / len(data), correct / len(data))
