"""Sums inside XNNPACK: right at every batch, and no longer the portable kernel's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from crowdlearn_device.program.executor import ExecuTorchExecutor
from crowdlearn_export.compiler.compile import Method, compile_program
from crowdlearn_export.lowering import lower
from crowdlearn_export.lowering.backend import LARGE_SUM
from crowdlearn_export.lowering.passes.mean import sums_as_means
from reference import BOUND

aten = torch.ops.aten

SUMS = {
    "rows of a batch": (lambda x: x.reshape(-1, 24).sum(0), (8, 256, 24)),
    "rows of each sample": (lambda x: x.sum(1), (8, 256, 24)),
    "all of a channel": (lambda x: torch.tanh(x).permute(1, 0, 2).sum([1, 2]), (8, 12, 512)),
    "all of a channel by itself": (lambda x: x.permute(1, 0, 2).reshape(12, -1).sum(1), (8, 12, 512)),
    "numbers of each sample": (lambda x: x.sum([1, 2]), (8, 96, 64)),
}


@pytest.mark.parametrize("name", SUMS)
def test_sums_are_right_at_every_batch_and_on_repeated_calls(name):
    function, shape = SUMS[name]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)) + 0.5
    assert x.numel() >= LARGE_SUM
    method = Method("sum", lambda x: (function(x),), (x,), (0,))
    executor = ExecuTorchExecutor(compile_program([method], max_batch=8, backend="xnnpack").pte)
    for batch in (8, 1, 5):
        for _ in range(2):
            (found,) = executor.run("sum", [np.ascontiguousarray(x[:batch].numpy())])
            exact = function(x[:batch].double())
            assert float((torch.from_numpy(found) - exact).abs().max()) <= BOUND * float(exact.abs().max())


def test_only_large_sums_become_means():
    x = torch.randn(8, 64, 4)
    module = lower(lambda x: x.reshape(-1, 4).sum(0), (x,), (0,))

    def targets(module):
        return {node.target for node in module.graph.nodes}

    small, large = sums_as_means(module, x.numel() + 1), sums_as_means(module, x.numel())
    assert aten.sum.dim_IntList in targets(small)
    assert aten.mean.dim not in targets(small)
    # Four numbers side by side are too few.
    assert targets(large) == targets(small)
    wide = lower(lambda x: x.reshape(-1, 8).sum(0), (x,), (0,))
    assert aten.sum.dim_IntList not in targets(sums_as_means(wide, x.numel()))
    assert aten.sum.dim_IntList in targets(wide)
