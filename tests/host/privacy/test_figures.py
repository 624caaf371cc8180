"""Figures of attacks agree with their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from crowdlearn_host.privacy.audit.figures import auc, psnr, ssim
from sklearn.metrics import roc_auc_score

RNG = np.random.default_rng(0)


def test_psnr_of_a_known_error() -> None:
    truth = np.zeros((3, 4), np.float32)
    truth[0, 0] = 1.0
    assert psnr(truth, truth + np.float32(0.1)) == pytest.approx(20.0, abs=1e-3)


@pytest.mark.parametrize("shape", [(5, 28, 28), (4, 3, 16, 16), (3, 6, 9)])
def test_ssim_is_that_of_scikit_image(shape: tuple[int, ...]) -> None:
    metrics = pytest.importorskip("skimage.metrics", reason="scikit-image is not installed")
    truth = RNG.random(shape, np.float32)
    guess = np.clip(truth + 0.2 * RNG.standard_normal(shape), 0, 1).astype(np.float32)
    side = min(7, *shape[-2:])
    span, axis = float(truth.max() - truth.min()), 0 if len(shape) == 4 else None
    expected = np.mean(
        [
            metrics.structural_similarity(
                t, g, data_range=span, win_size=side - 1 + side % 2, channel_axis=axis
            )
            for t, g in zip(truth.astype(float), guess.astype(float), strict=True)
        ]
    )
    assert ssim(truth, guess) == pytest.approx(float(expected), abs=1e-9)
    assert ssim(truth, truth) == pytest.approx(1.0)


def test_auc_is_the_probability_of_a_higher_score() -> None:
    scores = RNG.integers(0, 6, 200).astype(float)  # with ties
    members = RNG.random(200) < 0.4
    expected = roc_auc_score(members, scores)
    assert auc(scores[members], scores[~members]) == pytest.approx(expected)
