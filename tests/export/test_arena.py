"""Values lie beside what is alive with them, on whole cache lines, in the memory that was used last."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from crowdlearn_export.compiler.arena import LINE, places
from crowdlearn_export.compiler.compile import compile_program
from crowdlearn_export.compiler.method import Method
from executorch.exir._serialize._program import deserialize_pte_binary
from executorch.exir.schema import Tensor
from torch.nn.functional import conv2d

BEFORE = 16
"""Bytes that glibc writes to a page before a large block."""


@pytest.mark.parametrize("seed", range(5))
def test_values_that_are_alive_together_do_not_overlap(seed: int) -> None:
    random = np.random.default_rng(seed)
    made = random.integers(0, 100, 200)
    read = made + random.integers(0, 30, 200)
    values = [
        (int(size), int(first), int(last))
        for size, first, last in zip(random.integers(0, 5000, 200), made, read, strict=True)
    ]
    offsets, total = places(values)
    lain = [(at, at + size, first, last) for at, (size, first, last) in zip(offsets, values, strict=True)]
    for (begin, end, first, last), (other, until, made_then, read_then) in combinations(lain, 2):
        assert end <= other or until <= begin or last < made_then or read_then < first
    assert all(at % LINE == 0 for at in offsets)
    alive = [sum(size for size, first, last in values if first <= moment <= last) for moment in range(130)]
    assert max(alive) <= max(end for _, end, *_ in lain) <= total < 1.5 * max(alive)


def test_memory_that_was_used_last_is_taken_again() -> None:
    used = [(100, 0, last) for last in (2, 9, 4, 9, 3, 9)]
    offsets, total = places([*used, (90, 5, 6), (90, 7, 8)])
    assert offsets[6] == offsets[7] == offsets[2]
    assert total == 6 * 128


def test_nothing_takes_no_memory() -> None:
    assert places([]) == ([], 0)


def test_tensors_of_a_program_begin_with_a_line() -> None:
    images, kernel = torch.randn(3, 4, 9, 9), torch.randn(5, 4, 3, 3)
    method = Method(
        "map", lambda x, w: (torch.relu(conv2d(x, w, padding=1)).sum((2, 3)),), (images, kernel), (0,)
    )
    plan = deserialize_pte_binary(compile_program([method], max_batch=6).pte).program.execution_plan[0]
    tensors = [value.val for value in plan.values if isinstance(value.val, Tensor)]
    places_of = [tensor.allocation_info.memory_offset_low for tensor in tensors if tensor.allocation_info]
    assert len(places_of) > 5
    assert all((BEFORE + offset) % LINE == 0 for offset in places_of)
    assert (BEFORE + plan.non_const_buffer_sizes[1]) % LINE == 0
