"""Figures of an attack's success: PSNR, SSIM, re-identification, label accuracy, AUC."""

from __future__ import annotations

import numpy as np
from crowdlearn_device.protocol.frames import Floats
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

WINDOW = 7
"""Pixels of the side of SSIM's window, if the image is not smaller."""


def psnr(truth: Floats, guess: Floats) -> float:
    """Return the mean over samples of the peak signal-to-noise ratio in dB; the range is that of `truth`.

    Both are float32 [N, ...].
    """
    span = float(truth.max() - truth.min()) or 1.0
    errors = ((truth - guess).reshape(len(truth), -1).astype(np.float64) ** 2).mean(1)
    return float((10 * np.log10(span**2 / np.maximum(errors, 1e-12))).mean())


def ssim(truth: Floats, guess: Floats) -> float:
    """Return the mean structural similarity of images, float32 [N, H, W] or [N, C, H, W].

    It is that of Wang et al. 2004 with a uniform window, as scikit-image computes it by default.
    """
    shape = (-1, *truth.shape[-2:])
    x, y = truth.reshape(shape).astype(np.float64), guess.reshape(shape).astype(np.float64)
    span = float(truth.max() - truth.min()) or 1.0
    side = min(WINDOW, *truth.shape[-2:])
    side -= 1 - side % 2
    unbiased = side**2 / (side**2 - 1)

    def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
        found: NDArray[np.float64] = uniform_filter(values, (0, side, side))
        return found

    a, b = mean(x), mean(y)
    aa, bb, ab = (unbiased * (mean(p) - q) for p, q in ((x * x, a * a), (y * y, b * b), (x * y, a * b)))
    c, d = (0.01 * span) ** 2, (0.03 * span) ** 2
    local = (2 * a * b + c) * (2 * ab + d) / ((a * a + b * b + c) * (aa + bb + d))
    edge = side // 2
    inner = local[:, edge : local.shape[1] - edge, edge : local.shape[2] - edge]
    return float(inner.mean())


def auc(members: NDArray[np.floating], others: NDArray[np.floating]) -> float:
    """Return the probability that a member's score is above another's: 0.5 is chance. Both are [N]."""
    scores = np.concatenate([members, others])
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]  # ties share their mean rank
    n, m = len(members), len(others)
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * m))
