"""Matching of views: which of many samples a view is of."""

from __future__ import annotations

import numpy as np
from crowdlearn_device.protocol.frames import Floats
from numpy.typing import NDArray

Positions = NDArray[np.int64]
TINY = 1e-12


def matches(seen: Floats, gallery: Floats, kept: int = 96) -> Positions:
    """Return the index of the gallery's nearest view for each seen one, int64 [N].

    Both are float32 [., d], standardised. The distance is that of whitened principal components: what varies
    much in the gallery tells samples apart no better than what varies little.
    """
    if not seen.shape[1]:
        return np.zeros(len(seen), np.int64)
    variances, axes = np.linalg.eigh(gallery.T @ gallery)
    variances, axes = variances[::-1][:kept], axes[:, ::-1][:, :kept]
    alive = variances > variances[0] * 1e-6
    scale = axes[:, alive] / (variances[alive] / variances[0]) ** 0.25  # half way to white: less noise
    a, b = seen @ scale, gallery @ scale
    a /= np.linalg.norm(a, axis=1, keepdims=True) + TINY
    b /= np.linalg.norm(b, axis=1, keepdims=True) + TINY
    nearest: Positions = (a @ b.T).argmax(1)
    return nearest


def standardised(x: Floats, by: Floats) -> Floats:
    """Return views [N, d], centred and scaled by those of `by` [M, d]; all are float32."""
    spread = by.std(0)
    alive = spread > TINY
    centred: Floats = (x - by.mean(0)) / np.where(alive, spread, 1.0)
    return np.asarray(centred * alive, np.float32)
