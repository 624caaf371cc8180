"""Labels after randomised response: what is learned from them reveals the true ones within an epsilon."""

from __future__ import annotations

from math import exp

import numpy as np
from numpy.typing import NDArray

from crowdlearn_device.data.dataset import Dataset
from crowdlearn_device.errors import DataError


def flipped(
    labels: NDArray[np.int64], classes: int, epsilon: float, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return labels int64 [N] after randomised response: each stays, or becomes any other class, so that
    everything that is learned from it reveals the true one within `epsilon`.
    """
    keeps = rng.random(len(labels)) < exp(epsilon) / (exp(epsilon) + classes - 1)
    others = (labels + rng.integers(1, max(classes, 2), len(labels))) % classes
    return np.where(keeps, labels, others)


def private_labels(data: Dataset, classes: int, epsilon: float, secret: int) -> Dataset:
    """Return a device's samples with its labels after randomised response, drawn from a `secret` of its own.

    The same secret gives the same labels: what several epochs or runs reveal is no more than what one does.
    Raises DataError if the labels are not one class each.
    """
    if data.labels.dtype.kind != "i" or data.labels.ndim != 1:
        raise DataError(
            "privacy.label_epsilon changes classes, and the labels here are not one class a sample; leave it "
            "out"
        )
    return Dataset(data.inputs, flipped(data.labels, classes, epsilon, np.random.default_rng(secret)))
