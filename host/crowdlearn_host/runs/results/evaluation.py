"""What a model makes of a test set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from crowdlearn_device.data.dataset import Dataset, as_targets
from crowdlearn_device.protocol.targets import IGNORED
from crowdlearn_export.losses.base import Loss
from crowdlearn_export.losses.registry import CROSS_ENTROPY
from crowdlearn_export.tracing.whole import sample_dtype
from torch import nn

from crowdlearn_host.errors import RunError

from .metrics import Scores, Targets, measured
from .own_metrics import computed

BATCH = 1024
MOST_SHOWN, MOST_PAIRS = 20, 200
"""Classes of a confusion matrix, and pairs of numbers, that an evaluation keeps."""
SMALL = 1e-12
"""A divisor in place of 0, if no sample counts."""


@dataclass(frozen=True)
class ClassResult:
    """The number of samples that a class has, and how many of them are classified correctly."""

    samples: int
    correct: int


@dataclass(frozen=True)
class Evaluation:
    """An evaluation of a model. `loss` is the mean of a sample; `accuracy` is a share of `samples`, None if
    there are no classes; `classes` are in their order; `metrics` are all that fit, by name.
    `confusion` counts samples by their class and the class that the model predicts, of at most MOST_SHOWN
    classes. `pairs` are some targets that are numbers, and what the model predicts.
    """

    samples: int
    loss: float
    accuracy: float | None
    classes: tuple[ClassResult, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    confusion: tuple[tuple[int, ...], ...] = ()
    pairs: tuple[tuple[float, float], ...] = ()

    @property
    def rank(self) -> float:
        """Return a number that is higher for better models: the accuracy, or else the loss negated."""
        return -self.loss if self.accuracy is None else self.accuracy


def evaluate(
    model: nn.Module,
    state: Mapping[str, torch.Tensor],
    data: Dataset,
    loss: Loss = CROSS_ENTROPY,
    own: Sequence[str] = (),
) -> Evaluation:
    """Evaluate the model with these weights on a data set, in evaluation mode; `own` are references to a
    user's own metrics.

    Raises RunError if they do not fit, DataError if labels do not fit the loss or the model's outputs,
    ConfigError if a metric fails.
    """
    try:
        model.load_state_dict(state)
        model.eval()
        dtype = sample_dtype(model, data.inputs.shape[1:])
        with torch.no_grad():
            scores = np.concatenate(
                [
                    model(torch.from_numpy(data.inputs[start : start + BATCH]).to(dtype)).numpy()
                    for start in range(0, len(data), BATCH)
                ]
            )
    except (RuntimeError, IndexError) as error:
        raise RunError(f"the model does not fit these weights or this data: {error}") from error
    spec = loss.targets(*scores.shape[1:])
    targets = as_targets(data.labels, spec, scores.shape[-1], "the test data")
    pairs = (
        (torch.from_numpy(each[start : start + BATCH]) for each in (scores, targets))
        for start in range(0, len(data), BATCH)
    )
    summed = sum(float(loss.reference(found, wanted)) for found, wanted in pairs)
    mean = summed / max(spec.weight(targets), SMALL)
    if spec.are_sequences:
        scores, targets = scores.reshape(-1, scores.shape[-1]), targets.reshape(-1)
        scores, targets = scores[targets != IGNORED], targets[targets != IGNORED]
    metrics = measured(spec, scores, targets) | computed(own, scores, targets)
    if not spec.are_classes:
        points = _pairs(targets, scores) if spec.most is None else ()
        return Evaluation(len(data), mean, None, (), metrics, (), points)
    samples, correct = np.bincount(targets), np.bincount(targets, scores.argmax(1) == targets)
    classes = (ClassResult(int(n), int(k)) for n, k in zip(samples, correct, strict=True))
    found = _confusion(targets, scores)
    return Evaluation(len(data), mean, metrics["accuracy"], tuple(classes), metrics, found)


def _confusion(targets: Targets, scores: Scores) -> tuple[tuple[int, ...], ...]:
    """Return counts by class and told class, of targets int64 [N] and scores float32 [N, classes]."""
    classes = scores.shape[1]
    if classes > MOST_SHOWN:
        return ()
    counts = np.bincount(targets * classes + scores.argmax(1), minlength=classes**2)
    return tuple(tuple(map(int, row)) for row in counts.reshape(classes, classes))


def _pairs(targets: Targets, scores: Scores) -> tuple[tuple[float, float], ...]:
    """Return targets and scores float32 [N, outputs] of MOST_PAIRS places at most, spread evenly."""
    true, predicted = targets.ravel(), scores.ravel()
    chosen = np.unique(np.linspace(0, true.size - 1, min(MOST_PAIRS, true.size)).astype(np.int64))
    return tuple((float(f"{true[at]:.4g}"), float(f"{predicted[at]:.4g}")) for at in chosen)
