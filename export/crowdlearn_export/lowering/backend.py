"""What goes to XNNPACK and what stays with ExecuTorch's own kernels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from math import inf, prod
from typing import Any

import torch
from crowdlearn_device.program.manifest import Backend
from executorch.backends.xnnpack import xnnpack_preprocess
from executorch.backends.xnnpack.partition.config import generic_node_configs as generic
from executorch.backends.xnnpack.partition.config.gemm_configs import AddmmConfig, LinearConfig, MMConfig
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import EdgeProgramManager
from torch.fx import GraphModule, Node
from torch.fx.passes.infra.partitioner import Partition

from crowdlearn_export.lowering.passes.mean import MEAN, MeanConfig, RowMean, sums_in_stages
from crowdlearn_export.lowering.passes.order import apart
from crowdlearn_export.lowering.passes.simplify import turn_large_weights, widen_late

from .shortcuts import replaced
from .sizes import WORTHWHILE, bytes_of, dimension, elements
from .xnnpack_parts import many_parts

aten = torch.ops.aten

PRODUCTS = [AddmmConfig, LinearConfig, MMConfig, generic.BMMConfig]
ELEMENTWISE = [
    generic.AbsConfig,
    generic.AddConfig,
    generic.CatConfig,
    generic.ClampConfig,
    generic.DivConfig,
    generic.ExpConfig,
    generic.GeluConfig,
    generic.HardtanhConfig,
    generic.LogConfig,
    generic.MaximumConfig,
    MeanConfig,
    generic.MinimumConfig,
    generic.MulConfig,
    generic.NegConfig,
    generic.PermuteConfig,
    generic.ReLUConfig,
    generic.SigmoidConfig,
    generic.SoftmaxConfig,
    generic.SubConfig,
    generic.TanhConfig,
]

LARGE = 4096
"""Elements of an elementwise result, at the largest batch, from which XNNPACK pays for its call."""

DEAR = (
    generic.ExpConfig,
    generic.GeluConfig,
    generic.LogConfig,
    generic.PermuteConfig,
    generic.SigmoidConfig,
    generic.SoftmaxConfig,
    generic.TanhConfig,
)
"""Operations of which ExecuTorch's own kernels take 6 to 10 nanoseconds for each element; of the others, less
than half of one.
"""
LARGE_OF_DEAR = 2048
"""Elements of their results, at the largest batch, from which XNNPACK pays for its call."""

LARGE_SUM = 32768
"""Numbers to be added, at the largest batch, from which XNNPACK pays for a multiplication by their count."""

APART = 1 << 20
"""Bytes that a group of operations must free to be a part of its own, which costs a call more."""


def choose_backend(module: GraphModule, batch: int) -> Backend:
    """Choose XNNPACK for a lowered method with matrix products of some size at this batch, else ExecuTorch's
    own kernels.
    """
    return "xnnpack" if multiplications(module, batch) >= WORTHWHILE else "portable"


def multiplications(module: GraphModule, batch: int) -> int:
    """Count those in the matrix products of a lowered method at this batch."""
    return sum(map(prod, products(module, batch)))


def products(module: GraphModule, batch: int) -> list[tuple[int, int, int]]:
    """Return the matrix products of a lowered method at this batch: rows, inner size, columns."""
    found = []
    for node in module.graph.nodes:
        if node.target in (aten.mm.default, aten.addmm.default, aten.bmm.default):
            left, right = _shapes(node.args[-2:], batch)
            found.append((prod(left[:-1]), left[-1], right[-1]))
        elif node.target is aten.linear.default:
            left, right = _shapes(node.args[:2], batch)
            found.append((prod(left[:-1]), left[-1], right[0]))
    return found


def _shapes(operands: Sequence[Node], batch: int) -> Iterator[list[int]]:
    for operand in operands:
        yield [dimension(size, batch) for size in operand.meta["val"].shape]


def prepare(module: GraphModule, backend: Backend, batch: int) -> GraphModule:
    """Return a lowered method in the form that its backend computes fastest at this batch."""
    staged = sums_in_stages(module, LARGE_SUM if backend == "xnnpack" else inf, batch)
    return widen_late(turn_large_weights(staged, batch))


def delegate(edge: EdgeProgramManager, backends: Mapping[str, Backend], max_batch: int) -> EdgeProgramManager:
    """Return `edge` with the methods whose backend is XNNPACK delegated to it: what is large enough at the
    largest batch.
    """
    parts = {name: _Partitioner(max_batch) for name, chosen in backends.items() if chosen == "xnnpack"}
    if not parts:
        return edge
    visitors = xnnpack_preprocess.get_node_visitors

    def with_means(*given: Any) -> dict[str, Any]:
        return {**visitors(*given), MEAN: RowMean(*given)}

    with (
        many_parts(),
        replaced(xnnpack_preprocess, "get_node_visitors", with_means),
    ):
        return edge.to_backend(parts)


class _Partitioner(XnnpackPartitioner):  # type: ignore[misc]
    """Products and large elementwise operations.

    Views are left out, as they cost nothing outside of a delegate and a copy inside; so are convolutions
    and poolings, which want weights that never change.
    """

    def __init__(self, max_batch: int) -> None:
        self._size = partial(bytes_of, batch=max_batch)
        configs = [*PRODUCTS, *(_only_large(config, max_batch) for config in ELEMENTWISE)]
        super().__init__(configs=configs, force_non_static_weights_for_f32_linear=True)

    def generate_partitions(self, program: torch.export.ExportedProgram) -> list[Partition]:
        found = super().generate_partitions(program)
        parts = [part for whole in found for part in apart(list(whole.nodes), self._size, APART)]
        return [Partition(id=i, nodes=part) for i, part in enumerate(parts)]

    def _check_if_called_from_to_backend(self) -> bool:
        return False  # it would warn of a use that is meant here: the graph is decomposed already


def _only_large(config: Any, batch: int) -> Any:
    """Return the same partitioner configuration, for nodes that make or read enough at this batch to be worth
    a call.
    """
    least = LARGE_OF_DEAR if config in DEAR else LARGE

    class OnlyLarge(config):  # type: ignore[misc]
        def check_constraints(self, node: torch.fx.Node, program: torch.export.ExportedProgram) -> bool:
            size = max(elements(n.meta["val"], batch) for n in (node, *node.all_input_nodes))
            return size >= least and super().check_constraints(node, program)

    return OnlyLarge
