"""Metrics are what scikit-learn computes, for targets of their kind alone."""

from __future__ import annotations

import numpy as np
import pytest
from crowdlearn_device.protocol.targets import TargetSpec
from crowdlearn_host.runs.results.metrics import METRICS, measured
from sklearn import metrics as theirs

CLASSES, LABELS, NUMBERS = TargetSpec(), TargetSpec("float32", (3,), 0.0, 1.0), TargetSpec("float32", (3,))


def draw(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_of_classes() -> None:
    scores, targets = draw().normal(size=(80, 4)).astype(np.float32), draw(1).integers(0, 4, 80)
    guesses = scores.argmax(1)
    assert measured(CLASSES, scores, targets) == pytest.approx(
        {
            "accuracy": theirs.accuracy_score(targets, guesses),
            "balanced_accuracy": theirs.balanced_accuracy_score(targets, guesses),
            "f1": theirs.f1_score(targets, guesses, average="macro"),
        }
    )


def test_of_labels() -> None:
    scores = np.round(draw().normal(size=(80, 3)), 1).astype(np.float32)
    targets = draw(1).integers(0, 2, (80, 3)).astype(np.float32)
    assert measured(LABELS, scores, targets) == pytest.approx(
        {
            "accuracy": ((scores >= 0) == (targets == 1)).mean(),
            "f1": theirs.f1_score(targets, scores >= 0, average="macro"),
            "auc": theirs.roc_auc_score(targets, scores, average="macro"),
        }
    )


def test_of_numbers() -> None:
    scores, targets = (draw(seed).normal(size=(80, 3)).astype(np.float32) for seed in (0, 1))
    found = measured(NUMBERS, scores, targets)
    assert found["mae"] == pytest.approx(theirs.mean_absolute_error(targets, scores))
    assert found["rmse"] == pytest.approx(np.sqrt(theirs.mean_squared_error(targets, scores)))
    assert found["r2"] == pytest.approx(
        theirs.r2_score(targets, scores, multioutput="variance_weighted"), 1e-5
    )


def test_what_samples_do_not_define_is_no_number() -> None:
    ones = np.ones((4, 3), np.float32)
    assert np.isnan(measured(LABELS, ones, ones)["auc"])
    assert np.isnan(measured(NUMBERS, ones, ones)["r2"])


@pytest.mark.parametrize("spec", [CLASSES, LABELS, NUMBERS])
def test_metrics_have_one_name_for_targets_of_a_kind(spec: TargetSpec) -> None:
    names = [metric.name for metric in METRICS if metric.fits(spec)]
    assert names
    assert len(set(names)) == len(names)
