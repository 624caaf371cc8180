"""Reading labels: which part of them a follower reads from the errors that it gets, and from sums.

It gets the errors of a whole layer, however few neurons it owns before it: the product with all of the layer
is its own. So this part does not depend on its neurons. Of sums it gets those of its own neurons alone; what
all of them tell bounds it.
"""

from __future__ import annotations

import numpy as np
from crowdlearn_device.protocol.frames import Floats
from numpy.typing import NDArray

from .matching import standardised

Labels = NDArray[np.int64]
KNOWN = 10
"""Labels of each class that an attacker knows."""
RIDGE = 1e-2
"""The part of the mean square of a view by which the reader is kept from learning noise."""
TINY = 1e-12


def read_from_errors(errors: Floats, labels: Labels, classes: int) -> float:
    """Return the part of labels, int64 [N], that the better of two attacks reads from errors float32 [N, d]:
    the least error of the last sums, and a linear reader of directions that knows KNOWN labels a class.
    """
    least = float((errors.argmin(1) == labels).mean()) if errors.shape[1] == classes else 0.0
    directions = errors / (np.linalg.norm(errors, axis=1, keepdims=True) + TINY)
    return max(least, _by_known_labels(directions, labels, classes))


def read_from_sums(sums: Floats, labels: Labels, classes: int) -> float:
    """Return the part that a linear reader who knows KNOWN labels a class reads from sums float32 [N, d]."""
    return _by_known_labels(standardised(sums, sums), labels, classes)


def _by_known_labels(views: Floats, labels: Labels, classes: int) -> float:
    """Return what a linear reader gets right of the labels that it does not know."""
    rng = np.random.default_rng(0)
    own = [rng.permutation(np.flatnonzero(labels == c))[:KNOWN] for c in range(classes)]
    known = np.concatenate(own)
    others = np.setdiff1d(np.arange(len(labels)), known)
    if not len(known) or not len(others):
        return 0.0
    taught = np.hstack([views[known], np.ones((len(known), 1), np.float32)])
    hot = np.eye(classes)[labels[known]]
    square = taught @ taught.T  # by samples, of which there are few
    ridge = RIDGE * np.trace(square) / len(known)
    reader = taught.T @ np.linalg.solve(square + ridge * np.eye(len(known)), hot)
    read = np.hstack([views[others], np.ones((len(others), 1), np.float32)]) @ reader
    return float((read.argmax(1) == labels[others]).mean())
