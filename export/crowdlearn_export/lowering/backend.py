"""What goes to XNNPACK and what stays with ExecuTorch's own kernels."""

from __future__ import annotations

from math import prod
from typing import Literal

import torch
from executorch.backends.xnnpack.partition.config import generic_node_configs as generic
from executorch.backends.xnnpack.partition.config.gemm_configs import AddmmConfig, LinearConfig, MMConfig
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from torch.fx import GraphModule

aten = torch.ops.aten

Backend = Literal["portable", "xnnpack"]
WORTHWHILE = 100_000
"""Multiplications in a method's matrix products, for the example batch, from which XNNPACK pays for its
calls.
"""


def choose_backend(module: GraphModule) -> Backend:
    """XNNPACK for a lowered method with matrix products of some size, else ExecuTorch's own kernels."""
    return "xnnpack" if products(module) >= WORTHWHILE else "portable"


def products(module: GraphModule) -> int:
    """Multiplications in the matrix products of a lowered method, for the example batch."""
    total = 0
    for node in module.graph.nodes:
        if node.target in (aten.mm.default, aten.addmm.default, aten.bmm.default):
            left, right = node.args[-2:]
            total += prod(map(_size, left.meta["val"].shape)) * _size(right.meta["val"].shape[-1])
        elif node.target is aten.linear.default:
            left, right = node.args[:2]
            total += prod(map(_size, left.meta["val"].shape)) * _size(right.meta["val"].shape[0])
    return total


def _size(size: int | torch.SymInt) -> int:
    return size if isinstance(size, int) else int(size.node.hint)


def partitioners(backend: Backend) -> list[XnnpackPartitioner]:
    """The partitioners of `backend`.

    Views are left out, as they cost nothing outside of a delegate and a copy inside; so are convolutions
    and poolings, which want weights that never change.
    """
    if backend == "portable":
        return []
    configs = [
        AddmmConfig,
        LinearConfig,
        MMConfig,
        generic.BMMConfig,
        generic.AbsConfig,
        generic.AddConfig,
        generic.CatConfig,
        generic.ClampConfig,
        generic.DivConfig,
        generic.ExpConfig,
        generic.HardtanhConfig,
        generic.LogConfig,
        generic.MaximumConfig,
        generic.MinimumConfig,
        generic.MulConfig,
        generic.NegConfig,
        generic.PermuteConfig,
        generic.ReLUConfig,
        generic.ReciprocalSquareRootConfig,
        generic.SigmoidConfig,
        generic.SquareRootConfig,
        generic.SubConfig,
        generic.TanhConfig,
    ]
    return [XnnpackPartitioner(configs=configs, force_non_static_weights_for_f32_linear=True)]
