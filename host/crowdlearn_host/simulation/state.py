"""What a simulated run has after each round."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from crowdlearn_device.protocol.frames import Floats

from crowdlearn_host.errors import TrainingError
from crowdlearn_host.methods.slicenet.window import Window


@dataclass(frozen=True)
class RoundRecord:
    """One round: what is trained up to a sharing, an epoch unless sharing comes more often.

    `accuracy` is the global model's, or the groups' mean if nothing is shared (None before the last round if
    it takes many evaluations); `group_accuracy` is the groups' mean after the last round. If there are no
    classes, both are None, and `test_loss` is the loss of those models. `bytes` of activation, error and
    shuffle are modelled; those of sharing are encoded updates'. `epsilon` is the largest that a device has
    spent, at the run's delta; None without noise; `group_epsilon` is that of all that a group did, by noise
    in the sums. `validation` has loss and metrics of the global model on the validation split, by name, after
    an epoch's last round. `epsilons` are those of devices by their number of samples. `device_metrics` are
    means over the samples trained on, by name.
    """

    round: int
    epoch: int
    samples: int
    loss: float
    accuracy: float | None
    group_accuracy: float | None
    seconds: float
    bytes: dict[str, int] = field(default_factory=dict)
    test_loss: float | None = None
    epsilon: float | None = None
    group_epsilon: float | None = None
    validation: dict[str, float] = field(default_factory=dict)
    epsilons: dict[str, float] = field(default_factory=dict)
    device_metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class RunState:
    """All that a run needs to go on after a round. `slots` are what the optimizer keeps, float32 [groups, k *
    floats], one array after the other, and `updates` those that each group has had. `kept` are the running
    statistics that each device keeps to itself, float32 [devices, statistics], NaN before its first pass; [0,
    0] where devices keep none.
    """

    weights: Floats
    slots: Floats
    window: Window
    records: tuple[RoundRecord, ...] = ()
    updates: tuple[int, ...] = ()
    kept: Floats = field(default_factory=lambda: np.zeros((0, 0), np.float32))


def diverged(number: int, what: str) -> TrainingError:
    """Return the error to raise if round `number` ended in weights that training cannot go on from."""
    return TrainingError(f"round {number + 1}: {what}; training diverged, lower training.learning_rate")
