"""Membership: whether a sample was trained on, read from how weights moved."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from crowdlearn_device.protocol.frames import Floats
from numpy.typing import NDArray

from .figures import auc

WEAKEST = 1e-5
"""The least strength of a direction, against the strongest; below is rounding."""


def scores(moves: Floats, candidates: Floats, own: Floats) -> NDArray[np.float64]:
    """Score candidates [N, p] by how much of each lies in the row space of `moves` [neurons, p].

    A first layer moves by sums of errors times samples, hence within the span of the samples that it learned
    from. The whitening is that of the attacker's own samples [M, p]. Returns float64 [N] in [0, 1], higher
    for members.
    """
    variances, axes = np.linalg.eigh(np.cov(own, rowvar=False))
    alive = variances > WEAKEST * variances[-1]
    white = axes[:, alive] / np.sqrt(variances[alive])
    _, strengths, rows = np.linalg.svd(moves.astype(np.float64) @ white, full_matrices=False)
    rows = rows[strengths > WEAKEST * strengths[0]]
    z = (candidates - own.mean(0)) @ white
    inside: NDArray[np.float64] = ((z @ rows.T) ** 2).sum(1) / np.maximum((z**2).sum(1), 1e-12)
    return inside


def auc_of_moves(moves: Sequence[Floats], members: Floats, own: Floats) -> float:
    """Return the AUC by which members [N, p] are told from the attacker's own samples [M, p], of which half
    or more whiten; `moves` [neurons, p] are of some spans of training, whose scores are added.
    """
    others = own[: min(len(members), len(own) // 2)]
    candidates = np.concatenate([members, others])
    found = np.sum([scores(each, candidates, own[len(others) :]) for each in moves], axis=0)
    return auc(found[: len(members)], found[len(members) :])
