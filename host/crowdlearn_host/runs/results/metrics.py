"""Metrics of a model on a test set: each one object, for targets of one kind."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
from crowdlearn_device.protocol.targets import TargetSpec
from numpy.typing import NDArray

from crowdlearn_host.errors import ConfigError

Scores = NDArray[np.float32]
Targets = NDArray[Any]


class Metric(ABC):
    """A number that tells how good scores float32 [N, outputs] are."""

    name: ClassVar[str]

    @classmethod
    @abstractmethod
    def fits(cls, spec: TargetSpec) -> bool:
        """Return whether it is defined for such targets."""

    @classmethod
    @abstractmethod
    def of(cls, scores: Scores, targets: Targets) -> float:
        """Return the metric over all samples; not a number if these samples do not define it."""


class _OfClasses(Metric):
    @classmethod
    def fits(cls, spec: TargetSpec) -> bool:
        return spec.are_classes


class _OfLabels(Metric):
    """The metrics of targets 0 or 1, one or several a sample; a share of 0.5 and more counts as 1."""

    @classmethod
    def fits(cls, spec: TargetSpec) -> bool:
        return not spec.are_classes and spec.most == 1


class _OfNumbers(Metric):
    @classmethod
    def fits(cls, spec: TargetSpec) -> bool:
        return not spec.are_classes and spec.most is None


class Accuracy(_OfClasses):
    """The share of samples whose highest score is their class's."""

    name = "accuracy"

    @classmethod
    def of(cls, scores: Scores, targets: Targets) -> float:
        return float((scores.argmax(1) == targets).mean())


class BalancedAccuracy(_OfClasses):
    """The mean over classes of the share of their samples that is right."""

    name = "balanced_accuracy"

    @classmethod
    def of(cls, scores: Scores, targets: Targets) -> float:
        right, found = scores.argmax(1) == targets, np.unique(targets)
        return float(np.mean([right[targets == each].mean() for each in found]))


class MacroF1(_OfClasses):
    """The mean over classes of F1."""

    name = "f1"

    @classmethod
    def of(cls, scores: Scores, targets: Targets) -> float:
        guesses = scores.argmax(1)
        return float(np.mean([_f1(guesses == each, targets == each) for each in np.unique(targets)]))


class Perplexity(_OfClasses):
    """The exponential of the mean cross-entropy of a position."""

    name = "perplexity"

    @classmethod
    def fits(cls, spec: TargetSpec) -> bool:
        return spec.are_sequences

    @classmethod
    def of(cls, scores: Scores, targets: Targets) -> float:
        shifted = scores.astype(np.float64) - scores.max(1, keepdims=True)
        logs = shifted[np.arange(len(targets)), targets] - np.log(np.exp(shifted).sum(1))
        return float(np.exp(-logs.mean()))


class LabelAccuracy(_OfLabels):
    """The share of labels that are told right."""

    name = "accuracy"

    @classmethod
    def of(cls, scores: Scores, targets: Targets) -> float:
        return float(((scores >= 0) == (targets >= 0.5)).mean())


class LabelF1(_OfLabels):
    """The mean over labels of F1."""

    name = "f1"

    @classmethod
    def of(cls, scores: Scores, targets: Targets) -> float:
        pairs = zip((scores >= 0).T, (targets >= 0.5).T, strict=True)
        return float(np.mean([_f1(guesses, truth) for guesses, truth in pairs]))


class LabelAuc(_OfLabels):
    """The mean over labels of the area under the ROC curve."""

    name = "auc"

    @classmethod
    def of(cls, scores: Scores, targets: Targets) -> float:
        areas = [_auc(of, truth) for of, truth in zip(scores.T, (targets >= 0.5).T, strict=True)]
        defined = [area for area in areas if not np.isnan(area)]
        return float(np.mean(defined)) if defined else float("nan")


class MeanAbsoluteError(_OfNumbers):
    """The mean absolute difference."""

    name = "mae"

    @classmethod
    def of(cls, scores: Scores, targets: Targets) -> float:
        return float(np.abs(scores.astype(np.float64) - targets).mean())


class RootMeanSquaredError(_OfNumbers):
    """The root of the mean squared difference."""

    name = "rmse"

    @classmethod
    def of(cls, scores: Scores, targets: Targets) -> float:
        return float(np.sqrt(np.square(scores.astype(np.float64) - targets).mean()))


class RSquared(_OfNumbers):
    """The share of the targets' variance that is explained, over all outputs."""

    name = "r2"

    @classmethod
    def of(cls, scores: Scores, targets: Targets) -> float:
        spread = np.square(targets - targets.mean(0, dtype=np.float64)).sum()
        missed = np.square(scores.astype(np.float64) - targets).sum()
        return float(1 - missed / spread) if spread else float("nan")


METRICS: tuple[type[Metric], ...] = (
    Accuracy,
    BalancedAccuracy,
    MacroF1,
    Perplexity,
    LabelAccuracy,
    LabelF1,
    LabelAuc,
    MeanAbsoluteError,
    RootMeanSquaredError,
    RSquared,
)


def measured(spec: TargetSpec, scores: Scores, targets: Targets) -> dict[str, float]:
    """Return every metric that fits, by name."""
    return {metric.name: metric.of(scores, targets) for metric in METRICS if metric.fits(spec)}


def check_metric(name: str, spec: TargetSpec) -> None:
    """Raise ConfigError if the metric of that name is not defined for such targets; the loss always is."""
    fitting = ["loss", *(metric.name for metric in METRICS if metric.fits(spec))]
    if name not in fitting:
        raise ConfigError(
            f"validation.metric = {name!r} is not defined for this loss; choose one of {', '.join(fitting)}"
        )


def _f1(guesses: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    both = int((guesses & truth).sum())
    positives = int(guesses.sum()) + int(truth.sum())
    return 2 * both / positives if positives else 1.0


def _auc(scores: Scores, truth: NDArray[np.bool_]) -> float:
    """Compute the area by ranks, ties counting half."""
    positive = int(truth.sum())
    negative = len(truth) - positive
    if not positive or not negative:
        return float("nan")
    _, at, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[at]
    return float((ranks[truth].sum() - positive * (positive + 1) / 2) / (positive * negative))
