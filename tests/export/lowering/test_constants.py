"""What depends on constants alone is computed once, and the results stay the same."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from crowdlearn_export.lowering.lower import lower
from crowdlearn_export.lowering.rules.loss import SMALL, one_hot
from torch import Tensor

aten = torch.ops.aten
X = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))


def causal(x: Tensor) -> Tensor:
    return x[:, None] + torch.full((5, 5), -1e9).triu(1)


def identity(x: Tensor) -> Tensor:
    return x @ torch.eye(5)


def of_nothing_but_constants(x: Tensor) -> tuple[Tensor, Tensor]:
    return x * 2, torch.arange(5) * 3


def too_large(x: Tensor) -> Tensor:
    return x.sum() + torch.arange(200_000) * 2.0


@pytest.mark.parametrize("function", [causal, identity, of_nothing_but_constants])
def test_small_expressions_of_constants_are_held(function: Callable[[Tensor], Tensor]) -> None:
    module = lower(function, [X], [0])
    called = {node.target for node in module.graph.nodes if node.op == "call_function"}
    assert not called & {
        aten.arange.default,
        aten.arange.start_step,
        aten.eq.Tensor,
        aten.where.self,
        aten.le.Tensor,
    }
    torch.testing.assert_close(module(X), function(X))
    more = torch.cat([X, X])
    torch.testing.assert_close(module(more), function(more))


def test_large_ones_are_computed() -> None:
    module = lower(too_large, [X], [0])
    assert not any(node.op == "get_attr" for node in module.graph.nodes)
    torch.testing.assert_close(module(X), too_large(X))


@pytest.mark.parametrize("size", [1, 7, SMALL, SMALL + 1])
def test_one_hot_rows_are_zeros_for_indices_outside(size: int) -> None:
    index = torch.tensor([0, size - 1, -1, -100, size, 2 * size])
    due = torch.zeros(6, size)
    due[0, 0] = due[1, size - 1] = 1
    assert torch.equal(one_hot(index, size), due)
    assert torch.equal(lower(lambda x: one_hot(x, size), [index], [0])(index), due)
