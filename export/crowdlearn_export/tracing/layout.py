"""Samples in another layout than a model's: height, width and channels in another order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from crowdlearn_device.data.dataset import orders
from torch import Tensor


def remedy(run: Callable[[Tensor], Any], sample: Sequence[int]) -> str:
    """Return, of samples of shape `sample` that a model does not run on, how to transpose them; "" if no
    order of their axes runs.

    `run` calls the model on float32 [2, *shape].
    """
    for order in orders(len(sample)):
        shape = tuple(sample[axis] for axis in order)
        if shape != tuple(sample) and _runs(run, shape):
            axes = ", ".join(map(str, (0, *(axis + 1 for axis in order))))
            return f"; it runs on samples of shape {shape}: save them transposed, inputs.transpose({axes})"
    return ""


def _runs(run: Callable[[Tensor], Any], shape: Sequence[int]) -> bool:
    try:
        with torch.no_grad():
            run(torch.zeros(2, *shape))
    except Exception:  # whatever a user's model raises
        return False
    return True
