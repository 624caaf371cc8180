"""What a model makes of a test set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from crowdlearn_device.data.dataset import Dataset
from torch import nn

from crowdlearn_host.errors import RunError

BATCH = 1024


@dataclass(frozen=True)
class ClassResult:
    """How many samples a class has, and how many of them are classified correctly."""

    samples: int
    correct: int


@dataclass(frozen=True)
class Evaluation:
    """`loss` is the mean cross-entropy of a sample; `accuracy` is a share of `samples`; `classes` are in
    their order.
    """

    samples: int
    loss: float
    accuracy: float
    classes: tuple[ClassResult, ...] = ()


def evaluate(model: nn.Module, state: Mapping[str, torch.Tensor], data: Dataset) -> Evaluation:
    """The model with these weights on a data set, in evaluation mode. Raises RunError where they do
    not fit.
    """
    try:
        model.load_state_dict(state)
        model.eval()
        loss, right = 0.0, np.zeros(len(data), bool)
        with torch.no_grad():
            for start in range(0, len(data), BATCH):
                labels = torch.from_numpy(data.labels[start : start + BATCH])
                logits = model(torch.from_numpy(data.inputs[start : start + BATCH]))
                loss += float(nn.functional.cross_entropy(logits, labels, reduction="sum"))
                right[start : start + BATCH] = (logits.argmax(1) == labels).numpy()
    except (RuntimeError, IndexError) as error:
        raise RunError(f"the model does not fit these weights or this data: {error}") from error
    samples, correct = np.bincount(data.labels), np.bincount(data.labels, right)
    classes = (ClassResult(int(n), int(k)) for n, k in zip(samples, correct, strict=True))
    return Evaluation(len(data), loss / len(data), int(right.sum()) / len(data), tuple(classes))
