"""Samples in another layout than a model's: height, width and channels in another order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import permutations
from typing import Any

import torch
from torch import Tensor

CHANNELS = ((2, 0, 1), (1, 2, 0))
"""The likeliest mistakes: channels last, and channels first."""
MOST = 4
"""Axes whose orders are all tried."""
OTHERWISE = "; give samples of the shape that the model takes, or a model that takes this one"


def remedy(run: Callable[[Tensor], Any], sample: Sequence[int]) -> str:
    """Return what to do about samples of shape `sample` on which a model does not run: how to transpose
    them, if it runs on another order of their axes.

    `run` calls the model on float32 [2, *shape].
    """
    axes = len(sample)
    if axes > MOST:
        return OTHERWISE
    for order in (*(CHANNELS if axes == 3 else ()), *permutations(range(axes))):
        shape = tuple(sample[axis] for axis in order)
        if shape != tuple(sample) and _runs(run, shape):
            text = ", ".join(map(str, (0, *(axis + 1 for axis in order))))
            return f"; it runs on samples of shape {shape}: save them transposed, inputs.transpose({text})"
    return OTHERWISE


def _runs(run: Callable[[Tensor], Any], shape: Sequence[int]) -> bool:
    try:
        with torch.no_grad():
            run(torch.zeros(2, *shape))
    except Exception:  # whatever a user's model raises
        return False
    return True
