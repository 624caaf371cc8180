"""Loops over the rare columns of inputs that are taken apart, compiled as kernels.py tells."""

from __future__ import annotations

import numpy as np
from crowdlearn_device.protocol.frames import Floats

from .kernels import compiled
from .sparse_inputs import Columns, Indices, Places, SparseInputs


def apart(columns: Columns, inputs: Floats) -> SparseInputs:
    """Return samples [N, sources] taken apart by these columns."""
    if columns.all_common:
        nothing = np.zeros(0, np.int32), np.zeros(0, np.float32)
        return SparseInputs(inputs, np.zeros(len(inputs) + 1, np.int64), *nothing)
    starts = np.empty(len(inputs) + 1, np.int64)
    order, count = columns.order, columns.count
    list_rare(inputs, order, count, starts, np.empty(0, np.int32), np.empty(0, np.float32))
    listed = np.empty(starts[-1], np.int32), np.empty(starts[-1], np.float32)
    if starts[-1]:
        list_rare(inputs, order, count, starts, *listed)
    return SparseInputs(np.take(inputs, order[:count], axis=1), starts, *listed)


@compiled
def list_rare(
    inputs: Floats, order: Indices, count: int, starts: Indices, columns: Places, values: Floats
) -> None:
    """Write what is not zero in the columns order[count:] of inputs, float32 [N, sources], row by row: of row
    i from starts[i] to starts[i + 1], its place in `order` and its value.

    Where `columns` and `values` are empty, it writes `starts` alone, int64 [N + 1].
    """
    counted = len(columns) == 0
    starts[0] = 0
    for i in range(len(inputs)):
        k = starts[i]
        for place in range(count, len(order)):
            value = inputs[i, order[place]]
            if value != 0:
                if not counted:
                    columns[k], values[k] = place, value
                k += 1
        starts[i + 1] = k


@compiled
def add_rows(total: Floats, rows: Floats, at: Places, factors: Floats, start: int, stop: int) -> None:
    """Add to a vector the rows `at` [start, stop), each times its factor: four at a time, so that the vector
    is read and written once for them.

    Rows are float32 [n, width].
    """
    k = start
    while k + 4 <= stop:
        a, b, c, d = factors[k], factors[k + 1], factors[k + 2], factors[k + 3]
        at_a, at_b, at_c, at_d = at[k], at[k + 1], at[k + 2], at[k + 3]
        for j in range(len(total)):
            total[j] += a * rows[at_a, j] + b * rows[at_b, j] + c * rows[at_c, j] + d * rows[at_d, j]
        k += 4
    while k < stop:
        factor, one = factors[k], at[k]
        for j in range(len(total)):
            total[j] += factor * rows[one, j]
        k += 1


@compiled
def add_rare(
    sums: Floats, weight: Floats, rows: Indices, starts: Indices, columns: Places, values: Floats
) -> None:
    """Add to sums [len(rows), targets] those of the rare columns of these rows of SparseInputs."""
    for i in range(len(rows)):
        add_rows(sums[i], weight, columns, values, starts[rows[i]], starts[rows[i] + 1])


@compiled
def move_rare(
    weight: Floats,
    totals: Floats,
    errors: Floats,
    rows: Indices,
    starts: Indices,
    columns: Places,
    values: Floats,
    rate: np.float32,
    share: np.float32,
) -> None:
    """Step the weights of rare columns, as `move` does, by the errors of these rows of SparseInputs.

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
    at, value = np.empty(first[sources], np.int32), np.empty(first[sources], np.float32)
    place = first.copy()
    for i in range(len(rows)):
        for k in range(starts[rows[i]], starts[rows[i] + 1]):
            to = place[columns[k]]
            at[to], value[to] = i, values[k]
            place[columns[k]] = to + 1
    if not totals.shape[1]:
        for k in range(len(value)):
            value[k] *= rate
        for column in range(sources):
            add_rows(weight[column], errors, at, value, first[column], first[column + 1])
        return
    gradient = np.empty(targets, np.float32)
    for column in range(sources):
        if first[column] == first[column + 1]:
            continue
        for j in range(targets):
            gradient[j] = 0
        add_rows(gradient, errors, at, value, first[column], first[column + 1])
        for j in range(targets):
            weight[column, j] += rate * gradient[j]
            totals[column, j] += share * abs(gradient[j])
