"""Sizes of tensors of a graph at a batch: the symbol that stands for it takes that number."""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import Any

import torch

WORTHWHILE = 100_000
"""Multiplications in a method's matrix products, at the largest batch, from which XNNPACK pays for its
calls.
"""


def dimension(size: int | torch.SymInt, batch: int) -> int:
    """Return a size at this batch."""
    return size if isinstance(size, int) else _at(size.node.expr, batch)


def elements(value: torch.Tensor, batch: int) -> int:
    """Return how many numbers a tensor of shape [...] has at this batch."""
    return prod(dimension(size, batch) for size in value.shape)


def bytes_of(node: Any, batch: int) -> int:
    """Return the bytes of a node's tensor at this batch; 0 for what is none."""
    value = node.meta.get("val")
    return value.element_size() * elements(value, batch) if isinstance(value, torch.Tensor) else 0


@lru_cache(maxsize=4096)
def _at(expression: Any, batch: int) -> int:
    return int(expression.subs(dict.fromkeys(expression.free_symbols, batch)))
