"""A mini-batch under way in a piece: what it holds between one stage and the next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from crowdlearn_device.protocol.frames import Array, Floats

from .inbox import Arrivals


@dataclass(frozen=True)
class Result:
    """The dominator's result of a micro-batch; `own` are means of a user's own metrics, by name."""

    micro: int
    rows: int
    loss: float
    correct: int
    own: Mapping[str, float] = field(default_factory=dict)


class Call(NamedTuple):
    """One run of a stage; the last layer stands for those that turn round with it."""

    step: int
    purpose: int
    micro: int
    layer: int


@dataclass
class MiniBatch:
    """A mini-batch under way. `number` is the boundary before it. `waiting` counts the messages that a call
    lacks; `sums` are those that entered layers, by micro-batch and layer; `done` counts calls after which a
    layer is done with a micro-batch: backward, or forward where it does not go backward. `weight` is by how
    much its samples count in the mean, known where they are fed.
    """

    number: int
    micros: int
    rows: int
    arrivals: Arrivals
    waiting: dict[Call, int] = field(default_factory=dict)
    labels: dict[int, Array] = field(default_factory=dict)
    sums: dict[tuple[int, int], Floats] = field(default_factory=dict)
    gradients: dict[str, Floats] = field(default_factory=dict)
    results: list[Result] = field(default_factory=list)
    done: int = 0
    weight: float = 0.0
    squares: dict[int, npt.NDArray[np.float64]] = field(default_factory=dict)
    """The squared norms of samples' gradients, where each is clipped, by micro-batch."""
    ran: list[tuple[int, str, dict[tuple[str, int], Array]]] = field(default_factory=list)
    """The calls that gave them: micro-batch, method, and its inputs beside weights."""
