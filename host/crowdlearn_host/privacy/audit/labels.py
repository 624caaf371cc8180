"""Label reading: from views to the classes of samples."""

from __future__ import annotations

import numpy as np
from crowdlearn_device.protocol.frames import Floats
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression

from .attacks import Evidence

Labels = NDArray[np.int64]


def least_error(errors: Floats) -> Labels:
    """Read labels from the errors of the last sums, float32 [N, classes]: softmax minus one at the label."""
    read: Labels = errors.argmin(1)
    return read


def self_taught(errors: Floats, seen: Floats) -> Labels:
    """Read labels from last errors, float32 [N, classes], where they are decisive: one alone is negative.

    A classifier of the views [N, d] that these labels teach reads the others.
    """
    read = least_error(errors)
    sure = (errors < 0).sum(1) == 1
    if sure.all() or len(np.unique(read[sure])) < 2:
        return read
    model = LogisticRegression(max_iter=100, tol=1e-3).fit(seen[sure], read[sure])
    read[~sure] = model.predict(seen[~sure])
    return read


def clustered(seen: Floats, truth: Labels, classes: int) -> float:
    """Return the accuracy of k-means on views [N, d], with every second sample's label known.

    The known ones name the clusters as well as they can; the accuracy is that on the others.
    """
    found = KMeans(classes, n_init=2, random_state=0).fit_predict(seen)
    table = np.zeros((classes, classes))
    np.add.at(table, (found[::2], truth[::2]), 1)
    _, name = linear_sum_assignment(-table)
    return float((name[found[1::2]] == truth[1::2]).mean())


def few_known(seen: Floats, truth: Labels, classes: int, known: int = 10, seed: int = 0) -> float:
    """Return the accuracy of a classifier that knows `known` labels a class, on all other samples.

    Views are float32 [n, d], labels int64 [n].
    """
    rng = np.random.default_rng(seed)
    own = [rng.permutation(np.flatnonzero(truth == c))[:known] for c in range(classes)]
    taught = np.concatenate([rows for rows in own if len(rows)])
    rest = np.setdiff1d(np.arange(len(truth)), taught)
    model = LogisticRegression(max_iter=200).fit(seen[taught], truth[taught])
    return float((model.predict(seen[rest]) == truth[rest]).mean())


def trained(evidence: Evidence) -> Labels:
    """Read labels by a classifier that was trained on the attacker's own samples."""
    known, seen = evidence.standard
    model = LogisticRegression(max_iter=60, tol=1e-2).fit(known, evidence.labels)
    read: Labels = model.predict(seen)
    return read
