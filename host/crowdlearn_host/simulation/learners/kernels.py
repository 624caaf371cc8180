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

from .sparse_inputs import Indices

Loop = TypeVar("Loop", bound=Callable[..., Any])

BIAS, GAIN, SHIFT, MEAN, VARIANCE = range(5)
SAVED = 5
"""Rows that `normalise` keeps for `back_normalised`: mean, inverse of the deviation, and room for three."""
INEXACT = {"reassoc", "contract", "arcp", "nsz"}
"""Sums may be added in any order; what is not finite stays so, and training that diverges is told."""


def compiled(loop: Loop) -> Loop:
    try:
        return cast(Loop, numba.njit(loop, cache=True, fastmath=INEXACT, error_model="numpy"))
    except RuntimeError:  # there is no folder in which compiled code could be kept
        return cast(Loop, numba.njit(loop, fastmath=INEXACT, error_model="numpy"))


@compiled
def add_rare(
    sums: Floats, weight: Floats, rows: Indices, starts: Indices, columns: Indices, values: Floats
) -> None:
    """Add to sums [len(rows), targets] those of the rare columns of these rows of Samples."""
    for i in range(len(rows)):
        for k in range(starts[rows[i]], starts[rows[i] + 1]):
            value, column = values[k], columns[k]
            for j in range(weight.shape[1]):
                sums[i, j] += value * weight[column, j]


@compiled
def move_rare(
    weight: Floats,
    totals: Floats,
    errors: Floats,
    rows: Indices,
    starts: Indices,
    columns: Indices,
    values: Floats,
    rate: np.float32,
    share: np.float32,
) -> None:
    """Step the weights of rare columns, as `move` does, by the errors of these rows of Samples.

    Columns that are zero in all of them stay as they are. `totals` has as many columns as `weight`, or none.
    Weights are float32 [sources, targets].
    """
    sources, targets = weight.shape
    first = np.zeros(sources + 1, np.int64)  # what is not zero, column by column: where each begins
    for row in rows:
        for k in range(starts[row], starts[row + 1]):
            first[columns[k] + 1] += 1
    for column in range(sources):
        first[column + 1] += first[column]
    at, value = np.empty(first[sources], np.int64), np.empty(first[sources], np.float32)
    place = first.copy()
    for i in range(len(rows)):
        for k in range(starts[rows[i]], starts[rows[i] + 1]):
            to = place[columns[k]]
            at[to], value[to] = i, values[k]
            place[columns[k]] += 1
    gradient = np.empty(targets, np.float32)
    for column in range(sources):
        if first[column] == first[column + 1]:
            continue
        for j in range(targets):
            gradient[j] = 0
        for k in range(first[column], first[column + 1]):
            factor, error = value[k], errors[at[k]]
            for j in range(targets):
                gradient[j] += factor * error[j]
        for j in range(targets):
            weight[column, j] += rate * gradient[j]
        if totals.shape[1]:
            for j in range(targets):
                totals[column, j] += share * abs(gradient[j])


@compiled
def rectify(sums: Floats, bias: Floats, outputs: Floats) -> None:
    """Apply ReLU to sums without their bias; `outputs` may be `sums`. Both are float32 [rows, targets]."""
    for i in range(len(sums)):
        for j in range(len(bias)):
            total = sums[i, j] + bias[j]
            outputs[i, j] = np.float32(0) if total < 0 else total


@compiled
def normalise(
    sums: Floats, vectors: Floats, momentum: np.float32, eps: np.float32, saved: Floats, outputs: Floats
) -> None:
    """Batch norm and ReLU of sums without their bias; moves the running statistics, which have it.

    Sums are float32 [rows, targets].
    """
    rows, width = sums.shape
    mean, inverse, scale, offset = saved[0], saved[1], saved[2], saved[3]
    bias, gain, shift = vectors[BIAS], vectors[GAIN], vectors[SHIFT]
    running_mean, running_variance = vectors[MEAN], vectors[VARIANCE]
    for j in range(width):
        mean[j] = 0
        inverse[j] = 0
    for i in range(rows):
        for j in range(width):
            mean[j] += sums[i, j]
    for j in range(width):
        mean[j] /= np.float32(rows)
    for i in range(rows):
        for j in range(width):
            inverse[j] += (sums[i, j] - mean[j]) ** 2
    for j in range(width):
        running_mean[j] += momentum * (mean[j] + bias[j] - running_mean[j])
        running_variance[j] += momentum * (inverse[j] / np.float32(rows - 1) - running_variance[j])
    for j in range(width):
        inverse[j] = np.float32(1) / sqrt(inverse[j] / np.float32(rows) + eps)
        scale[j] = inverse[j] * gain[j]
        offset[j] = shift[j] - mean[j] * scale[j]
    for i in range(rows):
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
    outputs: Floats,
    sums: Floats,
    saved: Floats,
    vectors: Floats,
    totals: Floats,
    rate: np.float32,
    share: np.float32,
) -> None:
    """Turn the errors of `normalise`'s outputs, in place, into those of its sums, and move gain and shift.

    `totals`, like `vectors`, takes |gradient| times `share`, unless it has no rows; that of the bias, which
    never moves, is rounding. They are float32 [rows, targets].
    """
    rows, width = errors.shape
    mean, inverse, scale, offset, by_gain = saved[0], saved[1], saved[2], saved[3], saved[4]
    gain, shift = vectors[GAIN], vectors[SHIFT]
    by_shift = offset
    for j in range(width):
        by_gain[j] = 0
        by_shift[j] = 0
    for i in range(rows):
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
        scale[j] = gain[j] * inverse[j]
        gain[j] += rate * by_gain[j]
        shift[j] += rate * by_shift[j]
    slope = by_gain
    for j in range(width):
        slope[j] = -scale[j] * inverse[j] * by_gain[j] / np.float32(rows)
        offset[j] = -scale[j] * by_shift[j] / np.float32(rows) - slope[j] * mean[j]
    for i in range(rows):
        for j in range(width):
            errors[i, j] = errors[i, j] * scale[j] + offset[j]
        for j in range(width):
            errors[i, j] += sums[i, j] * slope[j]
    if len(totals):
        for j in range(width):
            scale[j] = 0
        for i in range(rows):
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
