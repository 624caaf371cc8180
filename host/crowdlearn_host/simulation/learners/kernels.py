"""What lies between a chain's products: loops over floats, compiled when they are first called (numba).

An operator of PyTorch or numpy takes microseconds before it does anything, and goes through its arrays once
more; a step of 50 samples would call 60 of them. Compiled code is kept beside this file, or in the user's
cache, for the next process.

All arrays are float32 unless said otherwise; those called vectors of a layer are [1, width], its bias, or,
where a batch norm follows, [5, width]: bias, gain, shift, running mean and running variance.
"""

from __future__ import annotations

from collections.abc import Callable
from math import exp, log, sqrt
from typing import Any, TypeVar, cast

import numba
import numpy as np
from crowdlearn_device.protocol.frames import Floats
from numpy.typing import NDArray

from .sparse_inputs import Indices

Loop = TypeVar("Loop", bound=Callable[..., Any])

BIAS, GAIN, SHIFT, MEAN, VARIANCE = range(5)
SAVED = 5
"""Rows that `normalise` keeps for `back_normalised`: mean, inverse of the deviation, and room for three."""
INEXACT = {"reassoc", "contract", "arcp", "nsz"}
"""Sums may be added in any order; what is not finite stays so, and training that diverges is told."""


def compiled(loop: Loop) -> Loop:
    """Return the loop, compiled when it is first called."""
    try:
        return cast(Loop, numba.njit(loop, cache=True, fastmath=INEXACT, error_model="numpy"))
    except RuntimeError:  # there is no folder in which compiled code could be kept
        return cast(Loop, numba.njit(loop, fastmath=INEXACT, error_model="numpy"))


@compiled
def rectify(sums: Floats, bias: Floats, outputs: Floats) -> None:
    """Apply ReLU to sums without their bias; `outputs` may be `sums`. Both are float32 [rows, targets]."""
    for i in range(len(sums)):
        for j in range(len(bias)):
            total = sums[i, j] + bias[j]
            outputs[i, j] = np.float32(0) if total < 0 else total


@compiled
def normalise(
    sums: Floats,
    edges: Indices,
    shares: Floats,
    vectors: Floats,
    eps: np.float32,
    saved: Floats,
    running: Floats,
    outputs: Floats,
) -> None:
    """Batch norm and ReLU of sums without their bias, of each mini-batch by itself: rows edges[k] to
    edges[k + 1] are the k-th's. Adds its mean, with the bias, and its variance by shares[k] to `running`.

    Sums are float32 [rows, targets], saved float32 [mini-batches, SAVED, targets], running float32 [2,
    targets].
    """
    width = sums.shape[1]
    bias, gain, shift = vectors[BIAS], vectors[GAIN], vectors[SHIFT]
    for k in range(len(edges) - 1):
        start, stop = edges[k], edges[k + 1]
        rows, share = np.float32(stop - start), shares[k]
        mean, inverse, scale, offset = saved[k, 0], saved[k, 1], saved[k, 2], saved[k, 3]
        for j in range(width):
            mean[j] = 0
            inverse[j] = 0
        for i in range(start, stop):
            for j in range(width):
                mean[j] += sums[i, j]
        for j in range(width):
            mean[j] /= rows
        for i in range(start, stop):
            for j in range(width):
                inverse[j] += (sums[i, j] - mean[j]) ** 2
        for j in range(width):
            running[0, j] += share * (mean[j] + bias[j])
            running[1, j] += share * (inverse[j] / (rows - np.float32(1)))
        for j in range(width):
            inverse[j] = np.float32(1) / sqrt(inverse[j] / rows + eps)
            scale[j] = inverse[j] * gain[j]
            offset[j] = shift[j] - mean[j] * scale[j]
        for i in range(start, stop):
            for j in range(width):
                output = sums[i, j] * scale[j] + offset[j]
                outputs[i, j] = np.float32(0) if output < 0 else output


@compiled
def errors_of(logits: Floats, bias: Floats, labels: Indices, errors: Floats) -> float:
    """Compute the errors of cross entropy summed over samples, by the logits without their bias; return the
    loss.

    Scores are float32 [rows, classes], labels int64 [rows].
    """
    loss = 0.0
    for i in range(len(logits)):
        most = np.float32(-np.inf)
        for j in range(len(bias)):
            errors[i, j] = logits[i, j] + bias[j]
            most = max(most, errors[i, j])
        right = errors[i, labels[i]] - most
        total = np.float32(0)
        for j in range(len(bias)):
            errors[i, j] = exp(errors[i, j] - most)
            total += errors[i, j]
        for j in range(len(bias)):
            errors[i, j] /= total
        errors[i, labels[i]] -= np.float32(1)
        loss += log(total) - right
    return loss


@compiled
def back_normalised(
    errors: Floats,
    edges: Indices,
    outputs: Floats,
    sums: Floats,
    saved: Floats,
    vectors: Floats,
    moved: Floats,
    totals: Floats,
    rate: np.float32,
    share: np.float32,
) -> None:
    """Turn the errors of `normalise`'s outputs, in place, into those of its sums, and add the steps of gain
    and shift to `moved`. That is like `vectors`, or is them if there is one mini-batch.

    `totals`, like `vectors`, takes |gradient| times `share`, unless it has no rows; that of the bias, which
    never moves, is rounding. They are float32 [rows, targets].
    """
    width = errors.shape[1]
    for k in range(len(edges) - 1):
        start, stop = edges[k], edges[k + 1]
        rows = np.float32(stop - start)
        mean, inverse, scale, offset = saved[k, 0], saved[k, 1], saved[k, 2], saved[k, 3]
        by_gain, by_shift = saved[k, 4], offset
        for j in range(width):
            by_gain[j] = 0
            by_shift[j] = 0
        for i in range(start, stop):
            for j in range(width):
                errors[i, j] = errors[i, j] if outputs[i, j] > 0 else np.float32(0)
            for j in range(width):
                by_shift[j] += errors[i, j]
            for j in range(width):
                by_gain[j] += errors[i, j] * (sums[i, j] - mean[j])
        for j in range(width):
            by_gain[j] *= inverse[j]
        if len(totals):
            for j in range(width):
                totals[GAIN, j] += share * abs(by_gain[j])
                totals[SHIFT, j] += share * abs(by_shift[j])
        for j in range(width):
            scale[j] = vectors[GAIN, j] * inverse[j]
            moved[GAIN, j] += rate * by_gain[j]
            moved[SHIFT, j] += rate * by_shift[j]
        slope = by_gain
        for j in range(width):
            slope[j] = -scale[j] * inverse[j] * by_gain[j] / rows
            offset[j] = -scale[j] * by_shift[j] / rows - slope[j] * mean[j]
        for i in range(start, stop):
            for j in range(width):
                errors[i, j] = errors[i, j] * scale[j] + offset[j]
            for j in range(width):
                errors[i, j] += sums[i, j] * slope[j]
        if len(totals):
            for j in range(width):
                scale[j] = 0
            for i in range(start, stop):
                for j in range(width):
                    scale[j] += errors[i, j]
            for j in range(width):
                totals[BIAS, j] += share * abs(scale[j])


@compiled
def back_rectified(errors: Floats, outputs: Floats) -> None:
    """Turn the errors of `rectify`'s outputs into those of its sums, in place.

    They are float32 [rows, targets].
    """
    for i in range(len(errors)):
        for j in range(errors.shape[1]):
            errors[i, j] = errors[i, j] if outputs[i, j] > 0 else np.float32(0)


@compiled
def move_bias(errors: Floats, vectors: Floats, totals: Floats, rate: np.float32, share: np.float32) -> None:
    """Step a bias, and add its |gradient| to `totals`, unless that has no rows.

    Errors are float32 [rows, targets].
    """
    for j in range(errors.shape[1]):
        gradient = np.float32(0)
        for i in range(len(errors)):
            gradient += errors[i, j]
        vectors[BIAS, j] += rate * gradient
        if len(totals):
            totals[BIAS, j] += share * abs(gradient)


@compiled
def move(floats: Floats, by: Floats, totals: Floats, rate: np.float32, share: np.float32) -> None:
    """Add rate * by to floats, and share * |by| to totals unless that is empty; all are vectors.

    Each is float32 [n].
    """
    if len(totals):
        for i in range(len(floats)):
            floats[i] += rate * by[i]
            totals[i] += share * abs(by[i])
    else:
        for i in range(len(floats)):
            floats[i] += rate * by[i]


@compiled
def add_weighed(total: NDArray[np.float64], floats: Floats, weight: float) -> None:
    """Add weight * floats to a total, float64 [n]."""
    for i in range(len(total)):
        total[i] += weight * floats[i]
